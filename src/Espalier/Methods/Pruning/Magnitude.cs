using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>How many weights a threshold on the magnitude removes.</summary>
public enum MagnitudeCount
{
    /// <summary>Exactly floor(n·sparsity); among equal magnitudes the lower index goes first.</summary>
    Exact,

    /// <summary>All |W| up to the value at index floor(n·sparsity), as the published baselines do: one more than floor, more with ties.</summary>
    Compat,
}

/// <summary>
/// Magnitude pruning: the importance of a weight is |W|. Needs no data; the baseline that every other criterion reports
/// its gain over, and the first half of iterative magnitude pruning.
/// </summary>
/// <remarks>
/// Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (NIPS 2015). For language models the
/// ranking is per layer (<see cref="Scope.Layer"/>); for vision networks one ranking over all layers
/// (<see cref="Scope.Global"/>) adapts the share of each layer.
/// </remarks>
[Method("magnitude", "Learning both Weights and Connections for Efficient Neural Networks",
    Family = "Pruning",
    Source = "Han, Pool, Tran, Dally, arXiv 1506.02626, NIPS 2015",
    Summary = "Removes the smallest |weights|: needs no data, and is the baseline of every other criterion.",
    Fits = "criterion; unstructured (row, layer, global), N:M or structured (heads, neurons); any allocator, repair and retraining")]
public sealed partial class Magnitude : IMaskingCriterion
{
    /// <summary>Which count a layer-wise ranking removes; exact by default, <see cref="MagnitudeCount.Compat"/> equals the published baselines.</summary>
    public MagnitudeCount Count { get; init; } = MagnitudeCount.Exact;

    /// <inheritdoc/>
    public CalibrationNeeds Needs => CalibrationNeeds.None;

    /// <inheritdoc/>
    public Scope DefaultScope => Scope.Layer;

    /// <inheritdoc/>
    public bool HasOwnCount => Count is MagnitudeCount.Compat;

    /// <inheritdoc/>
    public Tensor Score(LayerContext layer) => layer.Weight.detach().abs();

    /// <inheritdoc/>
    public Tensor? Keep(LayerContext layer, Pattern pattern, Scope scope, double sparsity) =>
        Count is MagnitudeCount.Compat && pattern is Pattern.UnstructuredPattern && scope is Scope.Layer
            ? MaskLayer(layer.Weight, sparsity, layer.Name)
            : null;

    /// <summary>
    /// The published layer-wise rule: threshold = sorted |W| at index floor(numel·sparsity), pruned is |W| &lt;= threshold.
    /// It removes floor(numel·sparsity)+1 weights when their magnitudes differ, and one even at sparsity 0.
    /// </summary>
    /// <param name="W">[R, C], finite.</param>
    /// <param name="sparsity">In [0, 1).</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <returns>keep [R, C], bool.</returns>
    public static Tensor MaskLayer(Tensor W, double sparsity, string layer = "the layer")
    {
        long index = MaskSelection.PruneCount(W.numel(), sparsity);
        using var scope = NewDisposeScope();
        RequireFinite(W, layer);
        Tensor magnitude = W.detach().abs();
        if (magnitude.numel() == 0)
        {
            return magnitude.to(ScalarType.Bool).MoveToOuterDisposeScope();
        }

        Tensor threshold = magnitude.reshape(-1).kthvalue(index + 1, 0, false).values;
        return (magnitude > threshold).MoveToOuterDisposeScope();
    }

    /// <summary>Per row, of every <paramref name="m"/> consecutive inputs the <paramref name="pruneN"/> smallest |W| are pruned; the lower column first.</summary>
    /// <param name="W">[R, C] or [out, in, kh, kw] (groups then run along in·kh·kw).</param>
    /// <param name="pruneN">How many of each group are removed.</param>
    /// <param name="m">The size of a group; divides C.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <returns>keep of W's shape, bool.</returns>
    public static Tensor MaskNM(Tensor W, int pruneN, int m, string layer = "the layer")
    {
        using var scope = NewDisposeScope();
        RequireFinite(W, layer);
        return MaskSelection.KeepLargestPerGroup(W.detach().abs(), pruneN, m, layer).MoveToOuterDisposeScope();
    }

    /// <summary>One ranking over all layers: exactly floor(total·sparsity) weights go; among equal |W| by (layer, row-major index).</summary>
    /// <param name="weights">Name and weight of every prunable layer, any shapes; not biases or norms.</param>
    /// <param name="sparsity">In [0, 1), over all of them.</param>
    /// <returns>One keep mask per layer, of its shape.</returns>
    public static IReadOnlyList<Tensor> MaskGlobal(IReadOnlyList<(string Name, Tensor Weight)> weights, double sparsity)
    {
        MaskSelection.PruneCount(0, sparsity);
        using var scope = NewDisposeScope();
        (string Name, Tensor Score)[] scores = [.. weights.Select(w => (w.Name, w.Weight.detach().abs()))];
        var selection = new GlobalSelection(sparsity);
        Array.ForEach(scores, s => selection.CountHigh(s.Score, s.Name));
        Array.ForEach(scores, s => selection.CountLow(s.Score, s.Name));
        return [.. scores.Select(s => selection.Keep(s.Score, s.Name).MoveToOuterDisposeScope())];
    }

    /// <summary>Iterative pruning: the sparsity after round k of K, s_k = 1 − (1−s)^(k/K). Every round removes the same share of what is left.</summary>
    /// <param name="sparsity">s, the final share removed, in [0, 1).</param>
    /// <param name="round">k, from 0 (dense) to K.</param>
    /// <param name="rounds">K, at least 1.</param>
    public static double SparsityAfterRound(double sparsity, int round, int rounds)
    {
        MaskSelection.PruneCount(0, sparsity);
        EspalierException.Require(rounds >= 1 && round >= 0 && round <= rounds, $"Round {round} of {rounds} does not exist; rounds count from 0 to at least 1.");
        return round == rounds ? sparsity : 1 - Math.Pow(1 - sparsity, (double)round / rounds);
    }

    private static void RequireFinite(Tensor W, string layer) =>
        EspalierException.Require(W.isfinite().all().item<bool>(), $"The weights of {layer} hold NaN or infinite values; the checkpoint is damaged.");
}
