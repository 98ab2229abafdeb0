using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What gradient reaches the weights that a mask prunes.</summary>
public enum GradientFlow
{
    /// <summary>Straight through: all of it, all along, as in the official code.</summary>
    Ste,

    /// <summary>As much as the weight is used: it fades with β, as the paper's text says (our reading; the code does otherwise).</summary>
    Chain,
}

/// <summary>In which order the weights of a matrix are taken in groups of M.</summary>
public enum NmLayout
{
    /// <summary>Along the inputs of an output.</summary>
    Row,

    /// <summary>Along the outputs of an input.</summary>
    Col,

    /// <summary>Of a convolution [out, in, k, k], along the input channels at one place of the filter.</summary>
    Conv,
}

/// <summary>
/// Progressive gradient flow: N:M training in which pruned weights fade out or the pattern tightens step by step, for high sparsity
/// (1:8 and beyond), where a binary mask from the start loses accuracy.
/// </summary>
/// <remarks>m is the mask of the largest N of M |W|, made anew at every forward pass; W_eff = W ∘ (m + (1 − m)β).</remarks>
[Method("pgfnm", "Progressive Gradient Flow for Robust N:M Sparsity Training in Transformers", Family = "Pruning", Source = "Bambhaniya et al., 2024, arXiv 2402.04744",
    Summary = "Trains with N:M sparse weights while pruned ones fade out (linear, exp) or the pattern tightens (sparsify, fine, densify). For hardware patterns above 80 % sparsity.",
    Fits = "sparse training; N:M; any optimiser and schedule; baselines step (STE) and srste as decay")]
public sealed partial record Pgfnm : ISparseTraining
{
    private static readonly string[] feedForward = [".mlp.", ".fc1.", ".fc2.", ".feed_forward."];

    /// <summary>How many weights of a group stay. Default 2.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int N
    {
        get;
        init => field = Checked(value, value >= 1, "n", "at least 1");
    } = 2;

    /// <summary>The size of a group. Default 4.</summary>
    /// <exception cref="EspalierException">Below 2.</exception>
    public int M
    {
        get;
        init => field = Checked(value, value >= 2, "m", "at least 2");
    } = 4;

    /// <summary>The way to the pattern. Default exponential fading.</summary>
    public NmDecay Decay { get; init; } = NmDecay.Exp;

    /// <summary>κ of linear and exp, per step. Null (default) takes what brings β to 0 (linear) or 0.001 (exp) where the last phase begins.</summary>
    /// <exception cref="EspalierException">Unless positive.</exception>
    public double? Coefficient
    {
        get;
        init => field = Checked(value, value is null or > 0, "coefficient", "positive, for example 2e-4");
    }

    /// <summary>The share of the training before anything is pruned. Default 0.1.</summary>
    /// <exception cref="EspalierException">Outside [0, 1).</exception>
    public double Dense
    {
        get;
        init => field = Checked(value, value is >= 0 and < 1, "dense share", "from 0 up to but not including 1");
    } = 0.1;

    /// <summary>The share of the training at the end under the final binary mask. Default 0.1.</summary>
    /// <exception cref="EspalierException">Outside [0, 1).</exception>
    public double FineTune
    {
        get;
        init => field = Checked(value, value is >= 0 and < 1, "fine-tuning share", "from 0 up to but not including 1");
    } = 0.1;

    /// <summary>What reaches pruned weights. Default straight through.</summary>
    public GradientFlow Flow { get; init; } = GradientFlow.Ste;

    /// <summary>Whether groups run along the inputs (default) or the outputs; convolutions are always grouped along input channels.</summary>
    public NmLayout Direction { get; init; } = NmLayout.Row;

    /// <summary>λ_w of SR-STE. Default 2e-4.</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public double SrSteLambda
    {
        get;
        init => field = Checked(value, value >= 0, "sr_ste_lambda", "0 or positive");
    } = 2e-4;

    /// <summary>Parts of the names of the weights that are made sparse. Null (default) takes the feed-forward maps; in a net without such, all whose groups come out even.</summary>
    public IReadOnlyList<string>? Layers { get; init; }

    /// <summary>Whether groups may run over the end of a row, as in the official code; hardware cannot use that. Default false.</summary>
    public bool Straddle { get; init; }

    /// <inheritdoc/>
    public void Check(IReadOnlyList<NetWeight> weights, int steps)
    {
        EspalierException.Require(N < M, $"A pattern of {N}:{M} removes nothing; n must be below m.");
        EspalierException.Require(Dense + FineTune < 1, FormattableString.Invariant($"A dense share of {Dense} and a fine-tuning share of {FineTune} leave no steps between them; shorten one."));
        EspalierException.Require(Direction is not NmLayout.Conv, "The direction is row or col; convolutions are grouped along their input channels by themselves.");
        PgfnmSchedule schedule = Schedule(steps);
        int largest = schedule.Frames().Max(f => f.M);
        double left = PgfnmSchedule.Beta(Decay, CoefficientFor(schedule), schedule.Total - schedule.Dense);
        EspalierException.Require(FineTune > 0 || left <= 1.001e-3,
            FormattableString.Invariant($"With a coefficient of {Coefficient} pruned weights still count {left:G3} at the end, and folding the mask would spoil the net; raise the coefficient or give a fine_tune share."));
        foreach (NetWeight weight in Chosen(weights, largest))
        {
            long along = Along(weight);
            EspalierException.Require(Straddle ? weight.Value.numel() % largest == 0 : along % largest == 0,
                $"{weight.Name} [{string.Join(", ", weight.Value.shape)}] does not divide into groups of {largest}; leave it out (layers), choose another pattern or direction{(Straddle ? "" : ", or allow groups over the end of a row (straddle)")}.");
        }
    }

    /// <inheritdoc/>
    public ISparseTrainingRun Begin(SparseTrainingContext context)
    {
        Check(context.Weights, context.Steps);
        return new Run(this, context);
    }

    /// <summary>m: of every M weights in a row the N with the largest |W| stay; among equals the lower index is pruned first.</summary>
    /// <param name="weight">[out, in] or [out, in, k, k].</param>
    /// <param name="n">N.</param>
    /// <param name="m">M; must divide the number of weights.</param>
    /// <param name="layout">The order in which weights are grouped.</param>
    /// <returns>bool, shaped like the weight, in the caller's scope.</returns>
    public static Tensor Mask(Tensor weight, int n, int m, NmLayout layout)
    {
        EspalierException.Require(n >= 1 && n < m, $"A pattern of {n}:{m} is none; n is at least 1 and below m.");
        EspalierException.Require(weight.numel() % m == 0, $"A weight [{string.Join(", ", weight.shape)}] does not divide into groups of {m}.");
        using var scope = NewDisposeScope();
        Tensor plain = weight.detach();
        Tensor ordered = layout switch { NmLayout.Col => plain.t(), NmLayout.Conv => plain.permute(0, 2, 3, 1), _ => plain };
        Tensor keep = MaskSelection.KeepLargestPerGroup(ordered.abs().reshape(-1, m), m - n, m, "a weight").view(ordered.shape);
        return (layout switch { NmLayout.Col => keep.t(), NmLayout.Conv => keep.permute(0, 3, 1, 2), _ => keep }).contiguous().MoveToOuterDisposeScope();
    }

    /// <summary>W_eff = W ∘ (m + (1 − m)β), within the graph of gradients.</summary>
    /// <param name="weight">W.</param>
    /// <param name="keep">m.</param>
    /// <param name="beta">β.</param>
    /// <param name="flow">What gradient W gets.</param>
    public static Tensor Effective(Tensor weight, Tensor keep, double beta, GradientFlow flow)
    {
        Tensor factor = keep.to(weight.dtype).mul_(1 - beta).add_(beta);
        // The second term is exactly 0; it carries the whole gradient.
        return flow is GradientFlow.Chain ? weight * factor : (weight.detach() * factor) + (weight - weight.detach());
    }

    private PgfnmSchedule Schedule(int steps) => new(Decay, N, M, steps, Math.Floor(Dense * steps), Math.Floor(FineTune * steps));

    private double CoefficientFor(PgfnmSchedule schedule)
    {
        double length = Math.Max(1, schedule.Total - schedule.Dense - schedule.FineTune);
        return Coefficient ?? (Decay is NmDecay.Linear ? 1 / length : Math.Log(1000) / length);
    }

    private IReadOnlyList<NetWeight> Chosen(IReadOnlyList<NetWeight> weights, int largest)
    {
        IReadOnlyList<string> words = Layers ?? feedForward;
        NetWeight[] named = [.. weights.Where(w => words.Any(word => w.Name.Contains(word, StringComparison.OrdinalIgnoreCase)))];
        NetWeight[] chosen = named.Length > 0 || Layers is not null ? named : [.. weights.Where(w => Along(w) % largest == 0)];
        EspalierException.Require(chosen.Length > 0, Layers is null
            ? $"No weight of the net divides into groups of {largest}; choose a smaller pattern."
            : $"No weight has any of '{string.Join(", ", words)}' in its name; the first are {string.Join(", ", weights.Take(4).Select(w => w.Name))}.");
        return chosen;
    }

    private NmLayout LayoutOf(NetWeight weight) => weight.Value.dim() == 4 ? NmLayout.Conv
        : weight.InputsFirst ? (Direction is NmLayout.Row ? NmLayout.Col : NmLayout.Row) : Direction;

    private long Along(NetWeight weight) => LayoutOf(weight) is NmLayout.Col ? weight.Value.shape[0] : weight.Value.shape[1];

    private static T Checked<T>(T value, bool holds, string what, string wanted) => Retraining.OptionCheck.Checked(value, holds, "pgfnm", what, wanted);
}
