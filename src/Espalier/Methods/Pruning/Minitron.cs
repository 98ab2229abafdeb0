using Espalier.Catalogue;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>
/// Minitron: shrinks a trained language model by ranking layers, heads, neurons and embedding channels from forward
/// passes alone, cutting to a smaller architecture found by a small search, and retraining briefly with the original as
/// teacher. Pick it for dense models that are really smaller and faster.
/// </summary>
/// <remarks>
/// Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation". Importance:
/// <see cref="WidthImportance"/>, <see cref="HeadImportance"/>, <see cref="BlockImportance"/>; cut: <see cref="HeadResidual"/>;
/// search: <see cref="Enumerate"/>, <see cref="Candidates(MinitronSpace, long, double)"/>; distillation: <see cref="LogitLoss"/>, <see cref="TotalLoss"/>. All
/// are pure functions; the members of an instance apply its options. As the criterion of a structured plan it ranks heads, neurons, channels and layers.
/// </remarks>
[Method("minitron", "Compact Language Models via Pruning and Knowledge Distillation",
    Family = "Pruning",
    Source = "Muralidharan et al. (NVIDIA), arXiv 2407.14679, 2024",
    Summary = "Ranks layers, heads, neurons and channels by activations, cuts to a searched architecture, retrains with the original as teacher.",
    Fits = "criterion of a structured pattern (heads, neurons, channels, layers); architecture search; distillation losses; before perp")]
public sealed partial class Minitron
{
    /// <summary>How a channel's values over the tokens of a sample become one; mean of |x|.</summary>
    public MinitronAggregation SequenceAggregation { get; init; } = MinitronAggregation.Mean;

    /// <summary>How the samples become one; L2.</summary>
    public MinitronAggregation BatchAggregation { get; init; } = MinitronAggregation.L2;

    /// <summary>tau of the distillation's softmax; 1.</summary>
    public double Temperature
    {
        get;
        init
        {
            RequireTemperature(value);
            field = value;
        }
    } = 1;

    /// <summary>How the student's predictions are compared with the teacher's; KLD.</summary>
    public LogitDistance Distance { get; init; } = LogitDistance.Kld;

    /// <summary>Adds the cross-entropy on the text itself; off, as the paper found.</summary>
    public bool UseCrossEntropy { get; init; }

    /// <summary>How far a candidate's parameters may be from the target, as a share of it; 0.05.</summary>
    public double Tolerance
    {
        get;
        init
        {
            EspalierException.Require(value is >= 0 and < 1, FormattableString.Invariant($"minitron.tolerance is {value}; it is a share of the target's parameters, from 0 up to but not including 1."));
            field = value;
        }
    } = 0.05;

    /// <summary>Widths of the model and of its feed-forward parts are multiples of this, for speed; 64, and 1 allows any.</summary>
    public int Divisor
    {
        get;
        init
        {
            EspalierException.Require(value >= 1, $"minitron.divisor is {value}; it must be 1 or more.");
            field = value;
        }
    } = 64;

    /// <summary>The nearest allowed width: a multiple of <see cref="Divisor"/>, at least one of them; halfway rounds up.</summary>
    public long RoundWidth(double width) => Math.Max(1, (long)Math.Floor(width / Divisor + 0.5)) * Divisor;

    /// <summary>Collects the importance of channels over calibration batches, with this object's aggregations.</summary>
    public MinitronAccumulator Accumulate() => new(BatchAggregation, SequenceAggregation);

    /// <summary>The distillation loss of a step, with this object's options; see <see cref="TotalLoss"/>.</summary>
    /// <param name="student">Logits [batch, tokens, vocabulary].</param>
    /// <param name="teacher">The teacher's.</param>
    /// <param name="hidden">Hidden states to match as well; null for logits only, the paper's choice unless depth was cut strongly.</param>
    /// <param name="labels">The next tokens [batch, tokens], for the cross-entropy; null where it is neither added nor reported.</param>
    public MinitronLoss Loss(Tensor student, Tensor teacher, HiddenPair? hidden = null, Tensor? labels = null) =>
        TotalLoss(student, teacher, hidden, labels, UseCrossEntropy, Temperature, Distance);

    /// <summary>The architectures within this object's tolerance; see <see cref="Candidates(MinitronSpace, long, double)"/>.</summary>
    public IReadOnlyList<MinitronCandidate> Candidates(MinitronSpace space, long target) => Candidates(space, target, Tolerance);
}
