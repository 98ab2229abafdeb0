using System.CommandLine;
using Espalier.Cli.Display;
using Espalier.Reporting;
using Espalier.Runs;
using Espalier.Runtime;
using Spectre.Console;
using Text = Espalier.Runtime.Text;

namespace Espalier.Cli.Commands;

/// <summary>The options that say which runs are meant.</summary>
internal sealed class RunFilterWords
{
    private readonly Option<string[]> _command = new("--command") { Description = "Only runs of this command; may be given several times.", HelpName = "name" };
    private readonly Option<string[]> _state = new Option<string[]>("--state") { Description = "Only runs in this state (queued, running, finished, failed, interrupted); may be given several times.", HelpName = "word" }
        .AcceptOnlyFromAmong([.. Enum.GetValues<RunState>().Select(RunWords.Word)]);
    private readonly Option<string[]> _tag = new("--tag") { Description = "Only runs with this tag; given several times, with all of them.", HelpName = "word" };
    private readonly Option<string?> _text = new("--find") { Description = "Only runs whose title, model, command, folder or plan has this text.", HelpName = "text" };
    private readonly Option<string?> _since = new("--since") { Description = "Only runs that began at this time or later: a date, or how long ago (90m, 12h, 7d, 4w).", HelpName = "time" };
    private readonly Option<string?> _until = new("--until") { Description = "Only runs that began before this time.", HelpName = "time" };

    public IReadOnlyList<Option> All => [_command, _state, _tag, _text, _since, _until];

    public RunFilter Read(ParseResult parsed)
    {
        DateTime now = DateTime.UtcNow;
        return new RunFilter
        {
            Commands = parsed.GetValue(_command) ?? [],
            States = [.. (parsed.GetValue(_state) ?? []).Select(s => Enum.Parse<RunState>(s, ignoreCase: true))],
            Tags = parsed.GetValue(_tag) ?? [],
            Text = parsed.GetValue(_text),
            Since = parsed.GetValue(_since) is { } since ? RunWords.Time(since, "--since", now) : null,
            Until = parsed.GetValue(_until) is { } until ? RunWords.Time(until, "--until", now) : null,
        };
    }
}

/// <summary><c>espalier runs list</c>.</summary>
internal sealed class RunsListCommand : EspalierCommand
{
    private static readonly Column[] Headings = [new("run"), new("state"), new("command"), new("title or model"), new("began"), new("took", Numeric: true), new("came to")];

    private readonly RunFilterWords _filter = new();
    private readonly Option<string> _sort = new Option<string>("--sort") { Description = "By what to sort: started, ended, command, model, title, state.", HelpName = "word", DefaultValueFactory = _ => "started" }
        .AcceptOnlyFromAmong([.. Enum.GetNames<RunSort>().Select(n => n.ToLowerInvariant())]);
    private readonly Option<bool> _ascending = new("--ascending") { Description = "The least (the oldest) first." };
    private readonly Option<int> _take = new("--take") { Description = "How many runs at most.", HelpName = "N", DefaultValueFactory = _ => 20 };
    private readonly Option<int> _skip = new("--skip") { Description = "How many to pass over.", HelpName = "N", DefaultValueFactory = _ => 0 };

    public RunsListCommand()
        : base("list", "Lists runs, the newest first.",
            "espalier runs list",
            "espalier runs list --command prune --state finished --since 7d",
            "espalier runs list --tag paper --sort model --ascending",
            "espalier runs list --state interrupted --json")
    {
        foreach (Option option in (Option[])[.. _filter.All, _sort, _ascending, _take, _skip])
        {
            Add(option);
        }
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        int take = parsed.GetValue(_take), skip = parsed.GetValue(_skip);
        EspalierException.Require(take > 0 && skip >= 0, "--take is a whole number above 0, --skip one from 0 on.");
        RunFilter filter = _filter.Read(parsed) with { Sort = Enum.Parse<RunSort>(parsed.GetRequiredValue(_sort), ignoreCase: true), Descending = !parsed.GetValue(_ascending), Take = take, Skip = skip };
        await using RunStore store = await RunWords.OpenAsync(cancellation).ConfigureAwait(false);
        RunPage page = await store.ListAsync(filter, cancellation).ConfigureAwait(false);
        context.Show(new { store = store.Place, page.Total, runs = page.Runs.Select(RunWords.Json) }, () => Print(context, page, skip));
        return ExitCode.Success;
    }

    private static void Print(CommandContext context, RunPage page, int skip)
    {
        if (page.Runs.Count == 0)
        {
            context.Output.WriteLine(page.Total == 0 ? "No runs." : $"No more runs; there are {page.Total}.");
            return;
        }

        Table table = Tables.Of(Headings, []);
        foreach (Run run in page.Runs)
        {
            string share = run is { State: RunState.Running, Progress: { } done } ? FormattableString.Invariant($" {100 * done:0} %") : "";
            string[] cells = [RunWords.NameOf(run), RunWords.Local(run.Started), run.State is RunState.Queued ? "" : Text.Duration(run.Duration), Result(run)];
            table.AddRow([run.ShortId, $"[{RunWords.ColorOf(run.State)}]{RunWords.Word(run.State)}[/]{share}", run.Command, .. cells.Select(Markup.Escape)]);
        }

        context.Console.Write(table);
        if (skip + page.Runs.Count < page.Total || skip > 0)
        {
            context.Output.WriteLine($"{skip + 1} to {skip + page.Runs.Count} of {page.Total} runs.");
        }
    }

    private static string Result(Run run) => run.State switch
    {
        RunState.Failed => run.Error.Length > 60 ? run.Error[..59] + "…" : run.Error,
        RunState.Running => run.Doing,
        _ => OutcomeFigures.Headline(run.Outcome) is { Length: > 0 } headline ? headline : run.ExitCode is > 0 and not ExitCode.Interrupted ? $"exit code {run.ExitCode}" : "",
    };
}
