namespace Espalier.Recipes;

/// <summary>All measurements of a reproduction by seed.</summary>
/// <param name="seeds">The measurements of each seed.</param>
public sealed class RecipeResults(IReadOnlyDictionary<long, IReadOnlyList<Measurement>> seeds)
{
    /// <summary>The seeds in order.</summary>
    public IReadOnlyList<long> Seeds { get; } = [.. seeds.Keys.Order()];

    /// <summary>What was measured in an experiment at one setting.</summary>
    /// <param name="experiment">The experiment's name.</param>
    /// <param name="setting">The setting; empty where there is only one.</param>
    public SettingResults At(string experiment, string setting = Experiment.Only) =>
        new([.. Seeds.Select(s => (IReadOnlyList<Measurement>)[.. seeds[s].Where(m => m.Experiment == experiment && m.Setting == setting)])]);
}

/// <summary>What was measured in one experiment at one setting.</summary>
/// <param name="seeds">The measurements, seed by seed.</param>
public sealed class SettingResults(IReadOnlyList<IReadOnlyList<Measurement>> seeds)
{
    /// <summary>The metrics that an arm has, in the order of their first appearance.</summary>
    public IReadOnlyList<string> MetricsOf(string arm) => [.. seeds.SelectMany(s => s).Where(m => m.Arm == arm).Select(m => m.Metric).Distinct()];

    /// <summary>One metric of one arm, seed by seed; empty where it was not measured.</summary>
    public IReadOnlyList<double> Values(string arm, string metric) =>
        [.. seeds.SelectMany(s => s).Where(m => m.Arm == arm && m.Metric == metric).Select(m => m.Value)];

    /// <summary>A figure computed seed by seed from several arms: the paired comparison.</summary>
    /// <param name="of">Receives a look-up (arm, metric) for one seed.</param>
    /// <exception cref="InvalidOperationException">When the look-up names something that was not measured once.</exception>
    public IReadOnlyList<double> PerSeed(Func<Func<string, string, double>, double> of) =>
        [.. seeds.Select(s => of((arm, metric) => s.Single(m => m.Arm == arm && m.Metric == metric).Value))];

    /// <summary>A metric of one arm divided by another's, seed by seed.</summary>
    public IReadOnlyList<double> Ratio(string metric, string arm, string baseline) => PerSeed(m => m(arm, metric) / m(baseline, metric));
}
