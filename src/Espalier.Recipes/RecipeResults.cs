namespace Espalier.Recipes;

/// <summary>All measurements of a reproduction by seed.</summary>
/// <param name="seeds">The measurements of each seed.</param>
public sealed class RecipeResults(IReadOnlyDictionary<long, IReadOnlyList<Measurement>> seeds)
{
    /// <summary>The seeds in order.</summary>
    public IReadOnlyList<long> Seeds { get; } = [.. seeds.Keys.Order()];

    /// <summary>The measurements of one seed.</summary>
    public IReadOnlyList<Measurement> Of(long seed) => seeds[seed];

    /// <summary>The metrics that any arm has, in the order of their first appearance.</summary>
    public IReadOnlyList<string> Metrics => [.. Seeds.SelectMany(s => seeds[s]).Select(m => m.Metric).Distinct()];

    /// <summary>One metric of one arm, seed by seed; empty where it was not measured.</summary>
    public double[] Values(string arm, string metric) =>
        [.. Seeds.SelectMany(s => seeds[s]).Where(m => m.Arm == arm && m.Metric == metric).Select(m => m.Value)];

    /// <summary>The mean over seeds.</summary>
    /// <exception cref="InvalidOperationException">When the arm has no such metric.</exception>
    public double Mean(string arm, string metric) => Values(arm, metric).Average();

    /// <summary>A figure computed seed by seed from several arms, then averaged: the paired comparison.</summary>
    /// <param name="of">Receives a look-up (arm, metric) for one seed.</param>
    public double MeanOf(Func<Func<string, string, double>, double> of) =>
        Seeds.Select(s => of((arm, metric) => seeds[s].Single(m => m.Arm == arm && m.Metric == metric).Value)).Average();
}
