using System.CommandLine;
using Espalier.Cli.Display;
using Espalier.Recipes;
using Spectre.Console;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier reproduce</c>: runs a paper's central claim against its baselines.</summary>
internal sealed class ReproduceCommand : EspalierCommand
{
    private readonly Argument<string> _slug = new("system") { Description = "The system (`espalier methods` lists them)." };
    private readonly Option<string> _seeds = new("--seeds") { Description = "Seeds, apart by commas.", DefaultValueFactory = _ => "0,1,2" };
    private readonly Option<RecipeSize> _size = new("--size") { Description = "quick (minutes) or smoke (seconds, proves nothing).", DefaultValueFactory = _ => RecipeSize.Quick };
    private readonly Option<string?> _model = new("--model") { Description = "Another language model (a folder or hub id), measured on IMDb reviews; default: the shipped model and its own text." };
    private readonly Option<string?> _out = new("--out") { Description = "Folder for the report; default ./espalier-reproductions/SYSTEM." };
    private readonly Option<bool> _markdown = new("--markdown") { Description = "Print the table as Markdown, for docs." };

    public ReproduceCommand()
        : base(
            "reproduce",
            "Runs a paper's central claim against its baselines over several seeds and states the verdict.",
            "espalier reproduce perp",
            "espalier reproduce perp --model espalier/imdb-llama-2.8m --seeds 0,1,2,3",
            "espalier reproduce perp --size smoke --json")
    {
        Add(_slug);
        foreach (Option option in new Option[] { _seeds, _size, _model, _out, _markdown })
        {
            Add(option);
        }

        KeepRuns();
    }

    /// <inheritdoc/>
    internal override void Check(ParseResult parsed)
    {
        Reproduction.For(parsed.GetRequiredValue(_slug).ToLowerInvariant());
        Inputs.Seeds(parsed.GetRequiredValue(_seeds));
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string slug = parsed.GetRequiredValue(_slug).ToLowerInvariant();
        IReadOnlyList<long> seeds = Inputs.Seeds(parsed.GetRequiredValue(_seeds));
        string folder = parsed.GetValue(_out) ?? Path.Combine("espalier-reproductions", slug);
        context.Recording?.Describe(null, folder, null, null);
        var recipe = new RecipeContext
        {
            Size = parsed.GetValue(_size),
            Device = context.Device,
            Model = parsed.GetValue(_model),
            Progress = context.Progress,
            Cancellation = cancellation,
        };
        ReproductionReport report = await Task.Run(() => Reproduction.Run(slug, recipe, seeds, folder), cancellation).ConfigureAwait(false);
        context.Show(report, () => Print(context, report, folder, parsed.GetValue(_markdown)));
        return ExitCode.Success;
    }

    private static void Print(CommandContext context, ReproductionReport report, string folder, bool markdown)
    {
        if (markdown)
        {
            context.Output.Write(ReproductionPage.ToMarkdown(report));
            return;
        }

        foreach (ExperimentSummary summary in report.Experiments)
        {
            Table table = Tables.Of(ReproductionPage.Headings(summary), ReproductionPage.Rows(summary)).Title(Markup.Escape(summary.Experiment.Name));
            context.Console.Write(table);
        }

        foreach (Check check in report.Checks)
        {
            context.Console.MarkupLine($"{(check.Holds ? "[green]holds[/]" : "[red]fails[/]")}  {Markup.Escape($"{check.Statement}: {check.Measured} (needed {check.Needed})")}");
        }

        context.Console.MarkupLine($"Verdict: [bold]{Markup.Escape(report.Verdict)}[/] ({ReproductionPage.Time(report)}). Report: {Markup.Escape(Path.Combine(folder, "report.html"))}");
    }
}
