using System.Globalization;
using System.Text;

namespace Espalier.Reporting;

/// <summary>A small drawing: shapes with the page's colours by class, text, and what shows when one points at them.</summary>
internal sealed class Svg(double width, double height)
{
    private readonly StringBuilder _shapes = new();

    public double Width => width;

    public double Height => height;

    /// <summary>The class that sets the colour variable of a tone.</summary>
    public static string ToneClass(Tone tone) => tone switch
    {
        Tone.Leaf => "leaf",
        Tone.Clay => "clay",
        Tone.Slate => "slate",
        Tone.Ochre => "ochre",
        _ => "stone",
    };

    /// <summary>A number as SVG takes it, to a hundredth.</summary>
    public static string Number(double value) => Math.Round(value, 2).ToString("0.##", CultureInfo.InvariantCulture);

    public void Line(double x1, double y1, double x2, double y2, string cssClass) =>
        _shapes.Append(CultureInfo.InvariantCulture, $"<line x1=\"{Number(x1)}\" y1=\"{Number(y1)}\" x2=\"{Number(x2)}\" y2=\"{Number(y2)}\" class=\"{cssClass}\"/>");

    /// <summary>A rectangle; with a tooltip it reacts to pointing.</summary>
    public void Rectangle(double x, double y, double w, double h, string cssClass, string? tooltip = null, string? style = null, double radius = 2)
    {
        string rounded = radius > 0 ? $" rx=\"{Number(Math.Min(radius, Math.Min(w, h) / 2))}\"" : "";
        string styled = style is null ? "" : $" style=\"{style}\"";
        _shapes.Append(CultureInfo.InvariantCulture, $"<rect x=\"{Number(x)}\" y=\"{Number(y)}\" width=\"{Number(Math.Max(w, 0))}\" height=\"{Number(Math.Max(h, 0))}\"{rounded} class=\"{cssClass}\"{styled}>");
        _shapes.Append(tooltip is null ? "" : $"<title>{HtmlWriter.Encode(tooltip)}</title>").Append("</rect>");
    }

    public void Polyline(IEnumerable<(double X, double Y)> points, string cssClass) =>
        _shapes.Append($"<polyline points=\"{string.Join(' ', points.Select(p => $"{Number(p.X)},{Number(p.Y)}"))}\" class=\"{cssClass}\"/>");

    public void Polygon(IEnumerable<(double X, double Y)> points, string cssClass) =>
        _shapes.Append($"<polygon points=\"{string.Join(' ', points.Select(p => $"{Number(p.X)},{Number(p.Y)}"))}\" class=\"{cssClass}\"/>");

    public void Dot(double x, double y, double radius, string cssClass, string tooltip) =>
        _shapes.Append(CultureInfo.InvariantCulture, $"<circle cx=\"{Number(x)}\" cy=\"{Number(y)}\" r=\"{Number(radius)}\" class=\"{cssClass}\"><title>{HtmlWriter.Encode(tooltip)}</title></circle>");

    /// <summary>Text at a point; <paramref name="anchor"/> is start, middle or end.</summary>
    public void Text(double x, double y, string text, string cssClass = "", string anchor = "start")
    {
        string named = cssClass.Length > 0 ? $" class=\"{cssClass}\"" : "";
        _shapes.Append(CultureInfo.InvariantCulture, $"<text x=\"{Number(x)}\" y=\"{Number(y)}\" text-anchor=\"{anchor}\"{named}>{HtmlWriter.Encode(text)}</text>");
    }

    /// <summary>How wide a text is in the charts' 12-pixel font, about.</summary>
    public static double TextWidth(string text) => text.Length * 6.4;

    /// <summary>The element, described for those who cannot see it.</summary>
    public string ToMarkup(string description, string cssClass) =>
        $"<svg class=\"{cssClass}\" viewBox=\"0 0 {Number(width)} {Number(height)}\" role=\"img\" aria-label=\"{HtmlWriter.Encode(description)}\">{_shapes}</svg>";
}
