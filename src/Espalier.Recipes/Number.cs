using System.Globalization;

namespace Espalier.Recipes;

/// <summary>Figures as pages and tables show them: three or four significant digits (four around 1, where ratios lie), counts whole.</summary>
internal static class Number
{
    /// <summary>Spreads below this share of their mean are the rounding of float64, not a measurement.</summary>
    private const double Rounding = 1e-9;

    public static string Text(double value) => Math.Abs(value) switch
    {
        >= 100 when value == Math.Floor(value) => value.ToString("N0", CultureInfo.InvariantCulture),
        >= 1_000 => value.ToString("N0", CultureInfo.InvariantCulture),
        >= 100 => value.ToString("F1", CultureInfo.InvariantCulture),
        >= 0.9 => value.ToString("G4", CultureInfo.InvariantCulture),
        _ => value.ToString("G3", CultureInfo.InvariantCulture),
    };

    /// <summary>As in "0.9 ± 0.248"; the mean alone where there is no spread.</summary>
    public static string Text(double mean, double? spread) =>
        spread > Rounding * Math.Abs(mean) ? $"{Text(mean)} ± {Text(spread.Value)}" : Text(mean);
}
