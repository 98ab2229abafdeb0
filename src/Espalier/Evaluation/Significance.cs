using Espalier.Runtime;
using MathNet.Numerics.Distributions;

namespace Espalier.Evaluation;

/// <summary>A mean over seeds and what is known of it.</summary>
/// <param name="Mean">The mean.</param>
/// <param name="StandardDeviation">The sample standard deviation (n − 1); NaN for one value.</param>
/// <param name="Count">How many values.</param>
/// <param name="Low">The lower end of the interval; −∞ for one value.</param>
/// <param name="High">The upper end of the interval; +∞ for one value.</param>
public sealed record MeanEstimate(double Mean, double StandardDeviation, int Count, double Low, double High)
{
    /// <summary>Half the width of the interval.</summary>
    public double HalfWidth => (High - Low) / 2;

    /// <summary>Whether the interval leaves out 0: for a difference, that it is significant.</summary>
    public bool ExcludesZero => Low > 0 || High < 0;
}

/// <summary>Whether a difference between arms is more than the chance of seeds.</summary>
public static class Significance
{
    /// <summary>The mean of values with Student's t interval.</summary>
    /// <param name="values">One value per seed.</param>
    /// <param name="confidence">The coverage of the interval. Default 0.95.</param>
    /// <exception cref="EspalierException">When there is no value, one is not finite, or the confidence is outside (0, 1).</exception>
    public static MeanEstimate Mean(IReadOnlyList<double> values, double confidence = 0.95)
    {
        EspalierException.Require(values.Count > 0, "There is no mean of no values; run at least one seed.");
        EspalierException.Require(confidence is > 0 and < 1, FormattableString.Invariant($"A confidence of {confidence} is not possible; it lies between 0 and 1, for example 0.95."));
        int bad = values.Index().Where(v => !double.IsFinite(v.Item)).Select(v => v.Index).FirstOrDefault(-1);
        EspalierException.Require(bad < 0, $"The value of seed number {Math.Max(bad, 0)} is {values[Math.Max(bad, 0)]}; leave failed runs out, or find out why they fail.");

        double mean = values.Average();
        if (values.Count == 1)
        {
            return new MeanEstimate(mean, double.NaN, 1, double.NegativeInfinity, double.PositiveInfinity);
        }

        int n = values.Count;
        double deviation = Math.Sqrt(values.Sum(v => (v - mean) * (v - mean)) / (n - 1));
        double half = StudentT.InvCDF(0, 1, n - 1, (1 + confidence) / 2) * deviation / Math.Sqrt(n);
        return new MeanEstimate(mean, deviation, n, mean - half, mean + half);
    }

    /// <summary>The mean of (first − second) over seeds that both arms share, with Student's t interval.</summary>
    /// <param name="first">One value per seed.</param>
    /// <param name="second">The other arm's, for the same seeds in the same order.</param>
    /// <param name="confidence">The coverage of the interval. Default 0.95.</param>
    /// <exception cref="EspalierException">When the arms have not equally many values.</exception>
    public static MeanEstimate PairedDifference(IReadOnlyList<double> first, IReadOnlyList<double> second, double confidence = 0.95)
    {
        EspalierException.Require(first.Count == second.Count, $"Arms with {first.Count} and {second.Count} seeds cannot be paired; run the same seeds in both.");
        return Mean([.. first.Zip(second, (a, b) => a - b)], confidence);
    }
}
