using Espalier.Reporting;
using Spectre.Console;

namespace Espalier.Cli.Display;

/// <summary>A report's table on the console.</summary>
internal static class Tables
{
    public static Table Of(IEnumerable<Column> headings, IEnumerable<IReadOnlyList<string>> rows)
    {
        Table table = new Table().Border(TableBorder.Rounded);
        foreach (Column column in headings)
        {
            var heading = new TableColumn(Markup.Escape(column.Heading));
            table.AddColumn(column.Numeric ? heading.RightAligned() : heading);
        }

        foreach (IReadOnlyList<string> row in rows)
        {
            table.AddRow([.. row.Select(Markup.Escape)]);
        }

        return table;
    }
}
