using Espalier.Runtime;

namespace Espalier.Evaluation;

/// <summary>How far two series of figures go together.</summary>
public static class Correlation
{
    /// <summary>Pearson's coefficient, in [−1, 1].</summary>
    /// <exception cref="EspalierException">For fewer than two pairs, or series that do not vary or are of different length.</exception>
    public static double Pearson(IReadOnlyList<double> a, IReadOnlyList<double> b)
    {
        EspalierException.Require(a.Count == b.Count && a.Count > 1, $"A correlation of {a.Count} with {b.Count} figures is not possible; both series need the same length, at least 2.");
        double meanA = a.Average(), meanB = b.Average();
        double both = a.Zip(b, (x, y) => (x - meanA) * (y - meanB)).Sum();
        double ownA = a.Sum(x => (x - meanA) * (x - meanA)), ownB = b.Sum(y => (y - meanB) * (y - meanB));
        EspalierException.Require(ownA > 0 && ownB > 0, "A series whose figures are all the same correlates with nothing.");
        return both / Math.Sqrt(ownA * ownB);
    }

    /// <summary>Spearman's rank coefficient: Pearson's of the ranks, equal figures sharing the mean of theirs.</summary>
    /// <inheritdoc cref="Pearson"/>
    public static double Spearman(IReadOnlyList<double> a, IReadOnlyList<double> b) => Pearson(Ranks(a), Ranks(b));

    private static double[] Ranks(IReadOnlyList<double> values)
    {
        var ranks = new double[values.Count];
        int before = 0;
        foreach (IGrouping<double, int> equal in Enumerable.Range(0, values.Count).GroupBy(i => values[i]).OrderBy(g => g.Key))
        {
            int[] indices = [.. equal];
            foreach (int i in indices)
            {
                ranks[i] = before + ((indices.Length + 1) / 2.0);
            }

            before += indices.Length;
        }

        return ranks;
    }
}
