using System.Globalization;

namespace Espalier.Reporting;

/// <summary>Maps values to positions and chooses ticks at round numbers.</summary>
internal sealed class Axis
{
    private readonly double _from, _to;
    private readonly double _low, _high;

    private Axis(double low, double high, double from, double to, IReadOnlyList<double> ticks, bool logarithmic)
    {
        (_low, _high, _from, _to, Ticks, IsLogarithmic) = (low, high, from, to, ticks, logarithmic);
    }

    /// <summary>Round values within the range.</summary>
    public IReadOnlyList<double> Ticks { get; }

    public bool IsLogarithmic { get; }

    /// <summary>An axis for values; the range is widened to round numbers.</summary>
    /// <param name="low">The smallest value.</param>
    /// <param name="high">The largest value.</param>
    /// <param name="from">The position of the low end.</param>
    /// <param name="to">The position of the high end.</param>
    /// <param name="wanted">About how many ticks.</param>
    public static Axis Linear(double low, double high, double from, double to, int wanted = 5)
    {
        (low, high) = Sound(low, high);
        double step = RoundStep((high - low) / Math.Max(wanted, 1));
        double first = Math.Floor((low / step) + 1e-9) * step, last = Math.Ceiling((high / step) - 1e-9) * step;
        var ticks = new List<double>();
        for (int i = 0; i <= (int)Math.Round((last - first) / step); i++)
        {
            ticks.Add(first + (i * step));
        }

        return new Axis(first, last, from, to, ticks, logarithmic: false);
    }

    /// <summary>An axis for positions such as steps: it ends where the data end, with ticks at round numbers between.</summary>
    public static Axis Exact(double low, double high, double from, double to, int wanted = 6)
    {
        (low, high) = Sound(low, high);
        double step = RoundStep((high - low) / Math.Max(wanted, 1));
        var ticks = new List<double>();
        for (double at = Math.Ceiling((low / step) - 1e-9) * step; at <= high + (step * 1e-9); at += step)
        {
            ticks.Add(at);
        }

        return new Axis(low, high, from, to, ticks, logarithmic: false);
    }

    /// <summary>A logarithmic axis; all values are positive. Its ends and ticks are 1, 2 or 5 times a power of ten.</summary>
    public static Axis Logarithmic(double low, double high, double from, double to)
    {
        double[] steps = [.. Enumerable.Range((int)Math.Floor(Math.Log10(low)), (int)Math.Ceiling(Math.Log10(high)) - (int)Math.Floor(Math.Log10(low)) + 2)
            .SelectMany(decade => new[] { 1.0, 2, 5 }.Select(digit => digit * Math.Pow(10, decade)))];
        double first = steps.Last(s => s <= low * (1 + 1e-9)), last = steps.First(s => s >= high * (1 - 1e-9) && s > first);
        double[] within = [.. steps.Where(s => s >= first && s <= last)];
        double[] decades = [.. within.Where(s => Math.Abs(Math.Log10(s) - Math.Round(Math.Log10(s))) < 1e-9)];
        double[] ticks = within.Length <= 7 ? within : [.. decades.Where((_, i) => i % ((decades.Length / 7) + 1) == 0)];
        return new Axis(Math.Log10(first), Math.Log10(last), from, to, ticks, logarithmic: true);
    }

    /// <summary>Where a value lies.</summary>
    public double At(double value)
    {
        double v = IsLogarithmic ? Math.Log10(Math.Max(value, double.Epsilon)) : value;
        return _from + ((Math.Clamp(v, _low, _high) - _low) / (_high - _low) * (_to - _from));
    }

    /// <summary>A value as a tick or a label says it: as many digits as help.</summary>
    public static string Label(double value)
    {
        double size = Math.Abs(value);
        return value == 0 ? "0"
            : size >= 1e9 ? Short(value / 1e9) + " G"
            : size >= 1e6 ? Short(value / 1e6) + " M"
            : size >= 1e4 ? Short(value / 1e3) + " k"
            : size >= 100 ? value.ToString("0.#", CultureInfo.InvariantCulture)
            : size >= 0.001 ? value.ToString(size >= 1 ? "0.##" : "0.####", CultureInfo.InvariantCulture)
            : value.ToString("0.##e0", CultureInfo.InvariantCulture);
    }

    private static string Short(double value) => value.ToString("0.##", CultureInfo.InvariantCulture);

    private static (double Low, double High) Sound(double low, double high)
    {
        if (!double.IsFinite(low) || !double.IsFinite(high))
        {
            return (0, 1);
        }

        double room = low == high ? Math.Max(Math.Abs(low) * 0.1, 1e-9) : 0;
        return (low - room, high + room);
    }

    // 1, 2, 2.5 or 5 times a power of ten.
    private static double RoundStep(double rough)
    {
        double power = Math.Pow(10, Math.Floor(Math.Log10(rough)));
        double share = rough / power;
        return power * (share <= 1 ? 1 : share <= 2 ? 2 : share <= 2.5 ? 2.5 : share <= 5 ? 5 : 10);
    }
}
