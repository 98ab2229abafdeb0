namespace Espalier.Evaluation;

/// <summary>Which way a figure gets better.</summary>
public enum Goal
{
    /// <summary>Less is better (perplexity, bytes).</summary>
    Lower,

    /// <summary>More is better (tokens per second).</summary>
    Higher,
}

/// <summary>What is worth having when two figures count: whatever nothing else beats in both.</summary>
public static class ParetoFront
{
    /// <summary>The points that no other point dominates; one dominates another that is as good in both figures and better in one.</summary>
    /// <param name="points">Pairs of figures; one that is not finite is never on the front and dominates nothing.</param>
    /// <param name="x">Which way the first figure gets better.</param>
    /// <param name="y">Which way the second does. Default: lower.</param>
    /// <returns>Indices of points, in the order of x from small to large; equal points are all on it or none is.</returns>
    public static IReadOnlyList<int> Of(IReadOnlyList<(double X, double Y)> points, Goal x, Goal y = Goal.Lower)
    {
        (double X, double Y)[] costs = [.. points.Select(p => (Cost(p.X, x), Cost(p.Y, y)))];
        int[] finite = [.. Enumerable.Range(0, costs.Length).Where(i => double.IsFinite(costs[i].X) && double.IsFinite(costs[i].Y))];
        return [.. finite.Where(i => !finite.Any(j => Dominates(costs[j], costs[i]))).OrderBy(i => points[i].X).ThenBy(i => i)];
    }

    private static double Cost(double value, Goal goal) => goal is Goal.Lower ? value : -value;

    private static bool Dominates((double X, double Y) a, (double X, double Y) b) => a.X <= b.X && a.Y <= b.Y && (a.X < b.X || a.Y < b.Y);
}
