using System.Text.Json.Serialization;
using Espalier.Evaluation;

namespace Espalier.Recipes;

/// <summary>One condition of the verdict: a figure, seed by seed, and the bound that it must keep.</summary>
public sealed record Check
{
    [JsonConstructor]
    private Check()
    {
    }

    /// <summary>The effect in words, without the bound ("output error of Wanda over magnitude's at 70 %").</summary>
    public required string Statement { get; init; }

    /// <summary>The figure of each seed.</summary>
    public required IReadOnlyList<double> Values { get; init; }

    /// <summary>The smallest effect that counts.</summary>
    public required double Bound { get; init; }

    /// <summary>Whether the figure must not be above the bound; else not below it.</summary>
    public required bool AtMostBound { get; init; }

    /// <summary>Whether every seed must keep the bound; else their mean must.</summary>
    public required bool EverySeed { get; init; }

    /// <summary>What the figure is counted in ("%"); empty for a plain number or ratio.</summary>
    public required string Unit { get; init; }

    /// <summary>The mean over the seeds, with its 95 % interval.</summary>
    [JsonIgnore]
    public MeanEstimate Estimate => Significance.Mean(Values);

    /// <summary>Whether the figure keeps the bound. A figure that is not a number keeps none.</summary>
    public bool Holds => Values.Count > 0 && (EverySeed ? Values.All(Keeps) : Keeps(Values.Average()));

    /// <summary>What was measured, in words: the mean with half of its 95 % interval, or the range where every seed must hold.</summary>
    public string Measured => Values.Any(v => !double.IsFinite(v)) ? "not a number"
        : EverySeed && Number.Text(Values.Min()) != Number.Text(Values.Max()) ? $"{Number.Text(Values.Min())} to {Number.Text(Values.Max())}{Suffix}"
        : $"{Number.Text(Values.Average(), !EverySeed && Values.Count > 1 ? Estimate.HalfWidth : null)}{Suffix}";

    /// <summary>What was needed, in words.</summary>
    public string Needed => $"{(AtMostBound ? "≤" : "≥")} {Number.Text(Bound)}{Suffix}{(EverySeed ? ", every seed" : "")}";

    private string Suffix => Unit.Length > 0 ? $" {Unit}" : "";

    /// <summary>The figure must not be above a bound.</summary>
    /// <param name="statement">The effect in words, without the bound.</param>
    /// <param name="values">The figure of each seed.</param>
    /// <param name="bound">The most that it may be.</param>
    /// <param name="unit">What it is counted in.</param>
    /// <param name="everySeed">Whether every seed must keep the bound; by default their mean.</param>
    public static Check AtMost(string statement, IReadOnlyList<double> values, double bound, string unit = "", bool everySeed = false) =>
        new() { Statement = statement, Values = values, Bound = bound, AtMostBound = true, EverySeed = everySeed, Unit = unit };

    /// <summary>The figure must not be below a bound.</summary>
    /// <inheritdoc cref="AtMost"/>
    public static Check AtLeast(string statement, IReadOnlyList<double> values, double bound, string unit = "", bool everySeed = false) =>
        new() { Statement = statement, Values = values, Bound = bound, AtMostBound = false, EverySeed = everySeed, Unit = unit };

    private bool Keeps(double value) => AtMostBound ? value <= Bound : value >= Bound;
}
