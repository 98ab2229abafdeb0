using System.Globalization;

namespace Espalier.Reporting;

/// <summary>A line: points in the order of x.</summary>
/// <param name="Name">What it is.</param>
/// <param name="Points">Its points; values that are not finite leave a gap.</param>
/// <param name="Tone">Its colour.</param>
public sealed record Series(string Name, IReadOnlyList<(double X, double Y)> Points, Tone Tone = Tone.Leaf)
{
    /// <summary>A line through values at 1, 2, 3 and so on.</summary>
    public static Series Of(string name, IEnumerable<double> values, Tone tone = Tone.Leaf) =>
        new(name, [.. values.Select((v, i) => ((double)i + 1, v))], tone);
}

/// <summary>Lines over a common axis, such as a loss over steps; noisy ones are drawn faint with a smoothed line on top.</summary>
public sealed class LineChart : Chart
{
    private const double Height = 300;
    private const int MostPoints = 500, MostTargets = 60;

    /// <summary>The lines.</summary>
    public required IReadOnlyList<Series> Lines { get; init; }

    /// <summary>What x is ("step").</summary>
    public string XLabel { get; init; } = "";

    /// <summary>What y is ("loss").</summary>
    public string YLabel { get; init; } = "";

    /// <summary>Share of the past in the smoothed line, 0…1; 0 draws the values alone. Null: by the number of points.</summary>
    public double? Smoothing { get; init; }

    /// <summary>Draws y on a logarithmic axis; values must be positive.</summary>
    public bool Logarithmic { get; init; }

    /// <inheritdoc/>
    protected override bool IsEmpty => !Finite.Any();

    /// <inheritdoc/>
    protected override string Description => string.Create(CultureInfo.InvariantCulture, $"{Title}: {string.Join("; ", Lines.Where(l => l.Points.Count > 0)
        .Select(l => $"{l.Name} from {Axis.Label(l.Points[0].Y)} at {Axis.Label(l.Points[0].X)} to {Axis.Label(l.Points[^1].Y)} at {Axis.Label(l.Points[^1].X)}"))}");

    private protected override IReadOnlyList<(string Name, Tone Tone)> Keys => [.. Lines.Select(l => (l.Name, l.Tone))];

    private IEnumerable<(double X, double Y)> Finite => Lines.SelectMany(l => l.Points).Where(p => Drawable(p.Y));

    private protected override Svg Draw(double width)
    {
        var svg = new Svg(width, Height);
        double lowX = Finite.Min(p => p.X), highX = Finite.Max(p => p.X), lowY = Finite.Min(p => p.Y), highY = Finite.Max(p => p.Y);
        Axis x = Axis.Exact(lowX, highX, Plane.Left, width - Plane.Right, width < 500 ? 5 : 8);
        Axis y = Logarithmic ? Axis.Logarithmic(lowY, highY, Height - Plane.Bottom, Plane.Top) : Axis.Linear(lowY, highY, Height - Plane.Bottom, Plane.Top);
        Plane.Frame(svg, x, y, XLabel, YLabel);
        foreach (Series line in Lines)
        {
            DrawLine(svg, line, x, y);
        }

        return svg;
    }

    /// <summary>
    /// An exponential average forwards and one backwards, averaged: it does not lag behind a falling loss as one alone
    /// would, and is not pulled to zero at its ends.
    /// </summary>
    internal static IEnumerable<(double X, double Y)> Smooth(IReadOnlyList<(double X, double Y)> points, double past)
    {
        double[] forwards = Averages(points.Select(p => p.Y), past), backwards = Averages(points.Reverse().Select(p => p.Y), past);
        return points.Select((p, i) => (p.X, (forwards[i] + backwards[points.Count - 1 - i]) / 2));
    }

    private static double[] Averages(IEnumerable<double> values, double past)
    {
        double sum = 0, weight = 0;
        return [.. values.Select(value =>
        {
            if (double.IsFinite(value))
            {
                sum = (sum * past) + value;
                weight = (weight * past) + 1;
            }

            return weight > 0 ? sum / weight : double.NaN;
        })];
    }

    private void DrawLine(Svg svg, Series line, Axis x, Axis y)
    {
        double past = Smoothing ?? (line.Points.Count >= 40 ? Math.Clamp(1 - (20.0 / line.Points.Count), 0.6, 0.98) : 0);
        string tone = Svg.ToneClass(line.Tone);
        foreach (List<(double X, double Y)> run in Runs(line.Points))
        {
            svg.Polyline(Thin(run).Select(p => (x.At(p.X), y.At(p.Y))), past > 0 ? $"line faint {tone}" : $"line {tone}");
        }

        (double X, double Y)[] shown = past > 0 ? [.. Smooth(line.Points, past)] : [.. line.Points];
        if (past > 0)
        {
            svg.Polyline(Thin(shown.Where(p => Drawable(p.Y)).ToList()).Select(p => (x.At(p.X), y.At(p.Y))), $"line {tone}");
        }

        int every = Math.Max(1, (shown.Length + MostTargets - 1) / MostTargets);
        for (int i = 0; i < shown.Length; i += every)
        {
            if (Drawable(shown[i].Y))
            {
                string marked = shown.Length <= 25 ? "dot shown" : "dot";
                svg.Dot(x.At(shown[i].X), y.At(shown[i].Y), shown.Length <= 25 ? 3.5 : 6, $"{marked} {tone}", $"{line.Name} {Axis.Label(shown[i].Y)} at {XLabel} {Axis.Label(shown[i].X)}");
            }
        }
    }

    private bool Drawable(double value) => double.IsFinite(value) && (!Logarithmic || value > 0);

    private IEnumerable<List<(double X, double Y)>> Runs(IReadOnlyList<(double X, double Y)> points)
    {
        var run = new List<(double X, double Y)>();
        foreach (var point in points)
        {
            if (Drawable(point.Y))
            {
                run.Add(point);
            }
            else if (run.Count > 0)
            {
                yield return run;
                run = [];
            }
        }

        if (run.Count > 0)
        {
            yield return run;
        }
    }

    /// <summary>The lowest and highest of every bucket: peaks stay where a mean would hide them.</summary>
    private static IEnumerable<(double X, double Y)> Thin(List<(double X, double Y)> points)
    {
        int bucket = (points.Count + (MostPoints / 2) - 1) / (MostPoints / 2);
        if (points.Count <= MostPoints)
        {
            return points;
        }

        return points.Chunk(bucket).SelectMany(c => new[] { c.MinBy(p => p.Y), c.MaxBy(p => p.Y) }.OrderBy(p => p.X).Distinct());
    }
}
