using System.Globalization;

namespace Espalier.Reporting;

/// <summary>A grid of coloured cells, such as the sparsity of every kind of layer (rows) in every block (columns).</summary>
public sealed class HeatGrid : Chart
{
    private const double Top = 4, Bottom = 38, Right = 4, CellHeight = 30;

    /// <summary>The names of the rows, top to bottom.</summary>
    public required IReadOnlyList<string> Rows { get; init; }

    /// <summary>The names of the columns, left to right.</summary>
    public required IReadOnlyList<string> Columns { get; init; }

    /// <summary>Values by row and column; null where there is no such cell.</summary>
    public required IReadOnlyList<IReadOnlyList<double?>> Values { get; init; }

    /// <summary>What the columns are ("block").</summary>
    public string XLabel { get; init; } = "";

    /// <summary>The value of the palest colour; null for the smallest value, rounded down.</summary>
    public double? Low { get; init; }

    /// <summary>The value of the strongest colour; null for the largest value, rounded up.</summary>
    public double? High { get; init; }

    /// <summary>How a value is read; default a percentage.</summary>
    public Func<double, string> Format { get; init; } = v => v.ToString("0.0 %", CultureInfo.InvariantCulture);

    /// <inheritdoc/>
    protected override bool IsEmpty => !All.Any();

    /// <inheritdoc/>
    protected override string Description =>
        $"{Title}: {string.Join("; ", Rows.Select((r, i) => $"{r} {string.Join(", ", Values[i].Select(v => v is { } value ? Format(value) : "none"))}"))}";

    private IEnumerable<double> All => Values.SelectMany(r => r).OfType<double>().Where(double.IsFinite);

    private (double Low, double High) Range
    {
        get
        {
            double low = Low ?? Math.Floor(All.Min() * 10) / 10, high = High ?? Math.Ceiling(All.Max() * 10) / 10;
            return high > low ? (low, high) : (low - 0.1, high + 0.1);
        }
    }

    private protected override Svg Draw(double width)
    {
        (double low, double high) = Range;
        double left = Math.Min(Rows.Max(Svg.TextWidth) + 14, width * 0.34), cell = (width - left - Right) / Columns.Count;
        var svg = new Svg(width, Top + (Rows.Count * CellHeight) + Bottom);
        double gap = cell > 8 ? 2 : cell > 4 ? 1 : 0.25;
        for (int row = 0; row < Rows.Count; row++)
        {
            double y = Top + (row * CellHeight);
            svg.Text(left - 10, y + (CellHeight / 2) + 4, Rows[row], "label", "end");
            for (int column = 0; column < Columns.Count; column++)
            {
                double x = left + (column * cell);
                if (Values[row][column] is not { } value || !double.IsFinite(value))
                {
                    svg.Rectangle(x, y, cell - gap, CellHeight - 2, "cell none", $"{Rows[row]}, {XLabel} {Columns[column]}: none");
                    continue;
                }

                double share = Math.Clamp((value - low) / (high - low), 0, 1);
                svg.Rectangle(x, y, cell - gap, CellHeight - 2, "cell", $"{Rows[row]}, {XLabel} {Columns[column]}: {Format(value)}",
                    string.Create(CultureInfo.InvariantCulture, $"--v:{share:0.###}"), radius: Math.Min(3, cell / 4));
                if (cell > Svg.TextWidth(Format(value)) + 4)
                {
                    svg.Text(x + ((cell - gap) / 2), y + (CellHeight / 2) + 3, Format(value), share > 0.72 ? "inside strong" : share > 0.5 ? "inside mid" : "inside", "middle");
                }
            }
        }

        int every = Math.Max(1, (int)Math.Ceiling((Columns.Max(Svg.TextWidth) + 8) / cell));
        for (int column = 0; column < Columns.Count; column += every)
        {
            svg.Text(left + ((column + 0.5) * cell), Top + (Rows.Count * CellHeight) + 15, Columns[column], "tick", "middle");
        }

        svg.Text((left + width - Right) / 2, svg.Height - 4, XLabel, "axis", "middle");
        return svg;
    }

    private protected override void Legend(HtmlWriter html)
    {
        if (!IsEmpty)
        {
            html.Markup("<div class=\"ramp\">").Element("span", Format(Range.Low)).Markup("<i></i>").Element("span", Format(Range.High)).Markup("</div>");
        }
    }
}
