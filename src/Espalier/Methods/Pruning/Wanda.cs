using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>
/// Wanda: pruning by weights and activations. The importance of a weight is |W_ij|·‖X_j‖, ranked within each output row;
/// no weight is changed. Seconds per layer, and the baseline of every language-model criterion here.
/// </summary>
/// <remarks>
/// Sun, Liu, Bair, Kolter, "A Simple and Effective Pruning Approach for Large Language Models". Input norms are means
/// over calibration sequences (not tokens). An input that was always 0 gives the score 0, and its weights go first.
/// </remarks>
[Method("wanda", "A Simple and Effective Pruning Approach for Large Language Models",
    Family = "Pruning",
    Source = "Sun, Liu, Bair, Kolter, arXiv 2306.11695, ICLR 2024",
    Summary = "Prunes by |weight| × input norm within each output row: one-shot, no training, seconds per layer.",
    Fits = "criterion; unstructured (row, layer, global), N:M or structured (heads, neurons); any allocator, repair and retraining")]
public sealed partial class Wanda : IMaskingCriterion
{
    /// <summary>
    /// The paper's variant: every row loses the largest group of smallest scores whose sum is at most a share alpha of the
    /// row's total, with alpha found by bisection so that the layer meets its sparsity. Off by default. Unstructured only.
    /// </summary>
    public bool UseVariant { get; init; }

    /// <inheritdoc/>
    public CalibrationNeeds Needs => CalibrationNeeds.InputNorms;

    /// <inheritdoc/>
    public Scope DefaultScope => Scope.Row;

    /// <inheritdoc/>
    public bool HasOwnCount => UseVariant;

    /// <inheritdoc/>
    public Tensor Score(LayerContext layer)
    {
        EspalierException.Require(layer.InputNorms is not null, $"Wanda needs the input norms of {layer.Name}; give the plan calibration text.");
        return Score(layer.Weight, layer.InputNorms, layer.Name);
    }

    /// <inheritdoc/>
    public Tensor? Keep(LayerContext layer, Pattern pattern, Scope scope, double sparsity)
    {
        if (!UseVariant)
        {
            return null;
        }

        EspalierException.Require(pattern is Pattern.UnstructuredPattern && scope is Scope.Row,
            $"Wanda's variant ranks unstructured weights within rows, but the plan asks for the pattern {pattern} with the scope {scope.ToString().ToLowerInvariant()}; turn use_variant off or change the pattern.");
        using var disposing = NewDisposeScope();
        return MaskVariant(Score(layer), sparsity, layer.Name).Keep.MoveToOuterDisposeScope();
    }

    /// <summary>S_ij = |W_ij|·sqrt(s_j).</summary>
    /// <param name="W">[R, C].</param>
    /// <param name="scalerRow">s [C]: the mean over sequences of ‖X[:, j]‖².</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <returns>[R, C], float32.</returns>
    public static Tensor Score(Tensor W, Tensor scalerRow, string layer = "the layer")
    {
        EspalierException.Require(W.dim() == 2 && scalerRow.numel() == W.shape[1],
            $"{layer} has {(W.dim() == 2 ? W.shape[1] : W.numel())} inputs, but {scalerRow.numel()} input norms were given; they must come from the same layer.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        return (W.detach().abs() * scalerRow.reshape(1, -1).sqrt()).to(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <summary>The variant's mask by bisection of alpha, starting at 0.4 within [0, 0.8].</summary>
    /// <param name="score">S [R, C].</param>
    /// <param name="sparsity">The share of the layer to remove, in [0, 1).</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <returns>keep [R, C], the last alpha tried, and the share that it prunes (within 0.001, where the interval allows).</returns>
    public static (Tensor Keep, double Alpha, double Sparsity) MaskVariant(Tensor score, double sparsity, string layer = "the layer")
    {
        MaskSelection.PruneCount(score.numel(), sparsity);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        EspalierException.Require(score.isfinite().all().item<bool>(), $"The scores of {layer} hold NaN or infinite values; its weights or its calibration inputs are damaged.");
        Tensor sorted = score.sort(dim: -1, descending: false, stable: true).Values;
        Tensor cumulative = sorted.cumsum(-1);
        Tensor total = score.sum(-1, keepdim: true);

        double alpha = 0.4, low = 0, high = 0.8;
        (Tensor keep, double achieved) = AtAlpha(score, sorted, cumulative, total, alpha);
        while (Math.Abs(achieved - sparsity) > 0.001 && high - low >= 0.001)
        {
            if (achieved > sparsity)
            {
                (high, alpha) = (alpha, (alpha + low) / 2);
            }
            else
            {
                (low, alpha) = (alpha, (alpha + high) / 2);
            }

            keep.Dispose();
            (keep, achieved) = AtAlpha(score, sorted, cumulative, total, alpha);
        }

        return (keep.MoveToOuterDisposeScope(), alpha, achieved);
    }

    private static (Tensor Keep, double Sparsity) AtAlpha(Tensor score, Tensor sorted, Tensor cumulative, Tensor total, double alpha)
    {
        using var scope = NewDisposeScope();
        Tensor qualifying = (cumulative <= total * alpha).sum(-1, keepdim: true);
        Tensor threshold = sorted.gather(-1, (qualifying - 1).clamp_min(0));

        // The official code fails where not even the smallest score qualifies; such a row loses nothing.
        Tensor prune = (score <= threshold).logical_and(qualifying > 0);
        double share = score.numel() == 0 ? 0 : (double)prune.sum().item<long>() / score.numel();
        return (prune.logical_not().MoveToOuterDisposeScope(), share);
    }
}
