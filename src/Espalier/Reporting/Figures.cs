namespace Espalier.Reporting;

/// <summary>One key figure.</summary>
/// <param name="Label">What it is ("sparsity").</param>
/// <param name="Value">The figure as it is to be read ("50.0 %").</param>
/// <param name="Note">A short remark under it ("of 2,654,208 prunable weights"); null for none.</param>
/// <param name="Tone">Its colour; null for plain ink.</param>
public sealed record Figure(string Label, string Value, string? Note = null, Tone? Tone = null);

/// <summary>A row of cards with the figures that matter most.</summary>
/// <param name="items">The figures, most important first.</param>
public sealed class Figures(params IReadOnlyList<Figure> items) : IReportBlock
{
    /// <inheritdoc/>
    public void Write(HtmlWriter html)
    {
        // Whole rows: six cards are two rows of three, never five and one.
        int columns = items.Count <= 5 ? items.Count : items.Count % 3 == 0 ? 3 : 4;
        int last = columns == 0 ? 1 : 1 + ((columns - (items.Count % columns)) % columns); // fills what is left of its row
        html.Markup($"<dl class=\"cards\" style=\"--n:{columns};--last:{last}\">");
        foreach (Figure figure in items)
        {
            string tone = figure.Tone is { } t ? $" {Svg.ToneClass(t)}" : "";
            html.Markup($"<div class=\"card{tone}\">").Element("dt", figure.Label).Element("dd", figure.Value, "value");
            if (figure.Note is not null)
            {
                html.Element("dd", figure.Note, "note");
            }

            html.Markup("</div>");
        }

        html.Markup("</dl>\n");
    }
}
