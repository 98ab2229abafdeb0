using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What DSnoT knows of a layer's inputs, each [C], float32.</summary>
/// <param name="SumRow">sum_j: mean over sequences of the sum over tokens of x_j.</param>
/// <param name="ScalerRow">s_j: mean over sequences of ‖X[:, j]‖², as in Wanda.</param>
/// <param name="Var">var_j: token-weighted mean of the population variances within each sequence.</param>
/// <param name="Mean">mean_j: the mean over all tokens.</param>
public sealed record DSnoTStatistics(Tensor SumRow, Tensor ScalerRow, Tensor Var, Tensor Mean);

/// <summary>How rows are refined; the defaults are the published code's.</summary>
public sealed record DSnoTRules
{
    /// <summary>Most swaps per row.</summary>
    public int MaxCycle { get; init; } = 50;

    /// <summary>Most swaps per row as a share of its kept weights, at least one; 1 leaves <see cref="MaxCycle"/> alone in force.</summary>
    public double CycleShare { get; init; } = 1;

    /// <summary>A row stops when |e| is at most this.</summary>
    public double Threshold { get; init; } = 0.1;

    /// <summary>p in G_j = D_j / var_j^p; 0 is off.</summary>
    public double PowVar { get; init; } = 1;

    /// <summary>Stop before the sign of e turns. Always on with <see cref="GroupSize"/>.</summary>
    public bool RequireSameSign { get; init; }

    /// <summary>m of an N:M pattern: both weights of a swap lie in one group of m columns; null for unstructured masks.</summary>
    public int? GroupSize { get; init; }

    /// <summary>With <see cref="GroupSize"/>: the metric whose smallest kept weight of a group is given up.</summary>
    public DSnoTMetric GroupMetric { get; init; } = DSnoTMetric.Wanda;
}

/// <summary>A refined mask.</summary>
/// <param name="Keep">[R, C], bool.</param>
/// <param name="Swaps">[R], int64: the swaps done in each row.</param>
/// <param name="ErrorStart">[R], float32: e before the first swap, signed.</param>
/// <param name="ErrorEnd">[R], float32: e after the last.</param>
public sealed record DSnoTRefinement(Tensor Keep, Tensor Swaps, Tensor ErrorStart, Tensor ErrorEnd);

public sealed partial class DSnoT
{
    private const double SmallestVariance = 1e-12; // a constant input would divide by zero

    /// <summary>Step 1: statistics of a layer's inputs.</summary>
    /// <param name="X">[sequences, tokens, C].</param>
    /// <exception cref="EspalierException">For another shape, no tokens, or values that are not finite.</exception>
    public static DSnoTStatistics Stats(Tensor X)
    {
        EspalierException.Require(X.dim() == 3 && X.shape[0] > 0 && X.shape[1] > 0, $"DSnoT's statistics need inputs of the shape [sequences, tokens, inputs], not [{string.Join(", ", X.shape)}].");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor x = X.detach().to(ScalarType.Float64);
        EspalierException.Require(x.isfinite().all().item<bool>(), "The inputs of the layer hold NaN or infinite values; the model overflows or is damaged.");
        Tensor within = x - x.mean([1], keepdim: true);
        return new DSnoTStatistics(
            Out(x.sum(1).mean([0])), Out(x.pow(2).sum(1).mean([0])), Out(within.pow(2).mean([0, 1])), Out(x.mean([0, 1])));

        static Tensor Out(Tensor t) => t.to(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Step 6: orders columns so that from the left come negative D in the order given, from the right positive D in the
    /// order given; zeros stand last, where the published code loses count.
    /// </summary>
    /// <param name="D">[R, K].</param>
    /// <returns>index [R, K], int64, positions in the given D; reordered [R, K], D at these.</returns>
    public static (Tensor Index, Tensor Reordered) Reorder(Tensor D)
    {
        EspalierException.Require(D.dim() == 2, $"Reordering needs D of the shape [rows, kept], not [{string.Join(", ", D.shape)}].");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        long rows = D.shape[0], kept = D.shape[1];
        double[] d = Numbers(D);
        var index = new long[d.Length];
        for (long row = 0; row < rows; row++)
        {
            int start = (int)(row * kept);
            int[] order = Reorder([.. Enumerable.Range(0, (int)kept)], d.AsSpan(start, (int)kept));
            for (int k = 0; k < order.Length; k++)
            {
                index[start + k] = order[k];
            }
        }

        Tensor at = tensor(index, ScalarType.Int64, D.device).reshape(rows, kept);
        return (at.MoveToOuterDisposeScope(), D.detach().gather(1, at).MoveToOuterDisposeScope());
    }

    /// <summary>Step 3: the start mask, the floor(C·sparsity) smallest of each row pruned, the lower column first among equals.</summary>
    /// <param name="W">[R, C].</param>
    /// <param name="scalerRow">s [C].</param>
    /// <param name="metric">The criterion.</param>
    /// <param name="sparsity">In [0, 1).</param>
    /// <returns>keep [R, C], bool.</returns>
    public static Tensor StartMask(Tensor W, Tensor scalerRow, DSnoTMetric metric, double sparsity)
    {
        using Tensor score = Metric(W, scalerRow, metric, "W");
        return MaskSelection.KeepLargestPerRow(score, sparsity, "W");
    }

    /// <summary>The start mask of an N:M pattern: of every <paramref name="m"/> columns of a row the <paramref name="pruneN"/> smallest are pruned.</summary>
    public static Tensor StartMaskNM(Tensor W, Tensor scalerRow, DSnoTMetric metric, int pruneN, int m)
    {
        using Tensor score = Metric(W, scalerRow, metric, "W");
        return MaskSelection.KeepLargestPerGroup(score, pruneN, m, "W");
    }

    /// <summary>Steps 4 to 8: swaps pruned and kept weights of each row until its error is small. Rows are independent.</summary>
    /// <param name="W">The dense weight [R, C].</param>
    /// <param name="keep">The start mask [R, C], bool; rows may keep different numbers.</param>
    /// <param name="sumRow">sum [C].</param>
    /// <param name="scalerRow">s [C].</param>
    /// <param name="variance">var [C]; below 1e-12 counts as 1e-12.</param>
    /// <param name="rules">How.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <exception cref="EspalierException">When shapes do not fit, or a figure is not finite.</exception>
    public static DSnoTRefinement Refine(Tensor W, Tensor keep, Tensor sumRow, Tensor scalerRow, Tensor variance, DSnoTRules rules, string layer = "the layer")
    {
        EspalierException.Require(W.dim() == 2 && keep.dim() == 2 && W.shape.AsSpan().SequenceEqual(keep.shape),
            $"The mask of {layer} is [{string.Join(", ", keep.shape)}], its weight [{string.Join(", ", W.shape)}]; they must be one shape [out, in].");
        long rows = W.shape[0], columns = W.shape[1];
        EspalierException.Require(sumRow.numel() == columns && scalerRow.numel() == columns && variance.numel() == columns,
            $"{layer} has {columns} inputs, but the figures given are of {sumRow.numel()}, {scalerRow.numel()} and {variance.numel()}; they must come from the same layer.");
        EspalierException.Require(rules is { MaxCycle: >= 0, CycleShare: > 0, Threshold: >= 0 }, FormattableString.Invariant(
            $"DSnoT cannot do {rules.MaxCycle} swaps, a share of {rules.CycleShare} or a threshold of {rules.Threshold}; none may be negative, and the share must be above 0."));
        EspalierException.Require(rules.GroupSize is null || (rules.GroupSize > 0 && columns % rules.GroupSize == 0),
            $"{layer} has {columns} inputs, which do not divide into groups of {rules.GroupSize}; leave the layer out, or use an unstructured pattern.");

        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor w = W.detach().to(CPU).to(ScalarType.Float32).contiguous();
        Tensor refined = keep.to(CPU).to(ScalarType.Bool).contiguous().clone();
        Tensor metric = rules.GroupMetric is DSnoTMetric.Magnitude && rules.GroupSize is not null ? w.abs() : Wanda.Score(w, scalerRow.detach().to(CPU).to(ScalarType.Float32), layer);
        double[] sum = Numbers(sumRow);
        double[] divisor = Array.ConvertAll(Numbers(variance), v => Math.Pow(Math.Max(v, SmallestVariance), rules.PowVar));
        EspalierException.Require(metric.isfinite().all().item<bool>() && sum.All(double.IsFinite) && divisor.All(double.IsFinite),
            $"The weights or input figures of {layer} hold NaN or infinite values; the checkpoint or the calibration data is damaged.");
        var swaps = new long[rows];
        var start = new float[rows];
        var end = new float[rows];
        RefineRows(w, metric, refined, sum, divisor, rules, swaps, start, end);
        return new DSnoTRefinement(
            refined.to(W.device).MoveToOuterDisposeScope(), tensor(swaps, ScalarType.Int64, W.device).MoveToOuterDisposeScope(),
            tensor(start, ScalarType.Float32, W.device).MoveToOuterDisposeScope(), tensor(end, ScalarType.Float32, W.device).MoveToOuterDisposeScope());
    }

    private static unsafe void RefineRows(Tensor w, Tensor metric, Tensor keep, double[] sum, double[] divisor, DSnoTRules rules, long[] swaps, float[] start, float[] end)
    {
        int columns = sum.Length;
        nint weights = (nint)TensorMemory.Pointer<float>(w), metrics = (nint)TensorMemory.Pointer<float>(metric), masks = (nint)TensorMemory.Pointer<byte>(keep);
        Parallel.For(0, swaps.Length, row =>
        {
            nint at = row * (nint)columns;
            var refinement = new RowRefinement(
                new ReadOnlySpan<float>((float*)weights + at, columns), new ReadOnlySpan<float>((float*)metrics + at, columns),
                new Span<byte>((byte*)masks + at, columns), sum, divisor, rules);
            (swaps[row], double first, double last) = refinement.Run();
            (start[row], end[row]) = ((float)first, (float)last);
        });
        GC.KeepAlive(w);
        GC.KeepAlive(metric);
        GC.KeepAlive(keep);
    }

    private static Tensor Metric(Tensor W, Tensor scalerRow, DSnoTMetric metric, string layer) =>
        metric is DSnoTMetric.Magnitude ? W.detach().abs() : Wanda.Score(W, scalerRow, layer);

    // Negative D in the order given, then positive D reversed, then zeros.
    private static int[] Reorder(int[] sorted, ReadOnlySpan<double> d)
    {
        var order = new int[sorted.Length];
        int left = 0;
        foreach (int column in sorted)
        {
            if (d[column] < 0)
            {
                order[left++] = column;
            }
        }

        foreach (int column in sorted.AsEnumerable().Reverse())
        {
            if (d[column] > 0)
            {
                order[left++] = column;
            }
        }

        foreach (int column in sorted)
        {
            if (d[column] == 0)
            {
                order[left++] = column;
            }
        }

        return order;
    }

    private static double[] Numbers(Tensor t)
    {
        using var scope = NewDisposeScope();
        return t.detach().to(CPU).to(ScalarType.Float64).contiguous().reshape(-1).data<double>().ToArray();
    }

    /// <summary>The refinement of one row.</summary>
    private readonly ref struct RowRefinement(ReadOnlySpan<float> w, ReadOnlySpan<float> metric, Span<byte> keep, double[] sum, double[] divisor, DSnoTRules rules)
    {
        private readonly ReadOnlySpan<float> _metric = metric;
        private readonly Span<byte> _keep = keep;
        private readonly byte[] _kept = keep.ToArray();         // the start mask: what was kept never grows, what was pruned is never given up again
        private readonly double[] _d = Contributions(w, sum);   // D, step 2

        public (long Swaps, double Start, double End) Run()
        {
            int columns = _kept.Length;
            double e = 0; // step 4: what the pruned weights would have added
            int count = 0;
            for (int j = 0; j < columns; j++)
            {
                e += _kept[j] == 0 ? _d[j] : 0;
                count += _kept[j];
            }

            double start = e;
            int sign = Math.Sign(e);
            long cycles = Math.Min(rules.MaxCycle, rules.CycleShare >= 1 ? int.MaxValue : Math.Max(1, (long)(rules.CycleShare * count)));
            if (cycles == 0 || Math.Abs(e) <= rules.Threshold)
            {
                return (0, start, e);
            }

            bool groups = rules.GroupSize is not null;
            int[] grow = GrowOrder();
            int[] prune = groups ? [] : PruneOrder(count);
            int growLeft = 0, growRight = columns - 1, pruneLeft = 0, pruneRight = prune.Length - 1;
            long swaps = 0;
            while (swaps < cycles && Math.Abs(e) > rules.Threshold)
            {
                // Step 7, with the guard that a row stops for good where a list has nothing fitting left.
                int grown = growLeft > growRight ? -1 : e > 0 ? grow[growRight--] : grow[growLeft++];
                if (grown < 0 || _kept[grown] != 0)
                {
                    break;
                }

                int given = groups ? SmallestOfGroup(grown) : pruneLeft > pruneRight ? -1 : e < 0 ? prune[pruneRight--] : prune[pruneLeft++];
                if (given < 0)
                {
                    break;
                }

                double next = e + _d[given] - _d[grown];
                if ((groups || rules.RequireSameSign) && Math.Sign(next) != sign)
                {
                    break;
                }

                (_keep[given], _keep[grown], e) = (0, 1, next);
                swaps++;
            }

            return (swaps, start, e);
        }

        private static double[] Contributions(ReadOnlySpan<float> w, double[] sum)
        {
            var d = new double[sum.Length];
            for (int j = 0; j < d.Length; j++)
            {
                d[j] = w[j] * sum[j];
            }

            return d;
        }

        // Step 5: all columns by G ascending; kept ones count as 0.
        private int[] GrowOrder()
        {
            var gain = new double[_d.Length];
            for (int j = 0; j < gain.Length; j++)
            {
                gain[j] = _kept[j] == 0 ? _d[j] / divisor[j] : 0;
            }

            return Ascending([.. Enumerable.Range(0, gain.Length)], gain);
        }

        // Step 6: kept columns by |W|·sqrt(s) ascending, then reordered by the sign of D.
        private int[] PruneOrder(int count)
        {
            var columns = new int[count];
            var size = new double[_d.Length];
            for (int j = 0, k = 0; j < size.Length; j++)
            {
                size[j] = _metric[j];
                if (_kept[j] != 0)
                {
                    columns[k++] = j;
                }
            }

            return Reorder(Ascending(columns, size), _d);
        }

        // Step 8: of the group's columns that were kept at the start and still are, the one of smallest metric.
        private int SmallestOfGroup(int column)
        {
            int m = rules.GroupSize!.Value, first = column / m * m, smallest = -1;
            for (int j = first; j < first + m; j++)
            {
                if (_kept[j] != 0 && _keep[j] != 0 && (smallest < 0 || _metric[j] < _metric[smallest]))
                {
                    smallest = j;
                }
            }

            return smallest;
        }

        // Stable: equal keys stay in column order.
        private static int[] Ascending(int[] columns, double[] key)
        {
            Array.Sort(columns, (a, b) => key[a] < key[b] ? -1 : key[a] > key[b] ? 1 : a.CompareTo(b));
            return columns;
        }
    }
}
