using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Espalier.Catalogue;
using Espalier.Checkpoints;
using Espalier.Evaluation;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Reporting;
using Espalier.Runtime;
using Espalier.Training;
using Espalier.Training.Jobs;

namespace Espalier.Methods.Pruning;

/// <summary>
/// Is oracle pruning the true oracle? (Feng, Tao, Wang 2024): removes units in every way or in sampled ways, measures the training loss right
/// after, retrains each, and says whether that loss, or any other score of a choice, told how it would end.
/// </summary>
/// <remarks>The order of images is the same for all choices and differs between repeats, so that chance does not hide a correlation.</remarks>
[Method("oracle", "Is Oracle Pruning the True Oracle?", Family = "Pruning", Source = "arXiv 2412.00143",
    Summary = "Removes channels in every way, or sampled ways, and tells whether the loss right after pruning, or another score, predicts quality after retraining.",
    Fits = "vision nets: `espalier train --method oracle`; channels, heads and neurons; any retraining")]
public sealed partial record Oracle : IVisionMethod
{
    private const string Slug = "oracle";

    /// <summary>The groups that lose units, by the layer that comes first; null takes the first group.</summary>
    public IReadOnlyList<string>? Layers { get; init; }

    /// <summary>The share that each loses, rounded down. Default 0.5.</summary>
    public double Ratio { get; init => field = OptionCheck.Checked(value, value is > 0 and < 1, Slug, "ratio", "between 0 and 1"); } = 0.5;

    /// <summary>Choices by chance; 0 (default) takes all.</summary>
    public int Samples { get; init => field = OptionCheck.Checked(value, value is 0 or >= 3, Slug, "number of samples", "0 for all, or at least 3"); }

    /// <summary>The most choices that are all taken. Default 1000.</summary>
    public int Limit { get; init => field = OptionCheck.Checked(value, value >= 3, Slug, "limit", "at least 3"); } = 1000;

    /// <summary>Retrainings of each choice. Default 3.</summary>
    public int Repeats { get; init => field = OptionCheck.Checked(value, value >= 1, Slug, "number of repeats", "at least 1"); } = 3;

    /// <inheritdoc/>
    public bool UsesCrew => true;

    /// <inheritdoc/>
    public void Check(VisionModel model, TrainingOptions options)
    {
        options.Validate();
        EspalierException.Require(Choices(model, new Seed(0)).Choices.Count >= 3, "Fewer than three ways to remove these units cannot be correlated; take other layers or another ratio.");
    }

    /// <summary>The choices that are tried.</summary>
    public UnitCombinations Choices(VisionModel model, Seed seed)
    {
        (int, double)[] layers = [.. GroupsOf(model).Select(g => (g.Count, Ratio))];
        return Samples == 0 ? UnitCombinations.All(layers, Limit) : UnitCombinations.Sample(layers, Samples, seed);
    }

    /// <summary>Removes, measures and retrains every choice; what was measured before under the same configuration is read from the folder.</summary>
    /// <param name="context">Net, images and training; <see cref="VisionMethodContext.Test"/> is needed.</param>
    /// <param name="cancellation">Ends the work early; finished runs are kept.</param>
    /// <returns>Each choice times each repeat; the score is the mean training loss right after pruning.</returns>
    public IReadOnlyList<OracleRun> Measure(VisionMethodContext context, CancellationToken cancellation = default)
    {
        EspalierException.Require(context.Test is not null, "The oracle study compares with quality on other images; name some with --eval-data.");
        UnitCombinations choices = Choices(context.Model, context.Seed);
        string? path = context.Folder is null ? null : Path.Combine(context.Folder, $"oracle-{Hash(context)}.json");
        List<OracleRun> runs = path is not null && File.Exists(path) ? JsonSerializer.Deserialize<List<OracleRun>>(File.ReadAllText(path)) ?? [] : [];
        int known = runs.Count;
        using IProgressTask task = context.Progress.Begin("retraining choices", (long)choices.Choices.Count * Repeats, "run");
        task.Advance(known);
        double[] scores = [.. runs.Take(choices.Choices.Count).Select(r => r.Score), .. Enumerable.Repeat(double.NaN, Math.Max(0, choices.Choices.Count - known))];
        IEnumerable<TrainingJob> jobs = Enumerable.Range(known, (choices.Choices.Count * Repeats) - known).Select(i =>
        {
            (int repeat, int choice) = (i / choices.Choices.Count, i % choices.Choices.Count);
            VisionModel net = Remove(context.Model, choices.Choices[choice]);
            scores[choice] = repeat == 0 ? ImageAccuracy.Evaluate(net, context.Images, cancellation: cancellation).Loss : scores[choice];
            return Retraining(net, context, repeat);
        });
        foreach (VisionModel retrained in Alone(context).TrainAll(jobs, cancellation))
        {
            using VisionModel net = retrained;
            int choice = runs.Count % choices.Choices.Count;
            ImageAccuracyResult end = ImageAccuracy.Evaluate(net, context.Test, cancellation: cancellation);
            runs.Add(new OracleRun(choice, scores[choice], end.Loss, end.Top1));
            if (path is not null)
            {
                AtomicFile.WriteText(path, JsonSerializer.Serialize(runs));
            }

            task.Advance();
        }

        return runs;
    }

    /// <summary>The same runs under another score of a choice, less being better: any criterion can be examined without retraining anew.</summary>
    /// <param name="runs">What <see cref="Measure"/> gave.</param>
    /// <param name="score">The score of a choice by its number.</param>
    public static OracleVerdict Judge(IEnumerable<OracleRun> runs, Func<long, double> score) => OracleVerdict.Of(runs.Select(r => r with { Score = score(r.Combination) }));

    /// <summary>The L1 score of a choice: the mean |w| of each removed filter, summed; NaN where a group's units are no filters (heads).</summary>
    /// <param name="model">The dense net.</param>
    /// <param name="choice">The units, layer after layer.</param>
    public double NormOf(VisionModel model, int[][] choice)
    {
        using var scope = TorchSharp.torch.NewDisposeScope();
        using var frozen = TorchSharp.torch.no_grad();
        return GroupsOf(model).Zip(choice, (group, units) =>
        {
            if (model.Weights.FirstOrDefault(w => w.Name == group.Owner && w.Rows == group.Count) is not { } layer)
            {
                return double.NaN;
            }

            float[] norms = layer.Matrix.abs().mean([1L]).cpu().data<float>().ToArray();
            return units.Sum(u => (double)norms[u]);
        }).Sum();
    }

    /// <inheritdoc/>
    public VisionMethodResult Run(VisionMethodContext context, CancellationToken cancellation = default)
    {
        Check(context.Model, context.Options);
        UnitCombinations choices = Choices(context.Model, context.Seed);
        IReadOnlyList<OracleRun> runs = Measure(context, cancellation);
        OracleVerdict verdict = OracleVerdict.Of(runs);
        double[] norms = [.. choices.Choices.Select(c => NormOf(context.Model, c))];
        int byNorm = Array.IndexOf(norms, norms.Min());
        (string, double)[] figures =
        [
            ("combinations", verdict.Means.Count), ("repeats", Repeats),
            ("Kendall's τ of pruned and final loss", verdict.Loss.Tau), ("p", verdict.Loss.P),
            ("Kendall's τ of pruned loss and final accuracy", verdict.Accuracy.Tau), ("p of accuracy", verdict.Accuracy.P),
            ("choices that end with a lower loss than the oracle's, %", 100 * verdict.AnomalyLoss), ("choices that end with a higher accuracy, %", 100 * verdict.AnomalyAccuracy),
            .. byNorm < 0 ? [] : ((string, double)[])[("rank of the L1 choice by final accuracy", 1 + verdict.Means.Count(m => m.FinalAccuracy > verdict.Means[byNorm].FinalAccuracy))],
        ];
        if (double.IsNaN(verdict.Loss.Tau) || double.IsNaN(verdict.Accuracy.Tau))
        {
            context.Progress.Warn("A series of figures does not vary, so its correlation is undefined.");
        }

        Write(context, choices, verdict, figures);
        VisionModel best = Remove(context.Model, choices.Choices[(int)verdict.Best.Combination]);
        return new VisionMethodResult(Alone(context).TrainAll([Retraining(best, context, 0)], cancellation).Single(), new Dictionary<string, Sparsity.SparsityMask>(), figures);
    }

    private VisionModel Remove(VisionModel model, int[][] choice) =>
        model.Cut(GroupsOf(model).Zip(choice).ToDictionary(p => p.First.Owner, p => (IReadOnlyCollection<int>)p.Second));

    private static TrainingJob Retraining(VisionModel net, VisionMethodContext context, int repeat) => context.Job(net, new Seed(context.Seed.For($"retraining {repeat}")));

    // The file of runs is what a stopped study goes on from.
    private static VisionMethodContext Alone(VisionMethodContext context) => context with { Progress = SilentProgress.Instance, States = null };

    private IReadOnlyList<CoupledGroup> GroupsOf(VisionModel model) => Layers is null
        ? [.. model.Groups.Take(1)]
        : [.. Layers.Select(l => model.Groups.FirstOrDefault(g => g.Owner == l)
            ?? throw new EspalierException($"Nothing can be cut at {l}; the groups are {string.Join(", ", model.Groups.Take(6).Select(g => g.Owner))}, …."))];

    private static void Write(VisionMethodContext context, UnitCombinations choices, OracleVerdict verdict, IReadOnlyList<(string Name, double Value)> figures)
    {
        if (context.Folder is not { } folder)
        {
            return;
        }

        IEnumerable<string> lines = verdict.Means.Select(m => string.Create(CultureInfo.InvariantCulture,
            $"{string.Join(' ', choices.Choices[(int)m.Combination].Select(u => string.Join('+', u)))},{m.Score:R},{m.FinalLoss:R},{m.FinalAccuracy:R}"));
        AtomicFile.WriteText(Path.Combine(folder, "oracle.csv"), "removed,pruned_loss,final_loss,final_accuracy\n" + string.Join('\n', lines) + "\n");
        string headline = verdict.ValidForLoss ? "The loss right after pruning tells how a choice ends." : "The loss right after pruning does not tell how a choice ends.";
        new ReportPage("Oracle pruning", headline) { Kicker = "Espalier study" }
            .Section("The verdict", "Kendall's τ above 0.2 with p of at most 0.05 counts as a correlation.", new DataTable(
                [new Column("figure"), new Column("", Numeric: true)], [.. figures.Select(f => (IReadOnlyList<string>)[f.Name, f.Value.ToString("G4", CultureInfo.InvariantCulture)])]))
            .Section("Every choice", "The means over the repeats.", new ScatterChart
            {
                Title = "training loss right after pruning and test loss after retraining",
                XLabel = "training loss right after pruning",
                YLabel = "test loss after retraining",
                Points = [.. verdict.Means.Select(m => new ScatterPoint("", m.Score, m.FinalLoss))],
            })
            .Save(Path.Combine(folder, "oracle.html"));
    }

    /// <summary>What decides the runs, in a few characters.</summary>
    private string Hash(VisionMethodContext context)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        string words = string.Create(CultureInfo.InvariantCulture,
            $"{context.Model.Config.ToJsonText()}{string.Join(',', Layers ?? [])} {Ratio:R} {Samples} {Repeats} {JsonSerializer.Serialize(context.Options)} {context.Batch} {context.Augmentation} {context.Seed} {context.Images.Name} {context.Images.Count} {context.Test?.Name} {context.Test?.Count}");
        hash.AppendData(Encoding.UTF8.GetBytes(words));
        foreach ((_, TorchSharp.torch.Tensor value) in context.Model.Tensors)
        {
            using TorchSharp.torch.Tensor here = value.detach().cpu().contiguous();
            hash.AppendData(here.bytes);
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset())[..12];
    }
}
