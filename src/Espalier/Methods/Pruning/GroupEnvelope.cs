using System.Globalization;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>
/// The group envelope GS_k(θ) = ½·min Σ a_j²/u_j over 0 ≤ u_j ≤ 1, Σ d_j·u_j ≤ k, with a_j the norm of group j: the convex envelope of ½‖θ‖² on vectors
/// whose alive groups cost at most k. Its value and its proximal map, both linear in the number of groups.
/// </summary>
/// <remarks>
/// Refael, Arbel, Huleihel, arXiv 2212.12921. For equal costs and a whole k, GS_k is half the squared group k-support norm; for other costs this is the
/// natural convex relaxation. Symbols as there: a norms, d costs, k budget, λ multiplier, u shares.
/// </remarks>
public static class GroupEnvelope
{
    private const double Rounding = 1e-12;

    /// <summary>Minimises Σ a_j²/(λ + u_j) over the shares.</summary>
    /// <param name="norms">a [m], 0 or more.</param>
    /// <param name="costs">d [m], above 0.</param>
    /// <param name="budget">k, above 0, in units of the costs.</param>
    /// <param name="lambda">λ, 0 (the value) or more (the proximal map).</param>
    /// <returns>u [m], 0 for groups of norm 0.</returns>
    /// <exception cref="EspalierException">For costs, a budget or a multiplier out of range, or norms that are not finite.</exception>
    public static double[] Shares(ReadOnlySpan<double> norms, ReadOnlySpan<double> costs, double budget, double lambda)
    {
        Check(norms, costs, budget, lambda);
        int m = norms.Length;
        var shares = new double[m];
        double alive = 0;
        for (int j = 0; j < m; j++)
        {
            alive += norms[j] > 0 ? costs[j] : 0;
        }

        double t = alive <= budget ? double.PositiveInfinity : Root(norms, costs, budget, lambda);
        for (int j = 0; j < m; j++)
        {
            if (norms[j] > 0)
            {
                // u_j(t) = clip(t·a_j/√d_j − λ, 0, 1), decided by the breakpoints so that an end is met exactly.
                double scale = Math.Sqrt(costs[j]) / norms[j];
                shares[j] = t >= (lambda + 1) * scale ? 1 : t <= lambda * scale ? 0 : Math.Clamp((t / scale) - lambda, 0, 1);
            }
        }

        return shares;
    }

    /// <summary>GS_k of norms and their shares at λ = 0: ½·Σ a_j²/u_j, with 0²/0 = 0.</summary>
    public static double Value(ReadOnlySpan<double> norms, ReadOnlySpan<double> shares)
    {
        double sum = 0;
        for (int j = 0; j < norms.Length; j++)
        {
            sum += norms[j] > 0 ? norms[j] * norms[j] / shares[j] : 0;
        }

        return sum / 2;
    }

    /// <summary>The factor u_j/(λ + u_j) by which the proximal map multiplies group j: 0 ends it, 1/(1 + λ) is the most.</summary>
    public static double[] Factors(ReadOnlySpan<double> shares, double lambda)
    {
        var factors = new double[shares.Length];
        for (int j = 0; j < factors.Length; j++)
        {
            factors[j] = shares[j] == 0 ? 0 : shares[j] / (lambda + shares[j]);
        }

        return factors;
    }

    /// <summary>The groups of largest norm, as many as the budget holds at cost 1; among equal norms the lower index stays.</summary>
    /// <param name="norms">a [m].</param>
    /// <param name="count">How many stay.</param>
    /// <returns>Their indices, ascending.</returns>
    public static int[] Largest(IReadOnlyList<double> norms, int count) =>
        [.. Enumerable.Range(0, norms.Count).OrderByDescending(j => norms[j]).Take(count).Order()];

    /// <summary>The norm of each group of a vector.</summary>
    /// <param name="values">θ [n].</param>
    /// <param name="group">[n], int64, the group of each entry, 0 … m−1.</param>
    /// <param name="count">m.</param>
    public static double[] Norms(Tensor values, Tensor group, int count)
    {
        using var scope = NewDisposeScope();
        return zeros([count], ScalarType.Float64).index_add_(0, group.flatten(), values.detach().flatten().to(ScalarType.Float64).square(), 1).sqrt_().data<double>().ToArray();
    }

    // h(t) = Σ d_j·u_j(t) rises piecewise linearly. The interval that holds h(t) = k is narrowed by one of its own breakpoints at a time; a group whose
    // breakpoints both lie outside has one law within and leaves the search. The number of groups left halves on average: linear time.
    private static double Root(ReadOnlySpan<double> norms, ReadOnlySpan<double> costs, double budget, double lambda)
    {
        int[] left = new int[norms.Length];
        int count = 0;
        for (int j = 0; j < norms.Length; j++)
        {
            if (norms[j] > 0)
            {
                left[count++] = j;
            }
        }

        var random = new Random(count);
        double low = 0, atLow = 0, high = double.PositiveInfinity, constant = 0, slope = 0;
        while (true)
        {
            // Keeps the undecided groups and sums the others.
            int kept = 0;
            for (int i = 0; i < count; i++)
            {
                int j = left[i];
                double scale = Math.Sqrt(costs[j]) / norms[j], starts = lambda * scale, ends = (lambda + 1) * scale;
                if (ends <= low)
                {
                    constant += costs[j];
                }
                else if (starts <= low && ends >= high)
                {
                    (slope, constant) = (slope + (costs[j] / scale), constant - (costs[j] * lambda));
                }
                else if (starts < high)
                {
                    left[kept++] = j;
                }
            }

            count = kept;
            if (count == 0)
            {
                return slope <= 0 || budget - atLow <= Rounding * Math.Max(1, budget) ? low : Math.Min(high, low + ((budget - atLow) / slope));
            }

            int chosen = left[random.Next(count)];
            double unit = Math.Sqrt(costs[chosen]) / norms[chosen];
            double pivot = lambda * unit > low && (random.Next(2) == 0 || (lambda + 1) * unit >= high) ? lambda * unit : (lambda + 1) * unit;
            double sum = constant + (slope * pivot);
            for (int i = 0; i < count; i++)
            {
                int j = left[i];
                sum += costs[j] * Math.Clamp((pivot * norms[j] / Math.Sqrt(costs[j])) - lambda, 0, 1);
            }

            (low, atLow, high) = sum <= budget ? (pivot, sum, high) : (low, atLow, pivot);
        }
    }

    private static void Check(ReadOnlySpan<double> norms, ReadOnlySpan<double> costs, double budget, double lambda)
    {
        EspalierException.Require(norms.Length == costs.Length, $"There are {norms.Length} groups but {costs.Length} costs; give one cost for each group.");
        EspalierException.Require(budget > 0 && double.IsFinite(budget), string.Create(CultureInfo.InvariantCulture, $"A budget of {budget} groups is not possible; it must be above 0, in units of the costs."));
        EspalierException.Require(lambda >= 0 && double.IsFinite(lambda), string.Create(CultureInfo.InvariantCulture, $"A multiplier λ of {lambda} is not possible; it must be 0 or more."));
        foreach (double cost in costs)
        {
            EspalierException.Require(cost > 0 && double.IsFinite(cost), string.Create(CultureInfo.InvariantCulture, $"A group cannot cost {cost}; costs must be above 0."));
        }

        foreach (double norm in norms)
        {
            EspalierException.Require(double.IsFinite(norm), "The norm of a group is infinite or NaN; the weights have gone wrong before this step.");
        }
    }
}
