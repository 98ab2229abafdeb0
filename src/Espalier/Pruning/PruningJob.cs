using Espalier.Data;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>One pruning run: a model, a plan, the texts it needs and where the result goes.</summary>
public sealed record PruningJob
{
    /// <summary>The model as the user named it (a folder or a hub id).</summary>
    public required string Model { get; init; }

    /// <summary>The checkpoint's folder.</summary>
    public required string Folder { get; init; }

    /// <summary>The output folder; may be the input folder.</summary>
    public required string Out { get; init; }

    /// <summary>What is done.</summary>
    public required PruningPlan Plan { get; init; }

    /// <summary>Calibration windows, each of the same number of token ids; empty where the plan needs none.</summary>
    public long[][] Calibration { get; init; } = [];

    /// <summary>Makes the source of retraining text for (sequences per step, tokens per sequence): token ids [batch, length] of (step, micro-batch).</summary>
    public Func<int, int, Func<long, int, Tensor>>? RetrainingText { get; init; }

    /// <summary>Evaluation windows, each of the same number of token ids; empty does not measure perplexity.</summary>
    public long[][] Evaluation { get; init; } = [];

    /// <summary>The dense model's quality on these evaluation windows where it has been measured before; null measures it.</summary>
    public StageQuality? Dense { get; init; }

    /// <summary>
    /// A folder where the importance of all units that the criterion ranks is kept, for several plans that cut one model by it on the
    /// same calibration windows; null measures what the plan cuts and keeps it in the run's own working folder.
    /// </summary>
    public string? Importance { get; init; }

    /// <summary>Prompts to continue before and after; empty shows none.</summary>
    public IReadOnlyList<string> Prompts { get; init; } = [];

    /// <summary>The model's tokeniser, for the prompts; null shows no text.</summary>
    public Tokenizer? Tokenizer { get; init; }

    /// <summary>Where the texts came from, for the report and the journal's fingerprint.</summary>
    public IReadOnlyDictionary<string, string> Data { get; init; } = new Dictionary<string, string>();

    /// <summary>Where tensors are computed.</summary>
    public Device Device { get; init; } = CPU;

    /// <summary>The most resident memory in bytes that the run may plan with; null is no limit.</summary>
    public long? Memory { get; init; }

    /// <summary>Start over where an unfinished run lies in the output folder.</summary>
    public bool Fresh { get; init; }

    /// <summary>Whether the report measures the speed of both models, unpacked and packed, on the CPU. Models too large to be loaded together are left out.</summary>
    public bool MeasureSpeed { get; init; } = true;

    /// <summary>The plan as YAML, for the report.</summary>
    public string? PlanYaml { get; init; }

    /// <summary>Calibration sequences that go through a block at once.</summary>
    /// <remarks>At least one, and as many as make up 512 tokens: enough to keep the matrix products busy, and little beside a block's weights.</remarks>
    public int SequencesAtOnce => AtOnce(Calibration);

    /// <summary>The same for any calibration windows.</summary>
    internal static int AtOnce(long[][] windows) => windows.Length == 0 ? 1 : Math.Max(1, 512 / windows[0].Length);

    /// <summary>The seed of the plan.</summary>
    public Seed Seed => Plan.Seed;
}
