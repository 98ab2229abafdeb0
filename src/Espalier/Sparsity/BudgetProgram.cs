using System.Globalization;
using Espalier.Runtime;

namespace Espalier.Sparsity;

/// <summary>What <see cref="BudgetProgram"/> chose.</summary>
/// <param name="Choices">The configuration of each item.</param>
/// <param name="Cost">Their costs together.</param>
/// <param name="Weight">Their weights together.</param>
/// <param name="Bound">No choice within the budget costs less; equal to <paramref name="Cost"/> where the choice is proven to be the best.</param>
public sealed record BudgetChoice(IReadOnlyList<int> Choices, double Cost, double Weight, double Bound)
{
    /// <summary>How far the choice may be from the best, relative to its cost; 0 is proven.</summary>
    public double Gap => Cost == Bound ? 0 : (Cost - Bound) / Math.Max(Math.Abs(Cost), double.Epsilon);
}

/// <summary>
/// Spends a budget over items: one configuration for each, the smallest sum of costs, the sum of weights within the budget (a multiple-choice
/// knapsack). Costs and weights may be of any method: bits and errors, zeros and importance.
/// </summary>
/// <remarks>
/// Sums of the first items are kept where no other is both cheaper and lighter, and where a Lagrangean bound leaves a chance of beating the best
/// choice known: exact, and short where it matters. Beyond <see cref="MostSums"/> sums the most promising go on and the rest is reported as a gap.
/// </remarks>
public static class BudgetProgram
{
    /// <summary>The most sums that are kept after an item.</summary>
    public const int MostSums = 200_000;

    private const double Rounding = 1e-12; // sums within this share of the budget are equal to it

    /// <summary>Solves the program.</summary>
    /// <param name="costs">The cost of each configuration, item by item.</param>
    /// <param name="weights">Its weight.</param>
    /// <param name="budget">The largest sum of weights; a sum equal to it is allowed.</param>
    /// <param name="mostSums">See <see cref="MostSums"/>.</param>
    /// <exception cref="EspalierException">When items are empty or the budget is below the lightest choice.</exception>
    public static BudgetChoice Solve(IReadOnlyList<IReadOnlyList<double>> costs, IReadOnlyList<IReadOnlyList<double>> weights, double budget, int mostSums = MostSums)
    {
        EspalierException.Require(costs.Count == weights.Count && costs.Zip(weights).All(i => i.First.Count == i.Second.Count && i.First.Count > 0),
            "Every item of a budget needs configurations, and a cost and a weight for each.");
        EspalierException.Require(costs.Concat(weights).SelectMany(i => i).All(double.IsFinite), "The costs and weights of a budget must be finite numbers.");
        double smallest = weights.Sum(w => w.Min()), limit = budget + (Rounding * Math.Abs(budget));
        EspalierException.Require(smallest <= limit, string.Create(CultureInfo.InvariantCulture, $"A budget of {budget:R} cannot be kept: the smallest configurations together need {smallest:R}."));
        int items = costs.Count;
        (double lambda, int[] choices) = Relax(costs, weights, limit);
        (double best, double[] rest, double[] lightest) = (Sum(costs, choices), new double[items + 1], new double[items + 1]);
        for (int i = items - 1; i >= 0; i--)
        {
            rest[i] = rest[i + 1] + costs[i].Zip(weights[i], (c, w) => c + (lambda * w)).Min();
            lightest[i] = lightest[i + 1] + weights[i].Min();
        }

        double bound = rest[0] - (lambda * limit), slack = Rounding * Math.Max(Math.Abs(best), Math.Abs(rest[0])), lost = double.PositiveInfinity;
        var layers = new List<Layer>();
        (double[] sumCost, double[] sumWeight) = ([0.0], [0.0]);
        for (int i = 0; i < items; i++)
        {
            var next = new List<(double Weight, double Cost, int Parent, int Choice)>();
            for (int s = 0; s < sumCost.Length; s++)
            {
                for (int k = 0; k < costs[i].Count; k++)
                {
                    (double w, double c) = (sumWeight[s] + weights[i][k], sumCost[s] + costs[i][k]);
                    if (w + lightest[i + 1] <= limit && c + rest[i + 1] - (lambda * (limit - w)) <= best + slack)
                    {
                        next.Add((w, c, s, k));
                    }
                }
            }

            next.Sort();
            (next, double dropped) = Frontier(next, mostSums, e => e.Cost + (lambda * e.Weight));
            lost = Math.Min(lost, dropped + rest[i + 1] - (lambda * limit));
            layers.Add(new Layer([.. next.Select(e => e.Parent)], [.. next.Select(e => e.Choice)]));
            (sumCost, sumWeight) = ([.. next.Select(e => e.Cost)], [.. next.Select(e => e.Weight)]);
        }

        // The last sum is the cheapest; none is left where rounding hid the choice that is known already.
        if (sumCost.Length > 0 && sumCost[^1] <= best)
        {
            choices = Trace(layers, sumCost.Length - 1);
            best = Sum(costs, choices);
        }

        return new BudgetChoice(choices, best, Sum(weights, choices), Math.Min(best, Math.Max(bound, Math.Min(best, lost))));
    }

    private sealed record Layer(int[] Parents, int[] Choices);

    /// <summary>Sums that are not both heavier and dearer than another, by weight; of too many those with the least bound, and the least bound of what was dropped.</summary>
    private static (List<(double Weight, double Cost, int Parent, int Choice)> Kept, double Dropped) Frontier(
        List<(double Weight, double Cost, int Parent, int Choice)> sums, int most, Func<(double Weight, double Cost, int Parent, int Choice), double> bound)
    {
        var kept = new List<(double Weight, double Cost, int Parent, int Choice)>();
        foreach (var sum in sums)
        {
            if (kept.Count == 0 || sum.Cost < kept[^1].Cost)
            {
                kept.Add(sum);
            }
        }

        if (kept.Count <= most)
        {
            return (kept, double.PositiveInfinity);
        }

        double[] bounds = [.. kept.Select(bound).Order()];
        return ([.. kept.Where(e => bound(e) <= bounds[most - 1]).Take(most)], bounds[most]);
    }

    /// <summary>The Lagrangean multiplier of the budget with the greatest bound, and the choice just within the budget that it gives, made better where room is left.</summary>
    private static (double Lambda, int[] Choices) Relax(IReadOnlyList<IReadOnlyList<double>> costs, IReadOnlyList<IReadOnlyList<double>> weights, double limit)
    {
        int[] At(double lambda) => [.. costs.Select((c, i) => Enumerable.Range(0, c.Count).OrderBy(k => c[k] + (lambda * weights[i][k])).ThenBy(k => weights[i][k]).First())];
        (double low, double high) = (0, 1);
        int[] choices = At(0);
        if (Sum(weights, choices) <= limit)
        {
            return (0, choices);
        }

        while (Sum(weights, choices = At(high)) > limit && high < 1e300)
        {
            (low, high) = (high, high * 4);
        }

        if (Sum(weights, choices) > limit)
        {
            choices = [.. weights.Select(w => Enumerable.Range(0, w.Count).MinBy(k => w[k]))];
        }

        for (int step = 0; step < 200 && high - low > 1e-15 * high; step++)
        {
            double middle = (low + high) / 2;
            int[] tried = At(middle);
            if (Sum(weights, tried) <= limit)
            {
                (high, choices) = (middle, tried);
            }
            else
            {
                low = middle;
            }
        }

        return (high, Improve(costs, weights, limit, choices));
    }

    private static int[] Improve(IReadOnlyList<IReadOnlyList<double>> costs, IReadOnlyList<IReadOnlyList<double>> weights, double limit, int[] choices)
    {
        while (true)
        {
            double room = limit - Sum(weights, choices);
            (int item, int choice, double gain) = (-1, -1, 0);
            for (int i = 0; i < choices.Length; i++)
            {
                for (int k = 0; k < costs[i].Count; k++)
                {
                    double saved = costs[i][choices[i]] - costs[i][k];
                    if (saved > gain && weights[i][k] - weights[i][choices[i]] <= room)
                    {
                        (item, choice, gain) = (i, k, saved);
                    }
                }
            }

            if (item < 0)
            {
                return choices;
            }

            int[] changed = [.. choices];
            changed[item] = choice;
            if (Sum(weights, changed) > limit)
            {
                return choices;
            }

            choices = changed;
        }
    }

    private static int[] Trace(List<Layer> layers, int at)
    {
        int[] choices = new int[layers.Count];
        for (int i = layers.Count - 1; i >= 0; i--)
        {
            choices[i] = layers[i].Choices[at];
            at = layers[i].Parents[at];
        }

        return choices;
    }

    private static double Sum(IReadOnlyList<IReadOnlyList<double>> table, int[] choices) => table.Select((row, i) => row[choices[i]]).Sum();
}
