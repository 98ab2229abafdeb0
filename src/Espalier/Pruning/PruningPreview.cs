using System.Diagnostics;
using Espalier.Models;
using Espalier.Pruning.Measuring;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>One prunable weight as a preview shows it.</summary>
/// <param name="Block">The block's number.</param>
/// <param name="Name">The weight's name.</param>
/// <param name="Rows">Output features.</param>
/// <param name="Columns">Input features.</param>
/// <param name="Asked">The share to go.</param>
/// <param name="Stage">Weights of one stage read the same input.</param>
public sealed record PlannedLayer(int Block, string Name, long Rows, long Columns, double Asked, int Stage);

/// <summary>
/// What a run will do, before it does anything: every weight with its share, time and memory. Making it refuses a plan
/// that cannot work.
/// </summary>
public sealed class PruningPreview
{
    /// <summary>Resident memory of the runtime and libtorch before any model is read (measured on Linux x64).</summary>
    private const long RuntimeBytes = 260_000_000;

    private PruningPreview(IReadOnlyList<PlannedLayer> layers) => Layers = layers;

    /// <summary>Every prunable weight in order.</summary>
    public IReadOnlyList<PlannedLayer> Layers { get; }

    /// <summary>The share of each weight by name.</summary>
    public IReadOnlyDictionary<string, double> Asked => _asked ??= Layers.ToDictionary(l => l.Name, l => l.Asked, StringComparer.Ordinal);

    /// <summary>All parameters.</summary>
    public required long Parameters { get; init; }

    /// <summary>Parameters that may be pruned.</summary>
    public long Prunable => Layers.Sum(l => l.Rows * l.Columns);

    /// <summary>What is cut, where the pattern is structured; else null.</summary>
    public Structured.StructurePreview? Structure { get; init; }

    /// <summary>Coupled groups of the first block of each shape, as text.</summary>
    public required IReadOnlyList<string> Groups { get; init; }

    /// <summary>One index of every kind of block (blocks of equal shapes are one kind).</summary>
    public required IReadOnlyList<int> Kinds { get; init; }

    /// <summary>Bytes of the calibration activations (and reconstruction targets).</summary>
    public required long ActivationBytes { get; init; }

    /// <summary>Whether the activations go to a file to stay inside the memory budget.</summary>
    public required bool Spills { get; init; }

    /// <summary>Estimated peak resident memory in bytes.</summary>
    public required long PeakBytes { get; init; }

    /// <summary>Estimated time.</summary>
    public required TimeSpan Time { get; init; }

    /// <summary>The word of the allocator that decides the shares only when it has looked at the dense model; null where they are known. Until then every layer is shown with the whole model's share.</summary>
    public required string? DecidedBy { get; init; }

    private Dictionary<string, double>? _asked;

    /// <summary>Plans a job on a model.</summary>
    /// <exception cref="EspalierException">When the plan cannot work: it names the weight and the reason.</exception>
    public static PruningPreview Make(PruningJob job, ModelConfig config, long parameters)
    {
        PruningPlan plan = job.Plan;
        plan.Validate();
        EspalierException.Require(!plan.NeedsCalibration || job.Calibration.Length > 0,
            $"The plan needs calibration text ({WhyText(plan)}), but none was given; name some with --calibration.");
        EspalierException.Require(plan.Retraining is null || job.RetrainingText is not null,
            "The plan retrains, but no text was given; name some with --calibration or --train-data.");

        var (layers, kinds, groups, largest) = Walk(plan, config);
        Structured.StructurePreview? structure = plan.IsStructured ? Structured.StructurePreview.Make(job, config) : null;
        CheckRetraining(plan, structure?.Config ?? config);
        IReadOnlyList<double> shares = plan.Pattern is not Pattern.UnstructuredPattern
            ? [.. layers.Select(_ => plan.Pattern.Sparsity)]
            : plan.Allocator is IMeasuredPart { IsMeasured: false } ? [.. layers.Select(_ => plan.Pattern.Sparsity)]
            : plan.Allocator.Allocate([.. layers.Select(l => new AllocatedLayer(l.Name, l.Block, l.Rows, l.Columns))], plan.Pattern.Sparsity);
        layers = [.. layers.Select((l, i) => l with { Asked = shares[i] })];

        long activations = plan.NeedsActivations
            ? ActivationStore.Bytes(job.Calibration.Length, job.Calibration[0].Length, config.HiddenSize) * (plan.Reconstruction is null ? 1 : 2)
            : 0;
        long working = RuntimeBytes + WorkingBytes(plan, layers, largest, job, config, parameters);
        bool spills = job.Memory is { } budget && working + activations > budget;
        EspalierException.Require(job.Memory is not { } limit || working <= limit,
            $"The memory budget of {Text.Bytes(job.Memory ?? 0)} is too small: one block with its working space already takes about {Text.Bytes(working)}{(plan.Retraining is null ? string.Empty : " (retraining holds the whole model)")}.");
        return new PruningPreview(layers)
        {
            Parameters = parameters,
            DecidedBy = plan.Allocator is IMeasuredPart { IsMeasured: false } or GlobalRanking ? PruningPlan.NameOf(plan.Allocator) : null,
            Structure = structure,
            Groups = groups,
            Kinds = kinds,
            ActivationBytes = activations,
            Spills = spills,
            PeakBytes = working + (spills ? 0 : activations),
            Time = Estimate(job, layers, config),
        };
    }

    // Refused before any work: subsets that select nothing, ranks that do not fit, lengths beyond the context.
    private static void CheckRetraining(PruningPlan plan, ModelConfig config)
    {
        using var scope = NewDisposeScope();
        Architecture architecture = Architecture.For(config);
        using DecoderBlock block = architecture.CreateBlock(config, 0, Placement.Meta);
        plan.Reconstruction?.Check(block);
        if (plan.Retraining is not { } retraining)
        {
            return;
        }

        EspalierException.Require(retraining.LengthFor(config) <= config.MaxPositions,
            $"Retraining on {retraining.Length} tokens at once is more than the model's context of {config.MaxPositions}.");
        using Embedding embedding = architecture.CreateEmbedding(config, Placement.Meta);
        using OutputHead head = architecture.CreateHead(config, embedding, Placement.Meta);
        retraining.Check(config, block, head);
    }

    private static string WhyText(PruningPlan plan) =>
        plan.Measured.FirstOrDefault() is { } part ? $"{PruningPlan.NameOf(part)} looks at the dense model"
        : $"{PruningPlan.NameOf(plan.Criterion is IUnitCriterion { ReadsActivations: false } ? plan.Repair ?? (object?)plan.Quantisation?.Method ?? plan.Criterion : plan.Criterion)} looks at activations";

    private static (List<PlannedLayer> Layers, List<int> Kinds, List<string> Groups, long LargestBlock) Walk(PruningPlan plan, ModelConfig config)
    {
        var layers = new List<PlannedLayer>();
        var kinds = new Dictionary<string, int>(StringComparer.Ordinal);
        var groups = new List<string>();
        long largest = 0;
        Architecture architecture = Architecture.For(config);
        for (int i = 0; i < config.LayerCount; i++)
        {
            using var scope = NewDisposeScope();
            using DecoderBlock block = architecture.CreateBlock(config, i, Placement.Meta);
            foreach (BlockLinear linear in block.Linears)
            {
                long rows = linear.Linear.OutFeatures, columns = linear.Linear.InFeatures;
                EspalierException.Require(plan.Pattern is not Pattern.SemiStructuredPattern nm || columns % nm.M == 0,
                    $"The pattern {plan.Pattern} needs rows that divide into groups of {(plan.Pattern as Pattern.SemiStructuredPattern)?.M}, but {linear.Name} has {columns} inputs.");
                layers.Add(new PlannedLayer(i, linear.Name, rows, columns, 0, linear.Stage));
            }

            largest = Math.Max(largest, block.Tensors.Sum(t => t.Value.numel()));
            string kind = string.Join(";", block.Linears.Select(l => $"{l.Linear.OutFeatures}x{l.Linear.InFeatures}"));
            if (kinds.TryAdd(kind, i))
            {
                groups.AddRange(block.Groups.Select(g => g.ToString()));
            }
        }

        return (layers, [.. kinds.Values], groups, largest);
    }

    // The block in float32 twice (as read and as written), the input statistics of its stages, the score and sort space
    // of its largest weight, and what a forward pass of some sequences takes.
    private static long WorkingBytes(PruningPlan plan, List<PlannedLayer> layers, long largestBlock, PruningJob job, ModelConfig config, long parameters)
    {
        long largestWeight = layers.Max(l => l.Rows * l.Columns);
        long statistics = plan.Needs.HasFlag(CalibrationNeeds.Hessian)
            ? layers.Where(l => l.Block == 0).GroupBy(l => l.Stage).Sum(s => s.First().Columns * s.First().Columns * 4) + (layers.Max(l => l.Columns * l.Columns) * 24)
            : 0;
        long tokens = job.Calibration.Length == 0 ? 0 : (long)job.SequencesAtOnce * job.Calibration[0].Length;
        long forward = tokens * (config.HiddenSize + (3L * config.IntermediateSize)) * 4;
        long evaluation = job.Evaluation.Length == 0 ? 0
            : ActivationStore.Bytes(job.Evaluation.Length, job.Evaluation[0].Length, config.HiddenSize)
              + (job.Evaluation[0].Length * (long)config.VocabSize * 12) + (config.VocabSize * (long)config.HiddenSize * 4);
        long measuring = plan.Measured.Any() ? (largestBlock * 8) + (forward * 4) : 0; // gradients of a block and their sums
        long pruning = (largestBlock * 4) + (largestWeight * 24) + statistics + forward + measuring;
        long retraining = plan.Retraining is null ? 0 : (parameters * plan.Retraining.BytesPerParameter) + (plan.Retraining.Batch * plan.Retraining.LengthFor(config) * config.VocabSize * 12);
        return Math.Max(Math.Max(pruning, evaluation), retraining);
    }

    private static TimeSpan Estimate(PruningJob job, List<PlannedLayer> layers, ModelConfig config)
    {
        double speed = Speed.Value;
        double weights = layers.Sum(l => (double)l.Rows * l.Columns);
        double tokens = job.Calibration.Length == 0 ? 0 : (double)job.Calibration.Length * job.Calibration[0].Length;
        double operations = job.Plan.NeedsActivations ? 2 * 2 * weights * tokens : 0;
        if (job.Plan.Needs.HasFlag(CalibrationNeeds.Hessian))
        {
            operations += layers.Sum(l => (2.0 * l.Rows * l.Columns * l.Columns) + (2.0 * l.Columns * l.Columns * l.Columns))
                + layers.GroupBy(l => (l.Block, l.Stage)).Sum(s => 2 * tokens * s.First().Columns * s.First().Columns);
        }

        double sequence = job.Calibration.Length == 0 ? 0 : job.Calibration[0].Length;
        operations += job.Plan.Measured.Sum(p => p.Passes(layers.Count, job.Calibration.Length)) * 2 * (weights + ((double)config.VocabSize * config.HiddenSize)) * sequence;
        double evaluated = job.Evaluation.Length == 0 ? 0 : (double)job.Evaluation.Length * job.Evaluation[0].Length;
        int passes = 1 + (job.Plan.Repair is null && job.Plan.Reconstruction is null ? 1 : 2) + (job.Plan.Retraining is null ? 0 : 1);
        operations += passes * 2 * (weights + ((double)config.VocabSize * config.HiddenSize)) * evaluated;
        double seconds = (operations / speed) + (weights * 60e-9) + 1;
        if (job.Plan.Retraining is { } retraining)
        {
            double trained = (double)retraining.Steps * retraining.Batch * retraining.LengthFor(config);
            seconds += 6 * (weights + ((double)config.VocabSize * config.HiddenSize)) * trained / (speed * 0.5);
        }

        return TimeSpan.FromSeconds(seconds);
    }

    private static readonly Lazy<double> Speed = new(MeasureSpeed);

    // Multiply-adds per second of this machine, from a product that takes a few milliseconds; half of it is what blocks reach.
    private static double MeasureSpeed()
    {
        using var scope = NewDisposeScope();
        Tensor a = ones(512, 512), b = ones(512, 512);
        mm(a, b).Dispose();
        var clock = Stopwatch.StartNew();
        for (int i = 0; i < 4; i++)
        {
            mm(a, b).Dispose();
        }

        return Math.Max(1e9, 4 * 2 * 512.0 * 512 * 512 / clock.Elapsed.TotalSeconds / 2);
    }
}
