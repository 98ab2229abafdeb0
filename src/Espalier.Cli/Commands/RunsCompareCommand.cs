using System.CommandLine;
using Espalier.Cli.Display;
using Espalier.Reporting;
using Espalier.Runs;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier runs compare</c>.</summary>
internal sealed class RunsCompareCommand : EspalierCommand
{
    private readonly Argument<string[]> _runs = new("runs") { Description = $"Two runs or more. {RunWords.IdHelp}", Arity = ArgumentArity.OneOrMore };
    private readonly Option<bool> _all = new("--all") { Description = "Also show what all of them have alike." };

    public RunsCompareCommand()
        : base("compare", "Shows runs side by side: where their plans differ, and what they came to.",
            "espalier runs compare 3f9a01bc 77d0e5a2",
            "espalier runs compare 3f9a01bc last --all")
    {
        Add(_runs);
        Add(_all);
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        await using RunStore store = await RunWords.OpenAsync(cancellation).ConfigureAwait(false);
        var ids = new List<string>();
        foreach (string word in parsed.GetRequiredValue(_runs))
        {
            ids.Add(await store.ResolveAsync(word, cancellation).ConfigureAwait(false));
        }

        EspalierException.Require(ids.Distinct(StringComparer.Ordinal).Count() == ids.Count && ids.Count > 1, "Comparing needs two different runs or more.");
        RunComparison seen = await store.CompareAsync(ids, cancellation).ConfigureAwait(false);
        bool all = parsed.GetValue(_all);
        context.Show(
            new
            {
                runs = seen.Runs.Select(r => RunWords.Json(r.Run)),
                settings = seen.Settings.Where(s => all || s.Differs).Select(s => new { s.Name, s.Values, s.Differs }),
                outcomes = seen.Outcomes.Where(s => all || s.Differs).Select(s => new { s.Name, s.Values, s.Differs }),
                seen.Metrics,
            },
            () => Print(context, seen, all));
        return ExitCode.Success;
    }

    private static void Print(CommandContext context, RunComparison seen, bool all)
    {
        Column[] headings = [new(""), .. seen.Runs.Select(r => new Column(r.Run.ShortId, Numeric: true))];
        IEnumerable<string[]> Rows(IEnumerable<Compared> compared) => compared.Where(c => all || c.Differs).Select(c => (string[])[c.Name, .. c.Values.Select(v => v ?? "–")]);
        string[][] rows =
        [
            ["title or model", .. seen.Runs.Select(r => RunWords.NameOf(r.Run))],
            ["state", .. seen.Runs.Select(r => RunWords.Word(r.Run.State))],
            ["took", .. seen.Runs.Select(r => Text.Duration(r.Run.Duration))],
            .. Rows(seen.Settings),
            .. Rows(seen.Outcomes),
            .. seen.Metrics.Select(m => (string[])[$"last {m.Name}", .. m.Values.Select(v => v is null ? "–" : RunsShowCommand.Figure(v.Last))]),
        ];
        context.Console.Write(Tables.Of(headings, rows));
        if (!all)
        {
            context.Output.WriteLine("What all have alike is left out; --all shows it.");
        }
    }
}
