using System.Globalization;

namespace Espalier.Reporting;

/// <summary>One value for each place of the axis.</summary>
/// <param name="Name">What it is.</param>
/// <param name="Values">One per place; null where there is none.</param>
/// <param name="Tone">Its colour.</param>
public sealed record ColumnSeries(string Name, IReadOnlyList<double?> Values, Tone Tone = Tone.Leaf);

/// <summary>Standing columns over many places, such as an error for each block, with one or more series side by side.</summary>
public sealed class ColumnChart : Chart
{
    private const double Left = 56, Right = 8, Top = 26, Bottom = 40, Height = 300;

    /// <summary>The names of the places, left to right.</summary>
    public required IReadOnlyList<string> Places { get; init; }

    /// <summary>The series; each has one value per place.</summary>
    public required IReadOnlyList<ColumnSeries> Columns { get; init; }

    /// <summary>What the places are ("block").</summary>
    public string XLabel { get; init; } = "";

    /// <summary>What the values are ("relative error").</summary>
    public string YLabel { get; init; } = "";

    /// <summary>How a value is read in the tooltip; null for the number itself.</summary>
    public Func<double, string>? Format { get; init; }

    /// <inheritdoc/>
    protected override bool IsEmpty => !All.Any();

    /// <inheritdoc/>
    protected override string Description => string.Create(CultureInfo.InvariantCulture,
        $"{Title}: {string.Join("; ", Columns.Select(c => $"{c.Name} {string.Join(", ", c.Values.Select(v => v is { } value ? Shown(value) : "none"))}"))}");

    private protected override IReadOnlyList<(string Name, Tone Tone)> Keys => [.. Columns.Select(c => (c.Name, c.Tone))];

    private IEnumerable<double> All => Columns.SelectMany(c => c.Values).OfType<double>().Where(double.IsFinite);

    private protected override Svg Draw(double width)
    {
        var svg = new Svg(width, Height);
        Axis y = Axis.Linear(0, Math.Max(All.Max(), double.Epsilon), Height - Bottom, Top, 4);
        foreach (double tick in y.Ticks)
        {
            svg.Line(Left, y.At(tick), width - Right, y.At(tick), tick == 0 ? "base" : "grid");
            svg.Text(Left - 8, y.At(tick) + 4, Format is null ? Axis.Label(tick) : Format(tick), "tick", "end");
        }

        double room = (width - Left - Right) / Places.Count, gap = Math.Min(room * 0.25, 24), bar = Math.Min((room - gap) / Columns.Count, 44);
        int every = Math.Max(1, (int)Math.Ceiling((Places.Max(Svg.TextWidth) + 8) / room));
        for (int place = 0; place < Places.Count; place++)
        {
            double start = Left + (place * room) + ((room - (bar * Columns.Count)) / 2);
            for (int i = 0; i < Columns.Count; i++)
            {
                if (Columns[i].Values[place] is { } value && double.IsFinite(value))
                {
                    double top = y.At(value), inset = bar > 6 ? 1 : 0;
                    svg.Rectangle(start + (i * bar) + inset, top, bar - (2 * inset), Height - Bottom - top, $"bar {Svg.ToneClass(Columns[i].Tone)}",
                        $"{XLabel} {Places[place]}, {Columns[i].Name}: {Shown(value)}");
                }
            }

            if (place % every == 0)
            {
                svg.Text(Left + ((place + 0.5) * room), Height - Bottom + 18, Places[place], "tick", "middle");
            }
        }

        svg.Text((Left + width - Right) / 2, Height - 4, XLabel, "axis", "middle");
        svg.Text(2, 11, YLabel, "axis");
        return svg;
    }

    private string Shown(double value) => Format is null ? Axis.Label(value) : Format(value);
}
