using System.Diagnostics;
using Espalier.Checkpoints;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Models.Export;
using Espalier.Pruning.Measuring;
using Espalier.Pruning.Structured;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>One run of a job, phase by phase: plan, dense quality, blocks, retraining, output, quality, report.</summary>
internal sealed class PruningRun(PruningJob job, IProgressSink sink, CancellationToken cancellation)
{
    /// <summary>From this many parameters on memory is worth more than the time that returning it costs.</summary>
    private const long LargeModel = 200_000_000;

    /// <summary>Above this size a model is not loaded twice just to measure its speed.</summary>
    private const long LargestMeasured = 500_000_000;

    private readonly Dictionary<string, double> _seconds = [];
    private readonly WarningLog progress = new(sink);

    /// <summary>Tries one block of every kind and writes nothing but the working folder, which is removed.</summary>
    public static IReadOnlyList<BlockReport> Try(PruningJob job, IProgressSink progress, CancellationToken cancellation)
    {
        using var scope = NewDisposeScope();
        using Checkpoint checkpoint = Checkpoint.Open(job.Folder);
        using StreamedModel model = Pruner.Open(job, checkpoint);
        PruningPreview preview = Pruner.Plan(job, model);
        if (job.Plan.IsStructured)
        {
            return []; // nothing happens block by block; the preview says what is cut
        }

        using var folder = new TrialFolder();
        using PruningJournal journal = PruningJournal.Open(folder.Path, [], fresh: false);
        // What is measured only has to be tried as well: two sequences are enough for that.
        PruningJob trial = job with { Calibration = [.. job.Calibration.Take(job.Plan.Measured.Any() ? 2 : int.MaxValue)] };
        using MeasuredPlan measured = MeasuredPlan.Of(trial, model, journal.Folder, preview.Spills, progress, cancellation);
        job = trial with { Plan = measured.Plan };
        preview = Pruner.Plan(job, model);
        var pass = new BlockPass(job, model, Ground(job, model, preview), journal, preview, progress);
        return [.. preview.Kinds.Select(i => pass.Try(i, cancellation))];
    }

    /// <summary>Prunes and repairs in a working folder that is removed, and loads what came out; nothing is retrained or measured.</summary>
    public PrunedModel InMemory()
    {
        using var scope = NewDisposeScope();
        using Checkpoint checkpoint = Checkpoint.Open(job.Folder);
        using StreamedModel model = Pruner.Open(job, checkpoint);
        using var folder = new TrialFolder();
        using PruningJournal journal = PruningJournal.Open(folder.Path, [], fresh: false);
        PruningPreview preview = Pruner.Plan(job, model);
        using MeasuredPlan measured = MeasuredPlan.Of(job, model, journal.Folder, preview.Spills, progress, cancellation);
        job = job with { Plan = measured.Plan };
        IPrunedModel pruned = Prune(model, journal, Pruner.Plan(job, model));
        return new PrunedModel(LanguageModel.Load(pruned.Config, pruned.Finished(), job.Device), Masks(pruned), pruned.Blocks) { Structure = pruned.Structure, Removed = pruned.Removed };
    }

    public PruningReport Run()
    {
        using var scope = NewDisposeScope();
        using Checkpoint checkpoint = Checkpoint.Open(job.Folder);
        using StreamedModel model = Pruner.Open(job, checkpoint);
        PruningPreview preview = Pruner.Plan(job, model);
        using IDisposable? frugal = preview.Parameters > LargeModel ? NativeMemory.ReturnLargeTensors() : null;
        using PruningJournal journal = PruningJournal.Open(job.Out, Fingerprint.Of(job, checkpoint), job.Fresh);
        string? spill = preview.Spills ? journal.Folder : null;
        var quality = new List<StageQuality>();

        if (job.Dense is { } known)
        {
            quality.Add(known);
        }
        else
        {
            Measure("dense", quality, model, spill);
        }

        using MeasuredPlan? measured = job.Plan.Measured.Any() ? Timed("measuring", () => MeasuredPlan.Of(job, model, journal.Folder, preview.Spills, progress, cancellation)) : null;
        if (measured is not null)
        {
            job = job with { Plan = measured.Plan };
            preview = Pruner.Plan(job, model);
        }

        IPrunedModel pruned = Timed("pruning", () => Prune(model, journal, preview));
        ModelConfig config = pruned.Config;
        string changed = job.Plan.Quantisation is not null ? "quantised" : job.Plan.ChangesWeights ? "repaired" : "pruned";
        if (job.Plan is { ChangesWeights: true, IsDense: false } && job.Evaluation.Length > 0)
        {
            using var masked = new StreamedModel(config, pruned.Unrepaired());
            Measure("pruned", quality, masked, spill);
        }

        var samples = new SampleWriter(job, preview.Parameters);
        samples.Continue("dense", model.Config, model.Source, cancellation);
        RetrainingResult? retraining = null;
        double? reopened;
        ITensorSource result = pruned.Finished();
        string finalStage = job.Plan.Retraining is null ? changed : job.Plan.Quantisation is null ? "retrained" : "requantised";
        if (job.Plan.Retraining is null)
        {
            Timed("writing", () => OutputWriter.Write(job, config, result, pruned, progress, cancellation));
            reopened = OutputWriter.CompareReopened(job, config, result);
        }
        else
        {
            if (job.Evaluation.Length > 0 && !job.Plan.OnlyRetrains)
            {
                using var before = new StreamedModel(config, result);
                Measure(changed, quality, before, spill);
            }

            if (!job.Plan.OnlyRetrains)
            {
                samples.Continue(changed, config, result, cancellation);
            }

            using LanguageModel whole = LanguageModel.Load(config, result, job.Device, progress);
            retraining = Timed("retraining", () => Retrain(model, whole, pruned, journal));
            pruned.CheckZeros(whole);
            ITensorSource trained = pruned.Trained(whole);
            ModelConfig written = retraining.Config ?? config;
            if (job.Plan.Quantisation is not null)
            {
                using var unrounded = new StreamedModel(written, trained);
                Measure("retrained", quality, unrounded, spill);
                trained = pruned.Requantised(trained);
            }

            Timed("writing", () => OutputWriter.Write(job, written, trained, pruned, progress, cancellation));
            reopened = OutputWriter.CompareReopened(job, written, trained);
        }

        using Checkpoint output = Checkpoint.Open(job.Out);
        using (var final = new StreamedModel(ModelConfig.Load(job.Out), output))
        {
            Measure(finalStage, quality, final, spill);
        }

        samples.Continue(finalStage, ModelConfig.Load(job.Out), output, cancellation);
        QuantisationReport? quantisation = job.Plan.Quantisation is { } asked ? Timed("checking", () => QuantisationReport.Of(output, pruned, asked.Type)) : null;
        StructureReport? structure = pruned.Structure is { } cut ? cut with { Speed = CompareSpeed(model, output, preview) } : null;
        PruningReport report = Assemble(checkpoint, output, model.Config, preview, pruned, quality, retraining, samples, reopened) with { Structure = structure, Quantisation = quantisation, Speed = TableOfSpeeds(model, output, preview) };
        journal.Remove();
        return report;
    }

    private IPrunedModel Prune(StreamedModel model, PruningJournal journal, PruningPreview preview)
    {
        if (job.Plan.IsStructured)
        {
            return new StructuredPass(job, model, journal, preview, progress).Run(cancellation);
        }

        ITensorSource ground = Ground(job, model, preview);
        new BlockPass(job, model, ground, journal, preview, progress).Run(cancellation);
        return new PrunedSource(ground, model.Config, journal, job.Plan.Quantisation?.Type);
    }

    // What decides the element types of the output.
    private static ITensorSource Ground(PruningJob job, StreamedModel model, PruningPreview preview) =>
        job.Plan.Quantisation is null ? model.Source : new WidenedSource(model.Source, [.. preview.Asked.Keys]);

    private static Dictionary<string, SparsityMask> Masks(IPrunedModel pruned) => pruned.Names.ToDictionary(n => n, pruned.Mask, StringComparer.Ordinal);

    // Both models whole in memory, unpacked and packed: about five times the float32 weights of one.
    private SpeedTable? TableOfSpeeds(StreamedModel model, Checkpoint output, PruningPreview preview)
    {
        if (!job.MeasureSpeed || job.Plan.IsDense)
        {
            return null;
        }

        if (preview.Parameters > LargestMeasured || (job.Memory is { } budget && preview.Parameters * sizeof(float) * 5 > budget))
        {
            progress.Say("The models are too large to be held side by side, so packed and dense speeds were not measured; `espalier pack` the output and compare with `espalier speed`.");
            return null;
        }

        return Timed("speed table", () =>
        {
            using var final = new StreamedModel(ModelConfig.Load(job.Out), output);
            return SpeedTable.Measure(model, final, job.Evaluation, progress, cancellation);
        });
    }

    // Two whole models in memory: only where they are small, or memory is not limited.
    private SpeedComparison? CompareSpeed(StreamedModel model, Checkpoint output, PruningPreview preview)
    {
        if (preview.Parameters > LargestMeasured || (job.Memory is { } budget && preview.Parameters * sizeof(float) * 2 > budget))
        {
            progress.Say("The model is too large to be loaded twice, so its speed was not measured.");
            return null;
        }

        return Timed("speed", () =>
        {
            using LanguageModel dense = LanguageModel.Load(model.Config, model.Source, job.Device);
            using LanguageModel cut = LanguageModel.Load(ModelConfig.Load(job.Out), output, job.Device);
            return SpeedComparison.Measure(dense, cut, job.Device, cancellation);
        });
    }

    private RetrainingResult Retrain(StreamedModel dense, LanguageModel whole, IPrunedModel pruned, PruningJournal journal)
    {
        IRetraining retraining = job.Plan.Retraining!;
        return retraining.Retrain(new RetrainingContext
        {
            Model = whole,
            Dense = dense,
            Masks = Masks(pruned),
            Batches = job.RetrainingText!(retraining.Batch, retraining.LengthFor(whole.Config)),
            Memory = job.Memory,
            Seed = job.Seed,
            StateFolder = Path.Combine(journal.Folder, "retraining"),
            Progress = progress,
            Cancellation = cancellation,
        });
    }

    private void Measure(string stage, List<StageQuality> quality, StreamedModel model, string? spill)
    {
        if (job.Evaluation.Length == 0)
        {
            return;
        }

        PerplexityResult result = Timed("evaluation", () =>
            StreamedPerplexity.Evaluate(model, job.Evaluation, job.Device, $"perplexity, {stage}", progress, spill, cancellation));
        quality.Add(new StageQuality(stage, result.Value, result.StandardErrorOfLog));
        progress.Report($"perplexity/{stage}", 0, result.Value);
        progress.Say(string.Create(System.Globalization.CultureInfo.InvariantCulture, $"Perplexity, {stage}: {result.Value:F2}"));
    }

    private PruningReport Assemble(
        Checkpoint checkpoint, Checkpoint output, ModelConfig config, PruningPreview preview, IPrunedModel pruned, List<StageQuality> quality, RetrainingResult? retraining, SampleWriter samples, double? reopened)
    {
        IReadOnlyList<BlockReport> blocks = pruned.Blocks;
        return new PruningReport
        {
            Model = job.Model,
            ModelType = config.ModelType,
            Out = job.Out,
            Plan = job.Plan.Describe().ToDictionary(p => p.Part, p => p.Value),
            PlanYaml = job.PlanYaml,
            Data = job.Data,
            Quality = quality,
            WonBack = WonBack(quality),
            Parameters = pruned.Structure?.ParametersAfter ?? preview.Parameters,
            Prunable = preview.Prunable,
            Pruned = blocks.SelectMany(b => b.Layers).Sum(l => l.Removed),
            Trained = retraining?.Trained,
            TrainedGroups = retraining?.Groups,
            Losses = retraining?.Losses ?? [],
            LossName = retraining?.LossName,
            Activations = retraining?.Activations,
            Blocks = blocks,
            Samples = samples.All,
            Seconds = _seconds,
            PeakMemory = Machine.PeakResidentBytes,
            DiskBytes = new DiskSize(checkpoint.TotalBytes, output.TotalBytes),
            ReopenedDifference = reopened,
            Readers = ReaderMatrix.OfCheckpoint(job.Out, reopened ?? 0),
            Warnings = progress.Warnings,
            Machine = Machine.Describe(),
        };
    }

    // The share of the log-perplexity lost to pruning that came back: (ln pruned − ln final) / (ln pruned − ln dense).
    private static double? WonBack(List<StageQuality> quality)
    {
        StageQuality? dense = quality.FirstOrDefault(q => q.Stage == "dense");
        StageQuality? pruned = quality.FirstOrDefault(q => q.Stage == "pruned");
        if (dense is null || pruned is null || quality[^1].Stage == "pruned" || pruned.Perplexity <= dense.Perplexity)
        {
            return null;
        }

        return Math.Log(pruned.Perplexity / quality[^1].Perplexity) / Math.Log(pruned.Perplexity / dense.Perplexity);
    }

    private void Timed(string phase, Action work) => Timed(phase, () =>
    {
        work();
        return 0;
    });

    private T Timed<T>(string phase, Func<T> work)
    {
        var clock = Stopwatch.StartNew();
        T result = work();
        _seconds[phase] = _seconds.GetValueOrDefault(phase) + clock.Elapsed.TotalSeconds;
        return result;
    }

    private sealed class TrialFolder : IDisposable
    {
        public string Path { get; } = Directory.CreateTempSubdirectory("espalier-trial-").FullName;

        public void Dispose() => Directory.Delete(Path, recursive: true);
    }
}
