using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Evaluation;

/// <summary>Kendall's τ-b of two series, with two-sided p-values for independence.</summary>
/// <param name="Tau">τ-b in [−1, 1]; NaN where a series does not vary.</param>
/// <param name="PAsymptotic">By the normal law, corrected for ties; NaN where τ is.</param>
/// <param name="P">Exact where there are no ties and few pairs (at most 33 figures, or at most one pair out of order), else <paramref name="PAsymptotic"/>.</param>
public sealed record RankCorrelation(double Tau, double PAsymptotic, double P)
{
    private const int MostForExact = 33;

    /// <summary>Compares every pair.</summary>
    /// <exception cref="EspalierException">For fewer than three figures, or series of different length.</exception>
    public static RankCorrelation Kendall(IReadOnlyList<double> a, IReadOnlyList<double> b)
    {
        EspalierException.Require(a.Count == b.Count && a.Count >= 3, $"A rank correlation of {a.Count} with {b.Count} figures is not possible; both series need the same length, at least 3.");
        EspalierException.Require(a.Concat(b).All(v => !double.IsNaN(v)), "A rank correlation needs figures that can be compared; one is not a number.");
        double n = a.Count, pairs = n * (n - 1) / 2;
        long concordant = 0, discordant = 0;
        for (int i = 0; i < a.Count; i++)
        {
            for (int j = i + 1; j < a.Count; j++)
            {
                int sign = a[i].CompareTo(a[j]) * b[i].CompareTo(b[j]);
                concordant += sign > 0 ? 1 : 0;
                discordant += sign < 0 ? 1 : 0;
            }
        }

        double[] tiesA = Ties(a), tiesB = Ties(b);
        double tiedA = tiesA.Sum(t => t * (t - 1) / 2), tiedB = tiesB.Sum(t => t * (t - 1) / 2);
        if (tiedA == pairs || tiedB == pairs)
        {
            return new RankCorrelation(double.NaN, double.NaN, double.NaN);
        }

        double difference = concordant - discordant;
        double tau = Math.Clamp(difference / Math.Sqrt(pairs - tiedA) / Math.Sqrt(pairs - tiedB), -1, 1);
        double Spread(double[] ties) => ties.Sum(t => t * (t - 1) * ((2 * t) + 5));
        double Triples(double[] ties) => ties.Sum(t => t * (t - 1) * (t - 2));
        double variance = (((n * (n - 1) * ((2 * n) + 5)) - Spread(tiesA) - Spread(tiesB)) / 18) + (2 * tiedA * tiedB / (n * (n - 1)))
            + (Triples(tiesA) * Triples(tiesB) / (9 * n * (n - 1) * (n - 2)));
        double asymptotic = ErrorFunctionComplement(Math.Abs(difference) / Math.Sqrt(variance) / Math.Sqrt(2));
        long fewest = Math.Min(discordant, (long)pairs - discordant);
        bool exact = tiedA == 0 && tiedB == 0 && (a.Count <= MostForExact || fewest <= 1);
        return new RankCorrelation(tau, asymptotic, exact ? Exact(a.Count, fewest, pairs) : asymptotic);
    }

    /// <summary>2 · the share of permutations of n with at most so many inversions.</summary>
    private static double Exact(int n, long inversions, double pairs)
    {
        if (2 * inversions == pairs)
        {
            return 1;
        }

        // Shares and not counts, so that nothing overflows: those of k things follow from those of k − 1.
        var shares = new double[inversions + 1];
        shares[0] = 1;
        for (int k = 2; k <= n; k++)
        {
            double[] before = [.. shares];
            for (int c = 0; c < shares.Length; c++)
            {
                double sum = 0;
                for (int moved = 0; moved < k && moved <= c; moved++)
                {
                    sum += before[c - moved];
                }

                shares[c] = sum / k;
            }
        }

        return Math.Min(1, 2 * shares.Sum());
    }

    private static double[] Ties(IReadOnlyList<double> values) => [.. values.GroupBy(v => v).Select(g => (double)g.Count()).Where(t => t > 1)];

    private static double ErrorFunctionComplement(double x)
    {
        using var scope = NewDisposeScope();
        return special.erfc(tensor(x)).item<double>();
    }
}
