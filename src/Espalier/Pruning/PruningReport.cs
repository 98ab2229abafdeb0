using Espalier.Models.Export;

namespace Espalier.Pruning;

/// <summary>Everything a pruning run found out: what <c>report.json</c> holds and <c>report.html</c> draws.</summary>
public sealed record PruningReport
{
    /// <summary>The model as the user named it.</summary>
    public required string Model { get; init; }

    /// <summary>The architecture ("llama").</summary>
    public required string ModelType { get; init; }

    /// <summary>Where the checkpoint was written.</summary>
    public required string Out { get; init; }

    /// <summary>The plan, part by part.</summary>
    public required IReadOnlyDictionary<string, string> Plan { get; init; }

    /// <summary>The plan as YAML that runs it again.</summary>
    public string? PlanYaml { get; init; }

    /// <summary>Where the texts came from: calibration, retraining, evaluation, each with a content hash.</summary>
    public required IReadOnlyDictionary<string, string> Data { get; init; }

    /// <summary>Perplexities by stage, in order: dense, pruned, repaired (quantised where the plan quantises, repaired or not), retrained, requantised (only those that were measured).</summary>
    public required IReadOnlyList<StageQuality> Quality { get; init; }

    /// <summary>The share of the lost log-perplexity that repair and retraining won back, 0…1; null where nothing was lost or measured.</summary>
    public double? WonBack { get; init; }

    /// <summary>All parameters of the model; of the smaller one where units were cut.</summary>
    public required long Parameters { get; init; }

    /// <summary>Parameters that may be pruned.</summary>
    public required long Prunable { get; init; }

    /// <summary>Parameters that were pruned: set to zero, or cut out of these maps.</summary>
    public required long Pruned { get; init; }

    /// <summary>Parameters that retraining changed; null without retraining.</summary>
    public long? Trained { get; init; }

    /// <summary>Trained parameters by kind.</summary>
    public IReadOnlyDictionary<string, long>? TrainedGroups { get; init; }

    /// <summary>The loss of each retraining step.</summary>
    public IReadOnlyList<double> Losses { get; init; } = [];

    /// <summary>What was cut out; null where weights were masked.</summary>
    public Structured.StructureReport? Structure { get; init; }

    /// <summary>Speed, size and perplexity of the model before and after, unpacked and packed, on this machine; null where it was not measured.</summary>
    public SpeedTable? Speed { get; init; }

    /// <summary>What quantisation came to; null where nothing was quantised.</summary>
    public QuantisationReport? Quantisation { get; init; }

    /// <summary>What the losses are ("cross-entropy, nats per token"); null without retraining.</summary>
    public string? LossName { get; init; }

    /// <summary>Zeros among the feed-forward activations, block by block, where retraining was for that (ProSparse).</summary>
    public IReadOnlyList<ActivationSparsity>? Activations { get; init; }

    /// <summary>Layer by layer.</summary>
    public required IReadOnlyList<BlockReport> Blocks { get; init; }

    /// <summary>The same prompts continued by the dense, the pruned and the finished model.</summary>
    public IReadOnlyList<TextSample> Samples { get; init; } = [];

    /// <summary>Seconds by phase.</summary>
    public required IReadOnlyDictionary<string, double> Seconds { get; init; }

    /// <summary>The highest resident memory of the process, bytes.</summary>
    public required long PeakMemory { get; init; }

    /// <summary>Bytes of the checkpoint before and after.</summary>
    public required DiskSize DiskBytes { get; init; }

    /// <summary>The largest difference of logits between the model in memory and the re-opened output.</summary>
    public double? ReopenedDifference { get; init; }

    /// <summary>Which programs load the output, and how.</summary>
    public IReadOnlyList<ReaderEntry> Readers { get; init; } = [];

    /// <summary>Warnings that were given on the way.</summary>
    public IReadOnlyList<string> Warnings { get; init; } = [];

    /// <summary>The machine and versions.</summary>
    public required IReadOnlyDictionary<string, string> Machine { get; init; }
}

/// <summary>Bytes of a checkpoint's tensors.</summary>
/// <param name="Before">Of the source.</param>
/// <param name="After">Of the output.</param>
public sealed record DiskSize(long Before, long After);

/// <summary>The quality of one stage.</summary>
/// <param name="Stage">dense, pruned, repaired, quantised, retrained or requantised.</param>
/// <param name="Perplexity">exp of the mean loss per token.</param>
/// <param name="StandardError">Standard error of the log-perplexity over windows.</param>
public sealed record StageQuality(string Stage, double Perplexity, double StandardError);

/// <summary>A prompt and its continuations by stage.</summary>
/// <param name="Prompt">The prompt.</param>
/// <param name="Continuations">Continuation by stage, sampled with one seed (temperature 0.8, top 40).</param>
public sealed record TextSample(string Prompt, IReadOnlyDictionary<string, string> Continuations);

/// <summary>What happened to one block.</summary>
/// <param name="Index">Its number.</param>
/// <param name="Layers">Its linear maps in calibration order.</param>
/// <param name="OutputError">‖dense − pruned‖² / ‖dense‖² of the block's output on the same calibration inputs; null where none were carried.</param>
/// <param name="Reconstruction">What layer-wise reconstruction did, where the plan has one.</param>
/// <param name="Seconds">Time spent.</param>
public sealed record BlockReport(int Index, IReadOnlyList<LayerReport> Layers, double? OutputError, BlockRepairResult? Reconstruction, double Seconds);

/// <summary>What happened to one linear map.</summary>
/// <param name="Name">The weight's name.</param>
/// <param name="Rows">Output features.</param>
/// <param name="Columns">Input features.</param>
/// <param name="Asked">The share that was to go.</param>
/// <param name="Achieved">The share that went.</param>
/// <param name="MaskedError">Relative output error ‖X(W−W′)ᵀ‖² / ‖XWᵀ‖² with the mask alone; null where no input statistics were collected.</param>
/// <param name="RepairedError">The same after repair.</param>
public sealed record LayerReport(string Name, long Rows, long Columns, double Asked, double Achieved, double? MaskedError, double? RepairedError)
{
    /// <summary>How many weights went.</summary>
    public long Removed => (long)Math.Round(Rows * Columns * Achieved);
}
