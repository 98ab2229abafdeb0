using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Pruning.Structured;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Pruning.Comparing;

/// <summary>What one plan with one seed came to.</summary>
public sealed record PlanFigures
{
    /// <summary>Perplexity of the finished model on the evaluation windows.</summary>
    public required double Perplexity { get; init; }

    /// <summary>Perplexity after pruning and repair, before retraining; null where nothing was retrained.</summary>
    public double? BeforeRetraining { get; init; }

    /// <summary>ln(perplexity / the dense model's).</summary>
    public required double LogRise { get; init; }

    /// <summary>The share of the prunable weights that went, 0…1.</summary>
    public required double Sparsity { get; init; }

    /// <summary>All parameters of the written model.</summary>
    public required long Parameters { get; init; }

    /// <summary>Those that are not zero, counted in the written checkpoint.</summary>
    public required long Nonzero { get; init; }

    /// <summary>Bytes of the written checkpoint's tensors, zeros and all.</summary>
    public required long DiskBytes { get; init; }

    /// <summary>Computed, not measured: the bytes of the values that are not zero and one bit for each place, for every tensor where that is less.</summary>
    public required long PackedBytes { get; init; }

    /// <summary>Parameters that retraining changed; 0 without.</summary>
    public required long Trained { get; init; }

    /// <summary>Seconds of pruning, repair, retraining and writing, without measuring; null where the run was stopped and continued.</summary>
    public double? Seconds { get; init; }

    /// <summary>Forward passes of the written and the dense model in turns; null where <see cref="SpeedNote"/> says why.</summary>
    public SpeedComparison? Speed { get; init; }

    /// <summary>Why the speed was not measured.</summary>
    public string? SpeedNote { get; init; }
}

/// <summary>Looks at what a run wrote.</summary>
internal static class RunMeasuring
{
    /// <summary>Up to so many parameters two whole models are held at once to compare their speed.</summary>
    private const long LargestTimed = 500_000_000;

    public static PlanFigures Of(PruningReport report, PruningJob job, bool continued, CancellationToken cancellation)
    {
        using var scope = NewDisposeScope();
        using Checkpoint output = Checkpoint.Open(report.Out);
        ModelConfig config = ModelConfig.Load(report.Out);
        Architecture architecture = Architecture.For(config);
        long parameters = 0, nonzero = 0, packed = 0;
        foreach (TensorInfo info in output.Names.Where(n => !architecture.Ignores(config, n)).Select(output.Info))
        {
            cancellation.ThrowIfCancellationRequested();
            long kept = info.ElementCount - ZeroCensus.Zeros(output, info.Name);
            parameters += info.ElementCount;
            nonzero += kept;
            packed += Math.Min(info.ByteCount, (kept * ElementTypes.SizeOf(info.ElementType)) + ((info.ElementCount + 7) / 8));
        }

        bool large = report.Parameters > LargestTimed || (job.Memory is { } budget && (report.Parameters + parameters) * sizeof(float) > budget);
        double perplexity = report.Quality[^1].Perplexity;
        return new PlanFigures
        {
            Perplexity = perplexity,
            BeforeRetraining = report.Trained is null ? null : report.Quality[report.Plan["quantisation"] == "none" ? ^2 : ^3].Perplexity,
            LogRise = Math.Log(perplexity / report.Quality[0].Perplexity),
            Sparsity = report.Pruned / (double)report.Prunable,
            Parameters = parameters,
            Nonzero = nonzero,
            DiskBytes = report.DiskBytes.After,
            PackedBytes = packed,
            Trained = report.Trained ?? 0,
            Seconds = continued ? null : report.Seconds.Where(s => s.Key != "evaluation").Sum(s => s.Value),
            Speed = large ? null : report.Structure?.Speed ?? Speed(job, report.Out, cancellation),
            SpeedNote = large ? $"{Text.Count(report.Parameters)} parameters are too many to hold the model twice" : null,
        };
    }

    private static SpeedComparison Speed(PruningJob job, string written, CancellationToken cancellation)
    {
        using LanguageModel dense = LanguageModel.Load(job.Folder, job.Device);
        using LanguageModel pruned = LanguageModel.Load(written, job.Device);
        return SpeedComparison.Measure(dense, pruned, job.Device, cancellation);
    }
}
