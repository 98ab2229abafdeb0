using System.Globalization;

namespace Espalier.Runtime;

/// <summary>Figures as a person reads them.</summary>
public static class Text
{
    private static readonly string[] Units = ["B", "kB", "MB", "GB", "TB"];

    /// <summary>Bytes in decimal units with three significant digits: <c>2.20 GB</c>.</summary>
    public static string Bytes(long count)
    {
        double value = count;
        int unit = 0;
        while (value >= 1000 && unit < Units.Length - 1)
        {
            value /= 1000;
            unit++;
        }

        string digits = unit == 0 || value >= 100 ? "F0" : value >= 10 ? "F1" : "F2";
        return $"{value.ToString(digits, CultureInfo.InvariantCulture)} {Units[unit]}";
    }

    /// <summary>A count with a thousands separator: <c>1,100,048,384</c>.</summary>
    public static string Count(long count) => count.ToString("N0", CultureInfo.InvariantCulture);

    /// <summary>A duration: <c>8 s</c>, <c>3 min 20 s</c>, <c>2 h 5 min</c>.</summary>
    public static string Duration(TimeSpan time) => time.TotalSeconds < 1 ? "under 1 s"
        : time.TotalMinutes < 1 ? $"{time.TotalSeconds:F0} s"
        : time.TotalHours < 1 ? $"{(int)time.TotalMinutes} min {time.Seconds} s"
        : $"{(int)time.TotalHours} h {time.Minutes} min";

    /// <summary>Reads a size such as <c>8GB</c>, <c>512MB</c>, <c>1.5 GiB</c> or plain bytes.</summary>
    /// <exception cref="EspalierException">When it is no size.</exception>
    public static long ParseBytes(string word)
    {
        string text = word.Trim();
        int split = 0;
        while (split < text.Length && (char.IsAsciiDigit(text[split]) || text[split] == '.'))
        {
            split++;
        }

        string unit = text[split..].Trim().ToUpperInvariant();
        double factor = unit switch
        {
            "" or "B" => 1,
            "K" or "KB" => 1e3,
            "M" or "MB" => 1e6,
            "G" or "GB" => 1e9,
            "T" or "TB" => 1e12,
            "KIB" => 1L << 10,
            "MIB" => 1L << 20,
            "GIB" => 1L << 30,
            "TIB" => 1L << 40,
            _ => 0,
        };
        EspalierException.Require(
            factor > 0 && double.TryParse(text[..split], NumberStyles.Float, CultureInfo.InvariantCulture, out double value) && value * factor is >= 1 and < 9e18,
            $"'{word}' is no size; write for example 8GB, 512MB or 1.5GiB.");
        return (long)(double.Parse(text[..split], CultureInfo.InvariantCulture) * factor);
    }

    /// <summary>Reads a number of parameters such as <c>1.5M</c>, <c>800K</c>, <c>7B</c>, <c>1,500,000</c> or <c>2e6</c>.</summary>
    /// <exception cref="EspalierException">When it is no such number, or below 1.</exception>
    public static long ParseCount(string word)
    {
        string text = word.Trim().ToUpperInvariant();
        double factor = text.Length == 0 ? 1 : text[^1] switch { 'K' => 1e3, 'M' => 1e6, 'B' or 'G' => 1e9, _ => 1 };
        EspalierException.Require(
            double.TryParse(factor > 1 ? text[..^1] : text, NumberStyles.Float | NumberStyles.AllowThousands, CultureInfo.InvariantCulture, out double value) && value * factor is >= 1 and < 9e15,
            $"'{word}' is no number of parameters; write for example 1.5M, 800K, 7B or 1500000.");
        return (long)Math.Round(value * factor);
    }
}
