using Espalier.Models.Export;
using Spectre.Console;

namespace Espalier.Cli.Commands;

/// <summary>Which programs load what was written, as a table.</summary>
internal static class ReaderText
{
    public static void Show(CommandContext context, IReadOnlyList<ReaderEntry> readers)
    {
        Table table = new Table().Border(TableBorder.Rounded).AddColumn("reader").AddColumn("loads it").AddColumn("how, or why not");
        foreach (ReaderEntry reader in readers)
        {
            table.AddRow(Markup.Escape(reader.Name), reader.Word, Markup.Escape(reader.How));
        }

        context.Console.Write(table);
    }
}
