using System.CommandLine;
using Espalier.Cli.Display;
using Espalier.Pruning.Comparing;
using Spectre.Console;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier compare</c>: several plans on one model and the same texts, over several seeds.</summary>
internal sealed class CompareCommand : EspalierCommand
{
    private readonly Argument<string[]> _plans = new("plans") { Description = "Two plans or more (*.yaml), or one file that lists several under `plans:`.", Arity = ArgumentArity.OneOrMore };
    private readonly Option<string?> _seeds = new("--seeds") { Description = "Seeds, apart by commas; each draws calibration windows that all plans share. Default 0,1,2." };
    private readonly Option<string?> _out = new("--out") { Description = "Folder for runs and results. Default ./espalier-comparison." };
    private readonly Option<bool> _keep = new("--keep") { Description = "Keep the pruned checkpoints; else their weights are deleted when they have been measured." };

    // What all plans are given, and where it stands in each.
    private readonly (Option<string?> Option, string Path)[] _shared =
    [
        (new("--model") { Description = "The model of all plans." }, "model"),
        (new("--calibration") { Description = $"The calibration text of all plans: {Inputs.DataForms}." }, "data.calibration"),
        (new("--train-data") { Description = "The retraining text of all plans." }, "data.train"),
        (new("--evaluation") { Description = "The text that perplexity is measured on." }, "data.evaluation"),
        (new("--samples") { Description = "Calibration windows of all plans." }, "data.samples"),
        (new("--length") { Description = "Tokens in each of them." }, "data.length"),
        (new("--windows") { Description = "Evaluation windows at most." }, "data.windows"),
        (new("--context") { Description = "Tokens in each of them." }, "data.context"),
    ];

    public CompareCommand()
        : base(
            "compare",
            "Runs several pruning plans on one model and the same texts over several seeds: one table, one page of pictures, and which differences are more than chance.",
            "espalier compare recipes/compare-criteria.yaml",
            "espalier compare wanda.yaml sparsegpt.yaml --model meta-llama/Llama-3.2-1B --seeds 0,1,2 --out ./compared",
            "espalier compare a.yaml b.yaml --samples 32 --windows 64 --json")
    {
        Add(_plans);
        foreach ((Option<string?> option, _) in _shared)
        {
            Add(option);
        }

        Add(_seeds);
        Add(_out);
        Add(_keep);
        KeepRuns();
    }

    /// <inheritdoc/>
    internal override void Check(ParseResult parsed) => Request(parsed).Check();

    private ComparisonRequest Request(ParseResult parsed)
    {
        var words = _shared.Select(s => (s.Path, Value: parsed.GetValue(s.Option))).Where(s => s.Value is not null).ToDictionary(s => s.Path, s => s.Value!);
        ComparisonRequest request = ComparisonRequest.Read(parsed.GetRequiredValue(_plans), words);
        return request with
        {
            Seeds = parsed.GetValue(_seeds) is { } seeds ? Inputs.Seeds(seeds) : request.Seeds,
            Out = parsed.GetValue(_out) ?? request.Out,
            Keep = parsed.GetValue(_keep),
        };
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        ComparisonRequest request = Request(parsed);
        context.Recording?.Describe(null, request.Out, null, null);
        ComparisonReport report = await Comparison.RunAsync(request, context.Device, context.Progress, cancellation).ConfigureAwait(false);
        context.Show(report, () => Print(context, report));
        return report.Failures.Count == 0 ? ExitCode.Success : ExitCode.Negative;
    }

    private static void Print(CommandContext context, ComparisonReport report)
    {
        context.Console.Write(Tables.Of(ComparisonPage.Headings, ComparisonPage.Rows(report)));
        context.Console.MarkupLine(Markup.Escape(ComparisonPage.Legend(report)));
        foreach (string failure in report.Failures)
        {
            context.Console.MarkupLine($"[red]{Markup.Escape(failure)}[/]");
        }

        context.Console.MarkupLine($"[bold]{Markup.Escape(ComparisonPage.Headline(report))}[/]");
        context.Console.MarkupLine($"Page: {Markup.Escape(Path.Combine(report.Out, "compare.html"))}");
    }
}
