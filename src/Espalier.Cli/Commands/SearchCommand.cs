using System.CommandLine;
using Espalier.Cli.Display;
using Espalier.Methods.Pruning.Searching;
using Espalier.Pruning;
using Espalier.Runtime;
using Spectre.Console;
using Text = Espalier.Runtime.Text;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier search</c>: the best architecture under a number of parameters, cut, retrained and written.</summary>
internal sealed class SearchCommand : EspalierCommand
{
    private readonly Argument<string> _model = new("model") { Description = "A checkpoint folder, a hub id (org/name[@revision]), or a search in words (*.yaml)." };
    private readonly Option<bool> _dryRun = new("--dry-run") { Description = "List the candidates with their parameters and the estimated time, then stop." };

    // The words of the command line and where they stand in a search.
    private readonly (Option<string?> Option, string Path)[] _words =
    [
        (new("--parameters") { Description = "The parameters wanted, of the whole model: 1.5M, 800K, 1500000." }, "search.parameters"),
        (new("--tolerance") { Description = "How far from them a candidate may be, as a share. Default 0.05." }, "search.tolerance"),
        (new("--layers") { Description = "Numbers of layers to choose from, apart by commas. Default all, 3/4 and half of the model's." }, "search.layers"),
        (new("--heads") { Description = "Numbers of query heads, in whole key-value groups. Default all, 3/4 and half of the groups." }, "search.heads"),
        (new("--kv-heads") { Description = "Numbers of key-value heads, in place of --heads." }, "search.key_value_heads"),
        (new("--neurons") { Description = "Widths of the feed-forward part. Default all to a quarter in eighths, rounded to 64, 16 or 8 by width." }, "search.neurons"),
        (new("--hidden") { Description = "Widths of the model. Default as for neurons." }, "search.hidden"),
        (new("--candidates") { Description = "The most candidates to try, spread evenly over those that fit. Default 16." }, "search.candidates"),
        (new("--light-steps") { Description = "Retraining steps of every candidate, before one is chosen. Default 100." }, "search.light_steps"),
        (new("--steps") { Description = "Retraining steps of the chosen one. Default 400." }, "retrain.steps"),
        (new("--lr") { Description = "Peak learning rate of both. Default 2e-4; small models want more." }, "retrain.learning_rate"),
        (new("--batch") { Description = "Sequences per retraining step. Default 8." }, "retrain.batch"),
        (new("--train-length") { Description = "Tokens per retraining sequence." }, "retrain.length"),
        (new("--teacher") { Description = "Another teacher with the same tokeniser. Default the model itself." }, "retrain.teacher_model"),
        (new("--criterion") { Description = "What ranks the units: minitron (default), flap, wanda, magnitude, random." }, "prune.criterion"),
        (new("--calibration") { Description = $"Text to measure importance on (and to retrain on): {Inputs.DataForms}." }, "data.calibration"),
        (new("--train-data") { Description = "Text to retrain on; default the calibration text." }, "data.train"),
        (new("--evaluation") { Description = "Text to measure perplexity on, which chooses." }, "data.evaluation"),
        (new("--samples") { Description = "Calibration windows. Default 64." }, "data.samples"),
        (new("--length") { Description = "Tokens per calibration window. Default the model's context, at most 2048." }, "data.length"),
        (new("--windows") { Description = "Evaluation windows at most. Default all." }, "data.windows"),
        (new("--context") { Description = "Tokens per evaluation window. Default the model's context, at most 4096." }, "data.context"),
        (new("--seed") { Description = "The seed of every random draw. Default 0." }, "seed"),
        (new("--memory") { Description = "The most memory to plan with, for example 8GB." }, "memory"),
        (new("--out") { Description = "The output folder: the chosen model, and the candidates' runs under search/." }, "out"),
    ];

    public SearchCommand()
        : base(
            "search",
            "Searches the best architecture under a number of parameters: cuts the model to every candidate, retrains each lightly, and the best of them to the end (Minitron).",
            "espalier search MODEL --parameters 1.5M --calibration train.jsonl --evaluation heldout.jsonl --out DIR --dry-run",
            "espalier search MODEL --parameters 1.5M --layers 4,5 --neurons 256,384,512 --hidden 144,192 --calibration train.jsonl --evaluation heldout.jsonl --light-steps 100 --steps 400 --lr 1e-3 --out DIR",
            "espalier search recipes/search-small.yaml --windows 32 --out ./small")
    {
        Add(_model);
        foreach ((Option<string?> option, _) in _words)
        {
            Add(option);
        }

        Add(_dryRun);
        KeepRuns();
    }

    /// <inheritdoc/>
    internal override void Check(ParseResult parsed) => Plan(parsed).Bind<SearchRequest>();

    private PlanFile Plan(ParseResult parsed)
    {
        PlanFile plan = PlanWords.Start(parsed.GetRequiredValue(_model));
        foreach ((Option<string?> option, string path) in _words)
        {
            plan = parsed.GetValue(option) is { } value ? PlanWords.Put(plan, path, value) : plan;
        }

        EspalierException.Require(plan.At("search.parameters") is not null, "The number of parameters is missing; name it with --parameters, for example 1.5M (or `parameters:` under `search:`).");
        EspalierException.Require(plan.Values.ContainsKey("out"), "The output folder is missing; name it with --out DIR (or `out:` in the file).");

        // Options of retraining alone are those of distillation, which a search takes by itself.
        return plan.At("retrain") is IReadOnlyDictionary<string, object?> retrain && !retrain.ContainsKey("method") ? plan.With("retrain.method", "minitron") : plan;
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        PlanFile plan = Plan(parsed);
        var request = plan.Bind<SearchRequest>();
        context.Recording?.Describe(plan, request.Out, request.Model, request.Seed);
        if (parsed.GetValue(_dryRun))
        {
            (SearchPlan found, TimeSpan time) = await ArchitectureSearch.PreviewAsync(request, context.Device, context.Progress, cancellation).ConfigureAwait(false);
            context.Show(
                new
                {
                    found.Parameters, found.Target, found.Fitting, seconds = time.TotalSeconds,
                    candidates = found.Candidates.Select(c => new { c.Name, c.Size.Layers, c.Size.Heads, c.KeyValueHeads, neurons = c.Size.FeedForward, hidden = c.Size.Embedding, c.Size.Parameters }),
                },
                () => PrintPlan(context, request, found, time));
            return ExitCode.Success;
        }

        SearchReport report = await ArchitectureSearch.RunAsync(request, context.Device, context.Progress, cancellation).ConfigureAwait(false);
        context.Show(report, () => Print(context, report));
        return report.Failures.Count == 0 ? ExitCode.Success : ExitCode.Negative;
    }

    private static void PrintPlan(CommandContext context, SearchRequest request, SearchPlan plan, TimeSpan time)
    {
        context.Console.Write(Tables.Of(SearchPage.PlanHeadings, SearchPage.Rows(plan)));
        context.Console.MarkupLine(Markup.Escape(plan.Sentence(request.Search.Tolerance)));
        context.Console.MarkupLine($"Estimated: {Text.Duration(time)}. Nothing was written.");
    }

    private static void Print(CommandContext context, SearchReport report)
    {
        context.Console.Write(Tables.Of(SearchPage.Headings, SearchPage.Rows(report)));
        context.Console.MarkupLine(Markup.Escape(SearchPage.Legend(report)));
        context.Console.MarkupLine(Markup.Escape(SearchPage.Ranking(report)));
        foreach (string failure in report.Failures)
        {
            context.Console.MarkupLine($"[red]{Markup.Escape(failure)}[/]");
        }

        context.Console.MarkupLine($"[bold]{Markup.Escape(SearchPage.Headline(report))}[/]");
        context.Console.MarkupLine($"Checkpoint: {Markup.Escape(report.Out)}");
        context.Console.MarkupLine($"Page:       {Markup.Escape(Path.Combine(report.Out, "search.html"))}");
    }
}
