using System.Globalization;
using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// SaRA: the weights that hardly matter, those of smallest absolute value, are the trainable parameters of a fine-tune. Pick it to adapt a model to a small new data set without
/// eroding what it could do, with no extra modules and no inference cost.
/// </summary>
/// <remarks>
/// After the official repository (sjtuplayer/SaRA). Its packed optimiser writes |θ| into the weights for a step and leaves the rank loss without effect; here signed values are written and
/// the rank loss acts.
/// </remarks>
[Method("sara", "SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank Adaptation",
    Family = "Adaptation",
    Source = "Hu et al., arXiv 2409.06633",
    Summary = "Trains the weights of smallest absolute value in place: no modules, no inference cost, and what the model could do stays.",
    Fits = "adaptation of language models and vision nets; its own masked AdamW; zeros of pruned weights stay")]
public sealed partial record Sara : IAdaptation
{
    /// <summary>A rank loss on so few selected entries or fewer is left out.</summary>
    internal const long FewestForRank = 100;

    /// <summary>θ: entries with |w| below it are trained. Default 2e-3, which suits Stable Diffusion 1.5; <see cref="Ratio"/> wins over it.</summary>
    /// <exception cref="EspalierException">Unless positive.</exception>
    public double Threshold
    {
        get;
        init => field = Checked(value, value > 0 && double.IsFinite(value), "threshold", "above 0, for example 2e-3");
    } = 2e-3;

    /// <summary>The share of all entries that are trained; θ follows from it. Null (default) takes <see cref="Threshold"/>.</summary>
    /// <exception cref="EspalierException">Outside (0, 1].</exception>
    public double? Ratio
    {
        get;
        init => field = Checked(value, value is null or (> 0 and <= 1), "ratio", "above 0 and at most 1, for example 0.1");
    }

    /// <summary>λ, the strength of the nuclear norm of W ⊙ M. Default 5e-4; 0 leaves it out.</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public double LambdaRank
    {
        get;
        init => field = Checked(value, value >= 0 && double.IsFinite(value), "lambda_rank", "0 or more");
    } = 5e-4;

    /// <summary>Matrices whose smaller side is at most this have no rank loss. Default 64.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int RankAboveSide
    {
        get;
        init => field = Checked(value, value >= 1, "rank_above_side", "at least 1");
    } = 64;

    /// <summary>Whether convolutions count for the rank loss as matrices [out, in·k·k]. Default false: matrices only.</summary>
    public bool RankOfConvolutions { get; init; }

    /// <summary>After so many steps entries that have grown past θ are frozen. Null (default): after half of the steps; −1 never.</summary>
    /// <exception cref="EspalierException">Below −1.</exception>
    public int? ProgressiveStep
    {
        get;
        init => field = Checked(value, value is null or >= -1, "progressive_step", "a number of steps, or -1 for never");
    }

    /// <summary>The decoupled decay of trained entries. Default 1e-2.</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public double WeightDecay
    {
        get;
        init => field = Checked(value, value >= 0 && double.IsFinite(value), "weight_decay", "0 or more");
    } = 1e-2;

    /// <summary>Whether the learning rate is <see cref="LearningRateFor"/> of θ in place of the run's; its schedule stays. Default true.</summary>
    public bool RateByThreshold { get; init; } = true;

    /// <summary>Whether entries that are exactly 0 stay out, as those of a pruned model must. Default false: they are below any θ.</summary>
    public bool ExcludeZeros { get; init; }

    /// <summary>Step 2: the learning rate 1e-3·exp(−350·θ).</summary>
    /// <param name="threshold">θ.</param>
    public static double LearningRateFor(double threshold) => 1e-3 * Math.Exp(-350 * threshold);

    /// <summary>Step 1: |w| &lt; θ, strictly, with θ rounded to float32; bool, shaped like <paramref name="values"/>.</summary>
    /// <param name="values">W, any shape.</param>
    /// <param name="threshold">θ.</param>
    /// <exception cref="EspalierException">When a weight is NaN.</exception>
    public static Tensor Select(Tensor values, double threshold)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor size = values.detach().abs();
        EspalierException.Require(!size.isnan().any().item<bool>(), "A weight is NaN, so nothing can be selected by size; check the checkpoint.");
        return size.lt(tensor((float)threshold, device: values.device)).MoveToOuterDisposeScope();
    }

    /// <summary>Step 1: θ of a ratio: the pooled |w| in ascending order at place ⌊ρ·n⌋, from 0. Entries equal to θ stay out.</summary>
    /// <param name="values">All tensors of the pool.</param>
    /// <param name="ratio">ρ, from 0 to 1.</param>
    /// <exception cref="EspalierException">When there is nothing, or the ratio is impossible.</exception>
    public static double ThresholdFor(IEnumerable<Tensor> values, double ratio)
    {
        EspalierException.Require(ratio is >= 0 and <= 1, string.Create(CultureInfo.InvariantCulture, $"A ratio of {ratio} is not possible; it is a share of the weights, from 0 to 1."));
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor pool = cat([.. values.Select(v => v.detach().flatten().abs().to(ScalarType.Float32).cpu())]);
        EspalierException.Require(pool.numel() > 0 && !pool.isnan().any().item<bool>(), "A ratio needs weights that are numbers; the pool is empty or holds NaN.");
        long place = (long)Math.Floor(ratio * pool.numel());
        (Tensor sorted, _) = pool.sort();

        // All of them: the least number above the largest.
        return place < pool.numel() ? sorted[place].item<float>() : MathF.BitIncrement(sorted[-1].item<float>());
    }

    /// <summary>Step 3: λ·‖P ⊙ M‖_* and its gradient λ·(U·Vᵀ) ⊙ M by the thin SVD of P ⊙ M; singular values below 1e-7 of the largest give none.</summary>
    /// <param name="values">P [rows, columns].</param>
    /// <param name="mask">M, the same shape.</param>
    /// <param name="lambda">λ.</param>
    /// <returns>The loss, and the gradient in P's type in the caller's scope.</returns>
    public static (double Loss, Tensor Gradient) NuclearNorm(Tensor values, Tensor mask, double lambda)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        ThinSvd svd = ThinSvd.Of(values.detach().mul(mask), "the selected weights");
        return (lambda * svd.S.sum().item<double>(), svd.Polar(1e-7).mul_(lambda).mul_(mask).to(values.dtype).MoveToOuterDisposeScope());
    }

    private static T Checked<T>(T value, bool holds, string name, string wanted)
    {
        EspalierException.Require(holds, string.Create(CultureInfo.InvariantCulture, $"sara.{name} is {value}; it must be {wanted}."));
        return value;
    }
}
