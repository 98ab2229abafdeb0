using Espalier.Runtime;
using Espalier.Sparsity;

namespace Espalier.Methods.Pruning;

// The two dynamic programs: the exact one, and the published one with its rounding.
public sealed partial class RdPrune
{
    // Undo the rounding of phi to float32: 0.7f·100 is 69.999999 but must remove 70.
    private const double RelativeGuard = 1 + 1.0 / (1 << 23);
    private const double AbsoluteGuard = 1e-6;
    private const double PreviousTolerance = 1e-6;
    private const int ChunkLength = 1 << 14;

    /// <summary>
    /// The allocation of least summed distortion that keeps at most a budget of weights: minimise Σ D_l[d_l] over one
    /// level per layer, subject to Σ kept_l(d_l) ≤ T and phi_l ≥ what was removed before. Exact, in L·T·P steps.
    /// </summary>
    /// <param name="curves">One curve per layer, all with equally many levels.</param>
    /// <param name="counts">n_l, weights per layer.</param>
    /// <param name="budget">T, weights to keep at most.</param>
    /// <param name="previous">The share of each layer that is already gone; null for none.</param>
    /// <param name="unit">
    /// The budget is counted in units of so many weights, rounded against the budget: 1 (exact) by default; 64 to 256 keep
    /// models of many millions of weights in memory, at a loss of less than one unit per layer.
    /// </param>
    /// <returns>The chosen levels; among equal sums the first level of the later layer.</returns>
    /// <exception cref="EspalierException">When no choice of levels fits the budget.</exception>
    public static RdAllocation AllocateExact(IReadOnlyList<RdCurve> curves, IReadOnlyList<long> counts, long budget, IReadOnlyList<float>? previous = null, long unit = 1)
    {
        CheckCurves(curves, counts, previous);
        EspalierException.Require(unit >= 1 && budget >= 0 && budget / unit < int.MaxValue - 1,
            $"A budget of {budget} weights in units of {unit} is not possible; the unit must be at least 1, and the budget at most 2 billion units.");
        int T = (int)(budget / unit), levels = curves[0].Phi.Count;
        double[] best = new double[T + 1]; // Σ of the layers so far, by units kept at most
        double[] next = new double[T + 1];
        var choice = new ushort[curves.Count][];
        for (int l = 0; l < curves.Count; l++)
        {
            var kept = new long[levels];
            for (int d = 0; d < levels; d++)
            {
                bool allowed = curves[l].Phi[d] >= (previous?[l] ?? 0) - PreviousTolerance;
                kept[d] = allowed ? (Kept(curves[l].Phi[d], counts[l]) + unit - 1) / unit : long.MaxValue;
            }

            ushort[] chosen = choice[l] = new ushort[T + 1];
            (double[] from, double[] to, IReadOnlyList<float> D) = (best, next, curves[l].Distortion);
            Parallel.For(0, T / ChunkLength + 1, chunk => Relax(from, to, chosen, kept, D, chunk * ChunkLength, Math.Min(T, (chunk + 1) * ChunkLength - 1)));
            (best, next) = (next, best);
        }

        EspalierException.Require(double.IsFinite(best[T]),
            $"No choice of levels keeps at most {budget} of {counts.Sum()} weights; lower the sparsity, or let the levels reach further (max_amount).");
        var index = new int[curves.Count];
        long left = T;
        for (int l = curves.Count - 1; l >= 0; l--)
        {
            index[l] = choice[l][left];
            left -= (Kept(curves[l].Phi[index[l]], counts[l]) + unit - 1) / unit;
        }

        return Allocation(curves, counts, previous, index);
    }

    /// <summary>The published program, with the float32 rounding of its code, so that its allocations are reproduced.</summary>
    /// <remarks>
    /// It can keep about one level of the smallest layer more than the budget, and where several layers vanish it forgets
    /// the distortion of the smallest; use <see cref="AllocateExact"/> unless the published numbers are wanted. Layers are
    /// taken by size, ascending. Every curve must offer a level that removes everything.
    /// </remarks>
    /// <param name="curves">One curve per layer, all with equally many levels.</param>
    /// <param name="counts">n_l, weights per layer.</param>
    /// <param name="sparsity">s, over all layers, in [0, 1).</param>
    /// <param name="previous">The share of each layer that is already gone; null for none. The smallest layer ignores it, as published.</param>
    public static RdAllocation AllocatePublished(IReadOnlyList<RdCurve> curves, IReadOnlyList<long> counts, double sparsity, IReadOnlyList<float>? previous = null)
    {
        CheckCurves(curves, counts, previous);
        MaskSelection.PruneCount(0, sparsity);
        for (int l = 0; l < curves.Count; l++)
        {
            EspalierException.Require(curves[l].Phi.Contains(1f), $"The curve of layer {l} has no level that removes everything; the published program needs one (use AllocateExact).");
        }

        int[] order = [.. Enumerable.Range(0, counts.Count).OrderBy(l => counts[l])];
        long T = Budget(counts, sparsity);
        EspalierException.Require(T < Array.MaxLength, $"A budget of {T} weights is too large for the published program; use AllocateExact with a unit.");
        var choice = new int[order.Length][];
        float[] best = [];
        long size = 0;
        for (int n = 0; n < order.Length; n++)
        {
            int l = order[n];
            size += counts[l];
            choice[n] = new int[Math.Max(T, 1)];
            best = n == 0
                ? SmallestLayer(curves[l], counts[l], size, choice[n])
                : LargerLayer(curves[l], counts[l], previous?[l] ?? 0, size, n, best, choice[n]);
        }

        var index = new int[order.Length];
        long v = T;
        for (int n = order.Length - 1; n >= 0; n--)
        {
            int l = order[n];
            index[l] = choice[n][Math.Max(0, v - 1)];
            v = Math.Max(0, v - (long)SurvivorsSingle(curves[l].Phi[index[l]], counts[l]));
        }

        return Allocation(curves, counts, previous, index);
    }

    /// <summary>T = ⌊(1−s)·N⌋, formed in double.</summary>
    public static long Budget(IReadOnlyList<long> counts, double sparsity) => (long)Math.Floor((1 - sparsity) * counts.Sum());

    /// <summary>kept_l(d) = n − min(n, ⌊phi·n⌋), with guards against the rounding of phi.</summary>
    internal static long Kept(float phi, long count) => count - Math.Min(count, (long)Math.Floor(phi * (double)count * RelativeGuard + AbsoluteGuard));

    // One chunk of one layer: to[v] = min over levels of D[d] + from[v − kept[d]], the first level on ties.
    private static void Relax(double[] from, double[] to, ushort[] chosen, long[] kept, IReadOnlyList<float> D, int first, int last)
    {
        Array.Fill(to, double.PositiveInfinity, first, last - first + 1);
        for (int d = 0; d < kept.Length; d++)
        {
            if (kept[d] > last)
            {
                continue;
            }

            int k = (int)kept[d];
            double distortion = D[d];
            for (int v = Math.Max(first, k); v <= last; v++)
            {
                double sum = distortion + from[v - k];
                if (sum < to[v])
                {
                    (to[v], chosen[v]) = (sum, (ushort)d);
                }
            }
        }
    }

    // n = 0: the level whose survivors are nearest to v.
    private static float[] SmallestLayer(RdCurve curve, long count, long size, int[] choice)
    {
        var best = new float[choice.Length];
        choice[0] = FullLevel(curve);
        best[0] = curve.Distortion[choice[0]];
        for (int v = 1; v < best.Length && v < size; v++)
        {
            float wanted = v / (float)count, nearest = float.PositiveInfinity;
            for (int d = 0; d < curve.Phi.Count; d++)
            {
                float distance = MathF.Abs((1f - curve.Phi[d]) - wanted);
                if (distance < nearest)
                {
                    (nearest, choice[v]) = (distance, d);
                }
            }

            best[v] = curve.Distortion[choice[v]];
        }

        Extend(best, choice, size);
        return best;
    }

    private static float[] LargerLayer(RdCurve curve, long count, float previous, long size, int n, float[] before, int[] choice)
    {
        var best = new float[choice.Length];
        choice[0] = FullLevel(curve);
        best[0] = curve.Distortion[choice[0]] + (n > 1 ? before[0] : 0f);
        long end = Math.Min(best.Length, size);
        Array.Fill(best, float.PositiveInfinity, 1, (int)Math.Max(0, end - 1));
        for (int d = 0; d < curve.Phi.Count; d++)
        {
            if (curve.Phi[d] < previous)
            {
                continue;
            }

            float survivors = SurvivorsSingle(curve.Phi[d], count), distortion = curve.Distortion[d];
            long whole = (long)survivors;
            for (long v = Math.Max(1, whole); v < end; v++)
            {
                float sum = distortion + before[v - whole];
                if (v > survivors && sum < best[v])
                {
                    (best[v], choice[v]) = (sum, d);
                }
            }
        }

        Extend(best, choice, size);
        return best;
    }

    // Beyond the layers' own size nothing changes.
    private static void Extend(float[] best, int[] choice, long size)
    {
        for (long v = size; v < best.Length; v++)
        {
            (best[v], choice[v]) = (best[size - 1], choice[size - 1]);
        }
    }

    private static int FullLevel(RdCurve curve) => curve.Phi.ToList().IndexOf(1f);

    private static float SurvivorsSingle(float phi, long count) => (float)count * (1f - phi);

    private static RdAllocation Allocation(IReadOnlyList<RdCurve> curves, IReadOnlyList<long> counts, IReadOnlyList<float>? previous, int[] index)
    {
        float[] phi = [.. index.Select((d, l) => curves[l].Phi[d])];
        return new RdAllocation(index, phi, Amounts(phi, previous),
            index.Select((d, l) => (double)curves[l].Distortion[d]).Sum(), phi.Zip(counts, Kept).Sum());
    }

    private static void CheckCurves(IReadOnlyList<RdCurve> curves, IReadOnlyList<long> counts, IReadOnlyList<float>? previous)
    {
        EspalierException.Require(curves.Count > 0 && curves.Count == counts.Count && (previous is null || previous.Count == counts.Count),
            $"{curves.Count} curves, {counts.Count} sizes and {previous?.Count ?? counts.Count} previous shares were given; every layer needs one of each.");
        int levels = curves[0].Phi.Count;
        EspalierException.Require(levels is >= 1 and <= ushort.MaxValue, $"Curves of {levels} levels are not possible; use 1 to {ushort.MaxValue}.");
        for (int l = 0; l < curves.Count; l++)
        {
            RdCurve curve = curves[l];
            EspalierException.Require(counts[l] > 0, $"Layer {l} has {counts[l]} weights; leave it out.");
            EspalierException.Require(curve.Phi.Count == levels && curve.Distortion.Count == levels, $"The curve of layer {l} has {curve.Phi.Count} levels and {curve.Distortion.Count} distortions; all curves need {levels} of each.");
            EspalierException.Require(curve.Phi.All(p => p is >= 0 and <= 1), $"The levels of layer {l} are not all shares from 0 to 1.");
            EspalierException.Require(curve.Distortion.All(float.IsFinite), $"The distortions of layer {l} hold NaN or infinite values; the network's output is damaged.");
            EspalierException.Require(previous is null || previous[l] is >= 0 and <= 1, $"The share already removed from layer {l} is {previous?[l]}, not one from 0 to 1.");
        }
    }
}
