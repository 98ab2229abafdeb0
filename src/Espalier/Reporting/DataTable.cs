namespace Espalier.Reporting;

/// <summary>A column of a table.</summary>
/// <param name="Heading">Its heading.</param>
/// <param name="Numeric">Whether it holds figures, which stand right.</param>
public sealed record Column(string Heading, bool Numeric = false);

/// <summary>A table; on a narrow screen it scrolls within itself.</summary>
public sealed class DataTable : IReportBlock
{
    private readonly IReadOnlyList<Column> _columns;
    private readonly IReadOnlyList<IReadOnlyList<string>> _rows;
    private readonly string? _caption;

    /// <summary>Makes a table.</summary>
    /// <param name="columns">Its columns.</param>
    /// <param name="rows">Its rows, each with one text per column.</param>
    /// <param name="caption">What it shows; null for nothing.</param>
    /// <exception cref="ArgumentException">When a row has another number of cells.</exception>
    public DataTable(IReadOnlyList<Column> columns, IReadOnlyList<IReadOnlyList<string>> rows, string? caption = null)
    {
        if (rows.FirstOrDefault(r => r.Count != columns.Count) is { } odd)
        {
            throw new ArgumentException($"A row has {odd.Count} cells for {columns.Count} columns: {string.Join(", ", odd)}.", nameof(rows));
        }

        (_columns, _rows, _caption) = (columns, rows, caption);
    }

    /// <summary>Names and values, one pair a row.</summary>
    public static DataTable Of(IEnumerable<KeyValuePair<string, string>> pairs, string name = "", string value = "") =>
        new([new(name), new(value)], [.. pairs.Select(p => (IReadOnlyList<string>)[p.Key, p.Value])]);

    /// <inheritdoc/>
    public void Write(HtmlWriter html)
    {
        html.Markup("<div class=\"table\" tabindex=\"0\"><table>");
        if (_caption is not null)
        {
            html.Element("caption", _caption);
        }

        if (_columns.Any(c => c.Heading.Length > 0))
        {
            html.Markup("<thead><tr>");
            foreach (Column column in _columns)
            {
                html.Markup(column.Numeric ? "<th scope=\"col\" class=\"number\">" : "<th scope=\"col\">").Text(column.Heading).Markup("</th>");
            }

            html.Markup("</tr></thead>");
        }

        html.Markup("<tbody>");
        foreach (IReadOnlyList<string> row in _rows)
        {
            html.Markup("<tr>");
            for (int i = 0; i < row.Count; i++)
            {
                string tag = i == 0 ? "th scope=\"row\"" : "td";
                html.Markup(_columns[i].Numeric ? $"<{tag} class=\"number\">" : $"<{tag}>").Text(row[i]).Markup(i == 0 ? "</th>" : "</td>");
            }

            html.Markup("</tr>\n");
        }

        html.Markup("</tbody></table></div>\n");
    }
}
