using System.Globalization;

namespace Espalier.Recipes;

/// <summary>Figures as pages and tables show them: about three significant digits, counts whole.</summary>
internal static class Number
{
    public static string Text(double value) => Math.Abs(value) switch
    {
        >= 100 when value == Math.Floor(value) => value.ToString("N0", CultureInfo.InvariantCulture),
        >= 10_000 => value.ToString("N0", CultureInfo.InvariantCulture),
        >= 100 => value.ToString("F1", CultureInfo.InvariantCulture),
        >= 1 => value.ToString("0.##", CultureInfo.InvariantCulture),
        _ => value.ToString("G3", CultureInfo.InvariantCulture),
    };
}
