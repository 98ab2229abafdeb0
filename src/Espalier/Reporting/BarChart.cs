using System.Globalization;

namespace Espalier.Reporting;

/// <summary>One bar.</summary>
/// <param name="Label">What it is.</param>
/// <param name="Value">How long it is; 0 or more.</param>
/// <param name="Tone">Its colour.</param>
/// <param name="Shown">The value as it is to be read; null for the number itself.</param>
/// <param name="Error">Half the width of its error mark, in the value's unit; null for none.</param>
public sealed record Bar(string Label, double Value, Tone Tone = Tone.Leaf, string? Shown = null, double? Error = null);

/// <summary>A few named bars, lying, each with its value at the end.</summary>
public sealed class BarChart : Chart
{
    private const double RowHeight = 36, Top = 4;

    /// <summary>The bars from top to bottom.</summary>
    public required IReadOnlyList<Bar> Bars { get; init; }

    /// <inheritdoc/>
    protected override bool IsEmpty => Bars.Count == 0;

    /// <inheritdoc/>
    protected override string Description => $"{Title}: {string.Join(", ", Bars.Select(b => $"{b.Label} {Shown(b)}"))}";

    private protected override Svg Draw(double width)
    {
        var svg = new Svg(width, Top + (Bars.Count * RowHeight));
        double left = Math.Min(Bars.Max(b => Svg.TextWidth(b.Label)) + 14, width * 0.4), right = Bars.Max(b => Svg.TextWidth(Shown(b))) + 22;
        double most = Bars.Where(b => double.IsFinite(b.Value)).Select(b => b.Value + (b.Error ?? 0)).DefaultIfEmpty(1).Max();
        double scale = (width - left - right) / (most > 0 ? most : 1);
        for (int i = 0; i < Bars.Count; i++)
        {
            Bar bar = Bars[i];
            double y = Top + (i * RowHeight), middle = y + (RowHeight / 2), length = double.IsFinite(bar.Value) ? Math.Max(bar.Value * scale, 2) : width - left - right;
            svg.Text(left - 10, middle + 4, Shorten(bar.Label, left - 10), "label", "end");
            svg.Rectangle(left, y + 6, length, RowHeight - 12, $"bar {Svg.ToneClass(bar.Tone)}", $"{bar.Label}: {Shown(bar)}", radius: 3);
            double end = left + length;
            if (bar.Error is { } error && error * scale >= 1)
            {
                svg.Line(Math.Max(end - (error * scale), left), middle, end + (error * scale), middle, "error");
                end += error * scale;
            }

            svg.Text(end + 8, middle + 4, Shown(bar), "value");
        }

        return svg;
    }

    private static string Shown(Bar bar) => bar.Shown
        ?? (double.IsFinite(bar.Value) ? Axis.Label(bar.Value) : bar.Value.ToString(CultureInfo.InvariantCulture));

    private static string Shorten(string label, double room)
    {
        int fits = Math.Max((int)(room / 6.4), 4);
        return label.Length <= fits ? label : label[..(fits - 1)] + "…";
    }
}
