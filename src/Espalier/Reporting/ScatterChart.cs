using System.Globalization;
using Espalier.Evaluation;

namespace Espalier.Reporting;

/// <summary>One thing with two figures.</summary>
/// <param name="Name">What stands beside it.</param>
/// <param name="X">Its first figure; a point that is not finite is left out.</param>
/// <param name="Y">Its second figure.</param>
/// <param name="XError">Half of the bar along x; null for none.</param>
/// <param name="YError">Half of the bar along y; null for none.</param>
public sealed record ScatterPoint(string Name, double X, double Y, double? XError = null, double? YError = null);

/// <summary>Points with their names and error bars, and the Pareto front as a line through those that no other point beats.</summary>
public sealed class ScatterChart : Chart
{
    private const double Height = 340, Radius = 5, PieceLength = 6;

    // Of so many points no names are looked for a free place away from their points.
    private const int Crowd = 60;

    // What differs by less than this share of itself is not drawn far apart.
    private const double LeastSpan = 0.1;

    /// <summary>The points.</summary>
    public required IReadOnlyList<ScatterPoint> Points { get; init; }

    /// <summary>What x is ("parameters").</summary>
    public string XLabel { get; init; } = "";

    /// <summary>What y is ("perplexity"); less of it is better.</summary>
    public string YLabel { get; init; } = "";

    /// <summary>Which way x gets better, to draw the Pareto front; null draws none.</summary>
    public Goal? Front { get; init; }

    /// <summary>A value of y to compare with, drawn across ("dense"); null for none.</summary>
    public (string Name, double Y)? Reference { get; init; }

    /// <summary>Lines to compare with, such as a bound that falls with x; drawn dashed, with their names at their first points.</summary>
    public IReadOnlyList<Series> Curves { get; init; } = [];

    /// <summary>Draws y on a logarithmic axis; values must be positive.</summary>
    public bool Logarithmic { get; init; }

    /// <summary>Draws x on a logarithmic axis; values must be positive.</summary>
    public bool LogarithmicX { get; init; }

    /// <inheritdoc/>
    protected override bool IsEmpty => !Shown.Any();

    /// <inheritdoc/>
    protected override string Description => string.Create(CultureInfo.InvariantCulture,
        $"{Title}: {string.Join("; ", Shown.Select(p => $"{p.Name} {Axis.Label(p.Y)} at {Axis.Label(p.X)}"))}{(Front is null ? "" : $"; on the Pareto front: {string.Join(", ", OnFront.Select(p => p.Name))}")}");

    private protected override IReadOnlyList<(string Name, Tone Tone)> Keys =>
        Front is null ? [] : [("on the Pareto front", Tone.Leaf), ("beaten in both by another", Tone.Stone)];

    private ScatterPoint[] Shown => [.. Points.Where(p => double.IsFinite(p.X) && double.IsFinite(p.Y) && (!Logarithmic || p.Y > 0) && (!LogarithmicX || p.X > 0))];

    private ScatterPoint[] OnFront
    {
        get
        {
            ScatterPoint[] shown = Shown;
            return Front is { } goal ? [.. ParetoFront.Of([.. shown.Select(p => (p.X, p.Y))], goal).Select(i => shown[i])] : [];
        }
    }

    private protected override Svg Draw(double width)
    {
        var svg = new Svg(width, Height);
        ScatterPoint[] shown = Shown, front = OnFront;
        (double X, double Y)[] bends = [.. Curves.SelectMany(c => c.Points)];
        double lowX = shown.Select(p => p.X - Bar(p.XError)).Concat(bends.Select(b => b.X)).Min(), highX = shown.Select(p => p.X + Bar(p.XError)).Concat(bends.Select(b => b.X)).Max();
        double room = Math.Max((highX - lowX) * 0.06, ((Math.Max(Math.Abs(lowX), Math.Abs(highX)) * LeastSpan) - (highX - lowX)) / 2);
        double[] ys = [.. shown.SelectMany(p => new[] { Low(p), p.Y + Bar(p.YError) }), .. Reference is { } r ? [r.Y] : Array.Empty<double>(), .. bends.Select(b => b.Y)];
        Axis x = LogarithmicX ? Axis.Logarithmic(lowX, highX, Plane.Left, width - Plane.Right) : Axis.Exact(lowX - room, highX + room, Plane.Left, width - Plane.Right, width < 500 ? 4 : 8);
        Axis y = Logarithmic ? Axis.Logarithmic(ys.Min(), ys.Max(), Height - Plane.Bottom, Plane.Top) : Axis.Linear(ys.Min(), ys.Max(), Height - Plane.Bottom, Plane.Top);
        Plane.Frame(svg, x, y, XLabel, YLabel);
        if (Reference is { } across)
        {
            svg.Polyline([(Plane.Left, y.At(across.Y)), (width - Plane.Right, y.At(across.Y))], $"dashed {Svg.ToneClass(Tone.Slate)}");
            svg.Text(width - Plane.Right, y.At(across.Y) - 5, across.Name, "tick", "end");
        }

        (string Name, (double X, double Y)[] Line)[] curves = [.. Curves.Where(c => c.Points.Count > 1).Select(c => (c.Name, c.Points.Select(p => (x.At(p.X), y.At(p.Y))).ToArray()))];
        (double X, double Y)[] points = [.. shown.Select(p => (x.At(p.X), y.At(p.Y)))];
        (double X, double Y)[] best = [.. front.Select(p => (x.At(p.X), y.At(p.Y)))];
        var taken = shown.SelectMany(p => Boxes(p, x, y)).Concat(curves.Select(c => c.Line).Append(best).SelectMany(Along)).ToList();
        foreach ((Series curve, (string name, (double X, double Y)[] line)) in Curves.Where(c => c.Points.Count > 1).Zip(curves))
        {
            svg.Polyline(line, $"dashed {Svg.ToneClass(curve.Tone)}");
            Label(svg, name, line[0].X, line[0].Y, taken, points, "tick");
        }

        if (front.Length > 1)
        {
            svg.Polyline(best, $"line {Svg.ToneClass(Tone.Leaf)}");
        }

        foreach (ScatterPoint point in shown)
        {
            DrawPoint(svg, point, x, y, front.Contains(point));
            Label(svg, point.Name, x.At(point.X), y.At(point.Y), taken, points);
        }

        return svg;
    }

    private void DrawPoint(Svg svg, ScatterPoint point, Axis x, Axis y, bool onFront)
    {
        double atX = x.At(point.X), atY = y.At(point.Y);
        if (point.XError is { } dx)
        {
            svg.Line(x.At(point.X - dx), atY, x.At(point.X + dx), atY, "error");
        }

        if (point.YError is { } dy)
        {
            svg.Line(atX, y.At(Low(point)), atX, y.At(point.Y + dy), "error");
        }

        string tone = Svg.ToneClass(Front is null || onFront ? Tone.Leaf : Tone.Stone);
        if (onFront)
        {
            svg.Dot(atX, atY, Radius + 3.5, $"ring {tone}", point.Name);
        }

        svg.Dot(atX, atY, Radius, $"dot shown {tone}", $"{point.Name}: {YLabel} {Axis.Label(point.Y)}{Within(point.YError)}, {XLabel} {Axis.Label(point.X)}{Within(point.XError)}");
    }

    // What no name may cover: the point and its bars.
    private IEnumerable<Box> Boxes(ScatterPoint p, Axis x, Axis y)
    {
        double left = x.At(p.X - Bar(p.XError)), right = x.At(p.X + Bar(p.XError)), top = y.At(p.Y + Bar(p.YError)), bottom = y.At(Low(p));
        return [new(x.At(p.X) - Radius, y.At(p.Y) - Radius, 2 * Radius, 2 * Radius), new(left, y.At(p.Y) - 1, right - left, 2), new(x.At(p.X) - 1, top, 2, bottom - top)];
    }

    // A line, as small pieces.
    private static IEnumerable<Box> Along((double X, double Y)[] line) => line.Zip(line.Skip(1)).SelectMany(s =>
    {
        int pieces = 1 + (int)(Math.Max(Math.Abs(s.Second.X - s.First.X), Math.Abs(s.Second.Y - s.First.Y)) / PieceLength);
        return Enumerable.Range(0, pieces + 1).Select(i => i / (double)pieces).Select(share => new Box(s.First.X + (share * (s.Second.X - s.First.X)) - 1, s.First.Y + (share * (s.Second.Y - s.First.Y)) - 1, 2, 2));
    });

    // The first place at the point where its name covers no point, no line and no other name, and stands beside no other point; where there is none, the one where it
    // does so least. A name that is not right beside its point is tied to it by a thin line.
    private static void Label(Svg svg, string name, double x, double y, List<Box> taken, (double X, double Y)[] points, string style = "")
    {
        if (name.Length == 0)
        {
            return;
        }

        const int Beside = 4;
        const double Ascent = 11, Tall = 14, Margin = 8, Step = 0.5;
        double wide = Svg.TextWidth(name), aside = Radius + 7;
        (double X, double Y, string Anchor)[] places =
        [
            (x + aside, y + 4, "start"), (x - aside, y + 4, "end"), (x, y - 12, "middle"), (x, y + 22, "middle"),
            .. from level in new[] { 10, 24, 38, 52 }
               where points.Length <= Crowd
               from place in new[] { (x + aside, y - level, "start"), (x + aside, y + level + 8, "start"), (x - aside, y - level, "end"), (x - aside, y + level + 8, "end"), (x, y - level - 14, "middle"), (x, y + level + 24, "middle") }
               select place,
        ];
        Box[] others = [.. points.Where(p => p != (x, y)).Select(p => new Box(p.X - Radius - Margin, p.Y - Radius, 2 * (Radius + Margin), 2 * Radius))];
        int best = Enumerable.Range(0, places.Length).Where(i => Place(places[i]) is var box && box.X >= Plane.Left && box.X + wide <= svg.Width && box.Y >= 0 && box.Y + Tall <= svg.Height - Plane.Bottom)
            .DefaultIfEmpty(0).MinBy(i => taken.Concat(others).Sum(t => t.Shared(Place(places[i]))) + Tie(i).Sum(piece => taken.Sum(piece.Shared)) + (i * Step));
        taken.AddRange([Place(places[best]), .. Tie(best)]);
        if (best >= Beside)
        {
            svg.Line(x, y, End(best).X, End(best).Y, "leader");
        }

        svg.Text(places[best].X, places[best].Y, name, style, places[best].Anchor);

        Box Place((double X, double Y, string Anchor) p) => new(p.Anchor switch { "start" => p.X, "end" => p.X - wide, _ => p.X - (wide / 2) }, p.Y - Ascent, wide, Tall);

        (double X, double Y) End(int i)
        {
            Box at = Place(places[i]);
            return (Math.Clamp(x, at.X, at.X + wide), y < at.Y ? at.Y : at.Y + Tall);
        }

        IEnumerable<Box> Tie(int i) => i < Beside ? [] : Along([(x, y), End(i)]);
    }

    private static double Bar(double? error) => error is { } half && double.IsFinite(half) ? half : 0;

    // On a logarithmic axis a bar that would reach zero ends at half of its value.
    private double Low(ScatterPoint point) => Logarithmic ? Math.Max(point.Y - Bar(point.YError), point.Y / 2) : point.Y - Bar(point.YError);

    private static string Within(double? error) => error is { } half ? $" ± {Axis.Label(half)}" : "";

    private readonly record struct Box(double X, double Y, double Width, double Height)
    {
        public double Shared(Box other) =>
            Math.Max(0, Math.Min(X + Width, other.X + other.Width) - Math.Max(X, other.X)) * Math.Max(0, Math.Min(Y + Height, other.Y + other.Height) - Math.Max(Y, other.Y));
    }
}
