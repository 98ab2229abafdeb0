namespace Espalier.Evaluation;

/// <summary>One metric over seeds, as reports hold it.</summary>
/// <param name="Mean">The mean.</param>
/// <param name="StandardDeviation">The sample standard deviation; null for one seed.</param>
/// <param name="HalfWidth">Half of the 95 % interval; null for one seed.</param>
/// <param name="Values">Seed by seed.</param>
public sealed record MetricSummary(double Mean, double? StandardDeviation, double? HalfWidth, IReadOnlyList<double> Values)
{
    /// <summary>Summarises values.</summary>
    /// <param name="values">One per seed, at least one.</param>
    /// <exception cref="Runtime.EspalierException">When there is none, or one is not finite.</exception>
    public static MetricSummary Of(IReadOnlyList<double> values)
    {
        MeanEstimate estimate = Significance.Mean(values);
        return new MetricSummary(estimate.Mean, estimate.Count > 1 ? estimate.StandardDeviation : null, estimate.Count > 1 ? estimate.HalfWidth : null, values);
    }
}
