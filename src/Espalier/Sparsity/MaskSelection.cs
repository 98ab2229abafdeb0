using System.Globalization;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>
/// Turns scores into masks: which weights stay. The one selection that every criterion shares. Counts are exact,
/// floor(n·sparsity) from a double product, and among equal scores the lower index is pruned first.
/// </summary>
/// <remarks>
/// Masks are bool tensors of the scores' shape, true stays, kept beside the weights, so that a weight that is 0 by chance
/// and one that was pruned stay distinguishable. Non-finite scores are refused with the layer's name.
/// </remarks>
public static class MaskSelection
{
    /// <summary>How many of <paramref name="count"/> weights a sparsity removes: floor(count·sparsity).</summary>
    /// <exception cref="EspalierException">When the sparsity is outside [0, 1).</exception>
    public static long PruneCount(long count, double sparsity)
    {
        EspalierException.Require(sparsity is >= 0 and < 1,
            string.Create(CultureInfo.InvariantCulture, $"A sparsity of {sparsity} is not possible; it is the share of weights removed, from 0 up to but not including 1."));
        return (long)Math.Floor(count * sparsity);
    }

    /// <summary>Lets a criterion choose the mask of one layer: by its own rule where it has one, else by its scores.</summary>
    /// <param name="criterion">What ranks the weights.</param>
    /// <param name="layer">The dense layer and what is known of its inputs.</param>
    /// <param name="pattern">What may be removed.</param>
    /// <param name="scope">Which weights are ranked together: row or layer; the criterion's own where it is the default.</param>
    /// <param name="sparsity">The share of this layer to remove (an N:M pattern fixes it).</param>
    /// <returns>[out, in], bool.</returns>
    public static Tensor Choose(ICriterion criterion, LayerContext layer, Pattern pattern, Scope scope, double sparsity)
    {
        using var disposing = NewDisposeScope();
        using var _ = no_grad();
        Scope inForce = scope is Scope.Default ? criterion.DefaultScope : scope;
        Tensor? own = (criterion as IMaskingCriterion)?.Keep(layer, pattern, inForce, sparsity);
        return (own ?? Keep(criterion.Score(layer), pattern, inForce, sparsity, layer.Name)).MoveToOuterDisposeScope();
    }

    /// <summary>The mask of one layer from its scores.</summary>
    /// <param name="score">[out, in] (or [out, ...], flattened to rows), finite.</param>
    /// <param name="pattern">What may be removed.</param>
    /// <param name="scope">Which weights are ranked together: row or layer. A global ranking needs a <see cref="GlobalSelection"/>.</param>
    /// <param name="sparsity">The share of this layer to remove; an N:M pattern ignores it.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <exception cref="EspalierException">For non-finite scores, a sparsity outside [0, 1), or rows that do not divide into groups.</exception>
    public static Tensor Keep(Tensor score, Pattern pattern, Scope scope, double sparsity, string layer) => (pattern, scope) switch
    {
        (Pattern.SemiStructuredPattern groups, _) => KeepLargestPerGroup(score, groups.M - groups.N, groups.M, layer),
        (_, Scope.Row) => KeepLargestPerRow(score, sparsity, layer),
        (_, Scope.Layer) => KeepLargestPerLayer(score, sparsity, layer),
        _ => throw new EspalierException($"The scope {scope.ToString().ToLowerInvariant()} cannot rank the weights of {layer} alone; use row or layer."),
    };

    /// <summary>Each row (the first dimension) loses exactly its floor(C·sparsity) smallest scores.</summary>
    public static unsafe Tensor KeepLargestPerRow(Tensor score, double sparsity, string layer)
    {
        using var scope = NewDisposeScope();
        Tensor rows = Scores(score);
        long rowCount = score.dim() == 0 ? 1 : score.shape[0];
        long columns = rowCount == 0 ? 0 : score.numel() / rowCount;
        long count = PruneCount(columns, sparsity);
        Tensor keep = empty(score.shape, ScalarType.Bool);
        nint from = (nint)TensorMemory.Pointer<float>(rows);
        nint to = (nint)TensorMemory.Pointer<byte>(keep);
        bool finite = true;
        Parallel.For(0, rowCount, row =>
        {
            if (!SmallestSelection.Mark((float*)from + row * columns, (byte*)to + row * columns, columns, count))
            {
                Volatile.Write(ref finite, false);
            }
        });
        GC.KeepAlive(rows);
        RequireFinite(finite, layer);
        return keep.to(score.device).MoveToOuterDisposeScope();
    }

    /// <summary>The layer loses exactly its floor(numel·sparsity) smallest scores.</summary>
    public static Tensor KeepLargestPerLayer(Tensor score, double sparsity, string layer) =>
        KeepAllButSmallest(score, PruneCount(score.numel(), sparsity), layer);

    /// <summary>The layer loses exactly the given number of its smallest scores.</summary>
    /// <param name="score">Any shape, finite.</param>
    /// <param name="count">How many go, from 0 to all.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    public static Tensor KeepAllButSmallest(Tensor score, long count, string layer)
    {
        EspalierException.Require(count >= 0 && count <= score.numel(), $"Of the {score.numel()} weights of {layer}, {count} cannot be removed.");
        using var scope = NewDisposeScope();
        Tensor keep = empty(score.shape, ScalarType.Bool);
        RequireFinite(MarkAll(Scores(score), keep, count), layer);
        return keep.to(score.device).MoveToOuterDisposeScope();
    }

    /// <summary>Of every <paramref name="m"/> consecutive inputs of a row, the <paramref name="pruneN"/> smallest scores go.</summary>
    /// <param name="score">[rows, C] or [rows, ...], flattened to rows; C is divisible by m.</param>
    /// <param name="pruneN">How many of each group are removed, 0 to m.</param>
    /// <param name="m">The size of a group.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    public static unsafe Tensor KeepLargestPerGroup(Tensor score, int pruneN, int m, string layer)
    {
        EspalierException.Require(m > 0 && pruneN >= 0 && pruneN <= m, $"Pruning {pruneN} of every {m} weights of {layer} is not possible; the first must lie between 0 and the second.");
        using var scope = NewDisposeScope();
        Tensor rows = Scores(score);
        long rowCount = score.dim() == 0 ? 1 : score.shape[0];
        long columns = rowCount == 0 ? 0 : score.numel() / rowCount;
        EspalierException.Require(columns % m == 0,
            $"{layer} has {columns} inputs, which do not divide into groups of {m}; leave the layer out, or use an unstructured pattern.");
        Tensor keep = empty(score.shape, ScalarType.Bool);
        nint from = (nint)TensorMemory.Pointer<float>(rows);
        nint to = (nint)TensorMemory.Pointer<byte>(keep);
        bool finite = true;
        Parallel.For(0, rowCount, row =>
        {
            for (long start = row * columns; start < (row + 1) * columns; start += m)
            {
                if (!MarkGroup(new ReadOnlySpan<float>((float*)from + start, m), new Span<byte>((byte*)to + start, m), pruneN))
                {
                    Volatile.Write(ref finite, false);
                }
            }
        });
        GC.KeepAlive(rows);
        RequireFinite(finite, layer);
        return keep.to(score.device).MoveToOuterDisposeScope();
    }

    /// <summary>The weights with the pruned ones exactly 0, as a new tensor.</summary>
    /// <remarks>Filled and not multiplied: a product would keep a minus sign.</remarks>
    public static Tensor Apply(Tensor weight, Tensor keep)
    {
        using Tensor prune = keep.logical_not();
        return weight.masked_fill(prune, 0);
    }

    /// <summary>The share of weights that a mask removes, in [0, 1].</summary>
    public static double Sparsity(Tensor keep)
    {
        using Tensor kept = keep.count_nonzero();
        return keep.numel() == 0 ? 0 : 1 - (double)kept.item<long>() / keep.numel();
    }

    /// <summary>Whether every group of <paramref name="m"/> consecutive inputs keeps at most <paramref name="n"/> weights.</summary>
    public static bool IsSemiStructured(Tensor keep, int n, int m)
    {
        using var scope = NewDisposeScope();
        return keep.numel() / Math.Max(1, keep.shape[0]) % m == 0 && (keep.reshape(-1, m).to(ScalarType.Int32).sum(1) <= n).all().item<bool>();
    }

    /// <summary>Selects within one group: repeatedly the smallest that is left, the lower column where two are equal.</summary>
    internal static bool MarkGroup(ReadOnlySpan<float> scores, Span<byte> keep, int prune)
    {
        keep.Fill(1);
        foreach (float score in scores)
        {
            if (!float.IsFinite(score))
            {
                return false;
            }
        }

        for (int k = 0; k < prune; k++)
        {
            int smallest = -1;
            for (int i = 0; i < scores.Length; i++)
            {
                if (keep[i] != 0 && (smallest < 0 || scores[i] < scores[smallest]))
                {
                    smallest = i;
                }
            }

            keep[smallest] = 0;
        }

        return true;
    }

    private static unsafe bool MarkAll(Tensor scores, Tensor keep, long count)
    {
        bool finite = SmallestSelection.Mark(TensorMemory.Pointer<float>(scores), TensorMemory.Pointer<byte>(keep), scores.numel(), count);
        GC.KeepAlive(scores);
        GC.KeepAlive(keep);
        return finite;
    }

    /// <summary>
    /// Scores in ordinary memory as float32, which the storage types of checkpoints widen to exactly. Float64 scores are
    /// replaced by their ranks, because rounding could make two of them equal and change who goes first.
    /// </summary>
    private static Tensor Scores(Tensor score)
    {
        Tensor plain = score.detach().to(CPU);
        bool rank = plain.dtype is ScalarType.Float64 && plain.numel() < 1 << 24 && plain.isfinite().all().item<bool>();
        return (rank ? plain.unique(sorted: true, return_inverse: true).inverse_indices! : plain).to(ScalarType.Float32).contiguous();
    }

    private static void RequireFinite(bool finite, string layer) =>
        EspalierException.Require(finite, $"The scores of {layer} hold NaN or infinite values; its weights or its calibration inputs are damaged.");
}
