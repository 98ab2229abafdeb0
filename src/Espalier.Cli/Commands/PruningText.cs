using System.Globalization;
using Espalier.Pruning;
using Spectre.Console;
using Text = Espalier.Runtime.Text;

namespace Espalier.Cli.Commands;

/// <summary>What <c>prune</c> and <c>quickstart</c> print about a run.</summary>
internal static class PruningText
{
    public static void ShowPreview(CommandContext context, PruningJob job, PruningPreview preview)
    {
        IAnsiConsole console = context.Console;
        console.MarkupLine($"[bold]{Markup.Escape(job.Model)}[/]: {preview.Layers.Select(l => l.Block).Distinct().Count()} blocks, {Text.Count(preview.Parameters)} parameters, {Text.Count(preview.Prunable)} of them prunable.");
        foreach ((string part, string value) in job.Plan.Describe().Where(p => p.Value != "none"))
        {
            console.MarkupLine($"  {part,-14} {Markup.Escape(value)}");
        }

        Table table = new Table().Border(TableBorder.Rounded).AddColumn("weight").AddColumn(new TableColumn("shape").RightAligned()).AddColumn(new TableColumn("to go").RightAligned());
        foreach (PlannedLayer layer in preview.Layers.Where(l => preview.Kinds.Contains(l.Block)))
        {
            table.AddRow(Markup.Escape(layer.Name), $"{layer.Rows} × {layer.Columns}", Percent(layer.Asked));
        }

        console.Write(table);
        if (preview.DecidedBy is { } allocator)
        {
            console.MarkupLine($"Shown is the share of the whole model; {Markup.Escape(allocator)} decides each weight's when it has looked at the dense model.");
        }

        console.MarkupLine(preview.Kinds.Count == 1 ? "All blocks are of this kind." : $"{preview.Kinds.Count} kinds of blocks, one of each shown.");
        console.MarkupLine($"Coupled groups of a block: {Markup.Escape(string.Join("; ", preview.Groups))}.");
        string spills = preview.Spills ? " in a file, to stay inside the memory budget" : string.Empty;
        console.MarkupLine($"Estimated: {Text.Duration(preview.Time)}, {Text.Bytes(preview.PeakBytes)} of memory at the peak; calibration activations {Text.Bytes(preview.ActivationBytes)}{spills}.");
    }

    public static void ShowTrial(CommandContext context, IReadOnlyList<BlockReport> tried)
    {
        foreach (BlockReport block in tried)
        {
            string error = block.OutputError is { } e ? string.Create(CultureInfo.InvariantCulture, $", output error {e:G3}") : string.Empty;
            context.Console.MarkupLine($"Block {block.Index} tried in {Text.Duration(TimeSpan.FromSeconds(block.Seconds))}{error}; nothing was written.");
        }
    }

    public static void ShowReport(CommandContext context, PruningReport report)
    {
        IAnsiConsole console = context.Console;
        if (report.Quality.Count > 0)
        {
            Table table = new Table().Border(TableBorder.Rounded).AddColumn("stage").AddColumn(new TableColumn("perplexity").RightAligned());
            foreach (StageQuality stage in report.Quality)
            {
                table.AddRow(stage.Stage, stage.Perplexity.ToString("F2", CultureInfo.InvariantCulture));
            }

            console.Write(table);
        }

        console.MarkupLine($"[bold]{Markup.Escape(PruningReportPage.Headline(report))}[/]");
        if (report.Trained is { } trained)
        {
            console.MarkupLine($"Trained: {Text.Count(trained)} of {Text.Count(report.Parameters)} parameters ({Percent(trained / (double)report.Parameters)}).");
        }

        foreach (TextSample sample in report.Samples)
        {
            console.WriteLine();
            foreach ((string stage, string continuation) in sample.Continuations)
            {
                console.MarkupLine($"[bold]{stage,-10}[/] {Markup.Escape(sample.Prompt)}[grey]{Markup.Escape(continuation.ReplaceLineEndings(" "))}[/]");
            }
        }

        console.WriteLine();
        console.MarkupLine($"Time {Text.Duration(TimeSpan.FromSeconds(report.Seconds.Values.Sum()))}, peak memory {Text.Bytes(report.PeakMemory)}.");
        console.MarkupLine($"Checkpoint: {Markup.Escape(report.Out)}");
        console.MarkupLine($"Report:     {Markup.Escape(Path.Combine(report.Out, "report.html"))}");
    }

    private static string Percent(double share) => (100 * share).ToString("0.##", CultureInfo.InvariantCulture) + " %";
}
