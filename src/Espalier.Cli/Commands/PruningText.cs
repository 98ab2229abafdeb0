using System.Globalization;
using Espalier.Pruning;
using Espalier.Pruning.Structured;
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

        if (preview.Structure is { } structure)
        {
            ShowCuts(console, structure);
            ShowEstimate(console, preview);
            return;
        }

        if (job.Plan.OnlyRetrains)
        {
            console.MarkupLine("No weight is pruned; the model is retrained.");
            ShowEstimate(console, preview);
            return;
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
        ShowEstimate(console, preview);
    }

    private static void ShowCuts(IAnsiConsole console, StructurePreview structure)
    {
        Table table = new Table().Border(TableBorder.Rounded).AddColumn("coupled group").AddColumn("unit").AddColumn(new TableColumn("stay").RightAligned()).AddColumn("what goes with the first of them");
        // Groups of equal sizes, cut alike, are one row: the first stands for all.
        foreach (IGrouping<(string, int, int?, string), PlannedGroup> alike in structure.Groups.GroupBy(g => (g.Unit, g.Count, g.Kept, g.Cut)))
        {
            PlannedGroup group = alike.First();
            string owner = alike.Count() == 1 ? group.Owner : $"{group.Owner} … {alike.Last().Owner} ({alike.Count()})";
            table.AddRow(Markup.Escape(owner), group.Unit, $"{group.Kept?.ToString(CultureInfo.InvariantCulture) ?? "?"} of {group.Count}", Markup.Escape(group.Cut));
        }

        console.Write(table);
        string after = structure.ParametersAfter is { } parameters ? $" {Text.Count(structure.ParametersBefore)} parameters become {Text.Count(parameters)}." : "";
        console.MarkupLine($"{Markup.Escape(structure.Note)}{after}");
    }

    private static void ShowEstimate(IAnsiConsole console, PruningPreview preview)
    {
        string spills = preview.Spills ? " in a file, to stay inside the memory budget" : string.Empty;
        console.MarkupLine($"Estimated: {Text.Duration(preview.Time)}, {Text.Bytes(preview.PeakBytes)} of memory at the peak; calibration activations {Text.Bytes(preview.ActivationBytes)}{spills}.");
    }

    public static void ShowTrial(CommandContext context, IReadOnlyList<BlockReport> tried)
    {
        if (tried.Count == 0)
        {
            context.Console.MarkupLine("Nothing was written.");
        }

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
        if (report.Structure is { } structure)
        {
            ShowStructure(console, structure, report.DiskBytes);
        }

        if (report.Trained is { } trained)
        {
            console.MarkupLine($"Trained: {Text.Count(trained)} of {Text.Count(report.Parameters)} parameters ({Percent(trained / (double)report.Parameters)}).");
        }

        if (report.Quantisation is { } quantisation)
        {
            console.MarkupLine(Markup.Escape(quantisation + PruningReportPage.RequantisingCost(report)));
        }

        if (report.Activations is { Count: > 0 } activations)
        {
            console.MarkupLine(ActivationReport.Sentence(activations));
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
        if (report.Speed is { } speed)
        {
            ShowSpeed(console, speed);
        }

        ReaderText.Show(context, report.Readers);
        console.MarkupLine($"Time {Text.Duration(TimeSpan.FromSeconds(report.Seconds.Values.Sum()))}, peak memory {Text.Bytes(report.PeakMemory)}.");
        console.MarkupLine($"Checkpoint: {Markup.Escape(report.Out)}");
        console.MarkupLine($"Report:     {Markup.Escape(Path.Combine(report.Out, "report.html"))}");
    }

    private static void ShowSpeed(IAnsiConsole console, SpeedTable speed)
    {
        var table = new Table().Border(TableBorder.Rounded);
        for (int i = 0; i < SpeedText.Headings.Count; i++)
        {
            table.AddColumn(i == 0 ? new TableColumn(SpeedText.Headings[i]) : new TableColumn(SpeedText.Headings[i]).RightAligned());
        }

        foreach (IReadOnlyList<string> row in SpeedText.Rows(speed))
        {
            table.AddRow([.. row]);
        }

        console.MarkupLine($"[bold]{Markup.Escape(speed.Sentence)}[/]");
        console.Write(table);
    }

    private static void ShowStructure(IAnsiConsole console, StructureReport structure, DiskSize disk)
    {
        var table = new Table().Border(TableBorder.Rounded);
        for (int i = 0; i < StructureText.Headings.Count; i++)
        {
            table.AddColumn(i == 0 ? new TableColumn(StructureText.Headings[i]) : new TableColumn(StructureText.Headings[i]).RightAligned());
        }

        foreach (IReadOnlyList<string> row in StructureText.Rows(structure))
        {
            table.AddRow([.. row]);
        }

        console.Write(table);
        string width = structure.HiddenBefore == structure.HiddenAfter ? "" : $"Width {structure.HiddenBefore} → {structure.HiddenAfter}. ";
        console.MarkupLine($"{width}On disk {Text.Bytes(disk.Before)} → {Text.Bytes(disk.After)}.");
        if (structure.Speed is { } speed)
        {
            console.MarkupLine($"Speed here: {Markup.Escape(speed.ToString())}.");
        }

        console.MarkupLine(structure.Plain
            ? "Any program that loads this architecture loads the result."
            : "Espalier loads the result (blocks or heads have sizes of their own); for other programs prune with --uniform, or pad: espalier export --format checkpoint --pad.");
    }

    private static string Percent(double share) => (100 * share).ToString("0.##", CultureInfo.InvariantCulture) + " %";
}
