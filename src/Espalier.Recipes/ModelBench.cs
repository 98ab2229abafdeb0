using Espalier.Data;
using Espalier.Models;
using Espalier.Pruning.Measuring;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>
/// Where language-model recipes prune and measure: one model, one draw of calibration windows, one set of held-out windows.
/// The pruning is that of <see cref="Pruner"/>.
/// </summary>
public sealed class ModelBench : IDisposable
{
    /// <summary>The arm that is the model as it was; it needs no plan.</summary>
    public const string DenseArm = "dense";

    /// <summary>The metric of every arm: perplexity on the held-out windows.</summary>
    public const string PerplexityMetric = "perplexity";

    /// <summary>ln(perplexity / dense perplexity): what pruning cost, comparable between sparsities.</summary>
    public const string Rise = "rise of log-perplexity";

    private readonly RecipeContext _context;
    private readonly Seed _seed;
    private readonly List<Measurements> _results = [];
    private string? _folder;

    private ModelBench(RecipeContext context, Seed seed, RecipeText text, long[][] calibration)
    {
        (_context, _seed, Text, Calibration) = (context, seed, text, calibration);
        using LanguageModel dense = LanguageModel.Load(text.Folder, context.Device);
        Dense = Perplexity(dense);
        context.Progress.Say(FormattableString.Invariant($"  dense: perplexity {Dense:F2}"));
    }

    /// <summary>The model's folder, tokeniser and texts.</summary>
    public RecipeText Text { get; }

    /// <summary>The calibration windows.</summary>
    public long[][] Calibration { get; }

    /// <summary>The dense model's perplexity.</summary>
    public double Dense { get; }

    /// <summary>Finds model and texts, draws the calibration windows and measures the dense model.</summary>
    /// <param name="context">Size, device, another model where wanted.</param>
    /// <param name="seed">Fixes the calibration windows; the held-out ones are the same for all seeds.</param>
    /// <param name="samples">Calibration windows.</param>
    /// <param name="windows">Held-out windows.</param>
    /// <param name="length">Tokens in a window of either kind.</param>
    /// <param name="calibrationLength">Tokens in a calibration window where they are others.</param>
    public static ModelBench Open(RecipeContext context, Seed seed, int samples = 32, int windows = 64, int length = 256, int? calibrationLength = null)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        RecipeText text = RecipeText.For(context, smoke ? 2 : windows, length);
        try
        {
            long[][] calibration = TokenWindows.ToArrays(CalibrationSampler.Sample(
                text.Calibration, text.Tokenizer, smoke ? 2 : samples, calibrationLength ?? length, seed, context.Progress, context.Cancellation));
            return new ModelBench(context, seed, text, calibration);
        }
        catch
        {
            text.Dispose();
            throw;
        }
    }

    /// <summary>Prunes the model by a plan, in memory; the plan's seed is the recipe's.</summary>
    public PrunedModel Prune(PruningPlan plan) => Pruner.InMemory(Job(plan), SilentProgress.Instance, _context.Cancellation);

    /// <summary>Lets a part of plans look at the dense model once; <see cref="IMeasuredPart.With"/> gives the results to as many parts as want them.</summary>
    /// <param name="part">The part.</param>
    /// <param name="plan">A plan that it is part of.</param>
    public Measurements Measure(IMeasuredPart part, PruningPlan plan)
    {
        _folder ??= Directory.CreateTempSubdirectory("espalier-bench-").FullName;
        string own = Directory.CreateDirectory(Path.Combine(_folder, _results.Count.ToString(System.Globalization.CultureInfo.InvariantCulture))).FullName;
        Measurements results = Pruner.Measure(part, Job(plan), own, SilentProgress.Instance, _context.Cancellation);
        _results.Add(results);
        return results;
    }

    /// <summary>The perplexity of a model on the held-out windows.</summary>
    public double Perplexity(LanguageModel model)
    {
        using var scope = NewDisposeScope();
        return Evaluation.Perplexity.Evaluate(model, Text.Windows, cancellation: _context.Cancellation).Value;
    }

    /// <summary>Prunes the model by the plan of every arm at every setting and measures perplexity and its rise over the dense model.</summary>
    /// <param name="experiment">The experiment; names the arms and the settings.</param>
    /// <param name="plan">The plan of (arm, setting); null leaves the arm out there, and <see cref="DenseArm"/> needs none.</param>
    /// <param name="more">Further figures of a pruned arm at a setting; null for none.</param>
    public IReadOnlyList<Measurement> Compare(
        Experiment experiment, Func<string, string, PruningPlan?> plan, Func<string, string, PrunedModel, IEnumerable<(string Metric, double Value)>>? more = null)
    {
        var measured = new List<Measurement>();
        foreach (string setting in experiment.Settings)
        {
            foreach (string arm in experiment.Arms)
            {
                if (arm == DenseArm)
                {
                    Add(PerplexityMetric, Dense);
                }
                else if (plan(arm, setting) is { } chosen)
                {
                    using PrunedModel pruned = Prune(chosen);
                    double perplexity = Perplexity(pruned.Model);
                    Add(PerplexityMetric, perplexity);
                    Add(Rise, Math.Log(perplexity / Dense));
                    foreach ((string metric, double value) in more?.Invoke(arm, setting, pruned) ?? [])
                    {
                        Add(metric, value);
                    }

                    _context.Progress.Say(FormattableString.Invariant($"  {setting} {arm}: perplexity {perplexity:F2}"));
                }

                void Add(string metric, double value) => measured.Add(new Measurement(experiment.Name, setting, arm, metric, value));
            }
        }

        return measured;
    }

    /// <summary>The pattern that a setting names: "70 %" or "2:4".</summary>
    public static Pattern PatternOf(string setting) => setting.EndsWith('%')
        ? Pattern.Parse("unstructured", double.Parse(setting[..^1], System.Globalization.CultureInfo.InvariantCulture) / 100)
        : Pattern.Parse(setting, sparsity: null);

    /// <summary>Watches the inputs of every linear map of the dense model over the calibration windows.</summary>
    /// <param name="needs">What to collect.</param>
    /// <param name="see">Receives each linear map with its figures, in order.</param>
    public void Watch(CalibrationNeeds needs, Action<LayerContext> see)
    {
        using var whole = NewDisposeScope();
        using var _ = no_grad();
        using LanguageModel model = LanguageModel.Load(Text.Folder, _context.Device);
        BlockLinear[] linears = [.. model.Blocks.SelectMany(b => b.Linears)];
        LayerStatistics[] statistics = [.. linears.Select(l => new LayerStatistics(needs, l.Linear.InFeatures, _context.Device))];
        for (int i = 0; i < linears.Length; i++)
        {
            linears[i].Linear.InputObserver = statistics[i].Observe;
        }

        foreach (long[] window in Calibration)
        {
            using var scope = NewDisposeScope();
            model.HiddenStates(tensor(window, device: _context.Device).unsqueeze(0));
        }

        for (int i = 0; i < linears.Length; i++)
        {
            using LayerStatistics owned = statistics[i];
            using var scope = NewDisposeScope();
            see(owned.Context(linears[i].Name, linears[i].Linear.Matrix.detach()));
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Text.Dispose();
        _results.ForEach(r => r.Dispose());
        if (_folder is not null)
        {
            Directory.Delete(_folder, recursive: true);
        }
    }

    private PruningJob Job(PruningPlan plan) => new()
    {
        Model = Text.Folder,
        Folder = Text.Folder,
        Out = string.Empty,
        Plan = plan with { Seed = _seed },
        Calibration = Calibration,
        Device = _context.Device,
    };
}
