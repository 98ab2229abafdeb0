namespace Espalier.Reporting;

/// <summary>The room between two axes that charts of x and y draw into.</summary>
internal static class Plane
{
    public const double Left = 52, Right = 16, Top = 26, Bottom = 40;

    /// <summary>Draws the grid, the ticks and what the axes are.</summary>
    public static void Frame(Svg svg, Axis x, Axis y, string xLabel, string yLabel)
    {
        foreach (double tick in y.Ticks)
        {
            svg.Line(Left, y.At(tick), svg.Width - Right, y.At(tick), "grid");
            svg.Text(Left - 8, y.At(tick) + 4, Axis.Label(tick), "tick", "end");
        }

        foreach (double tick in x.Ticks)
        {
            svg.Text(x.At(tick), svg.Height - Bottom + 18, Axis.Label(tick), "tick", "middle");
        }

        svg.Text((Left + svg.Width - Right) / 2, svg.Height - 4, xLabel, "axis", "middle");
        svg.Text(2, 11, yLabel, "axis");
    }
}
