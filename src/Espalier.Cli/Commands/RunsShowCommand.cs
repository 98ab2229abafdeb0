using System.CommandLine;
using System.Globalization;
using Espalier.Cli.Display;
using Espalier.Reporting;
using Espalier.Runs;
using Spectre.Console;
using Text = Espalier.Runtime.Text;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier runs show</c>.</summary>
internal sealed class RunsShowCommand : EspalierCommand
{
    private const int LastLines = 10, MostFigures = 24;

    private readonly Argument<string> _run = new("run") { Description = RunWords.IdHelp };
    private readonly Option<bool> _log = new("--log") { Description = "Every line that the run has said, not only the last ten." };

    public RunsShowCommand()
        : base("show", "Shows one run: plan, versions, figures over time, files and how it ended.",
            "espalier runs show last",
            "espalier runs show 3f9a01bc --log",
            "espalier runs show last --json")
    {
        Add(_run);
        Add(_log);
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        await using RunStore store = await RunWords.OpenAsync(cancellation).ConfigureAwait(false);
        RunDetails found = await RunWords.FindAsync(store, parsed.GetRequiredValue(_run), cancellation).ConfigureAwait(false);
        IReadOnlyList<LogLine> log = await store.LogAsync(found.Run.Id, take: int.MaxValue, cancellation: cancellation).ConfigureAwait(false);
        int shown = parsed.GetValue(_log) ? log.Count : Math.Min(log.Count, LastLines);
        Run run = found.Run;
        context.Show(
            new
            {
                run = RunWords.Json(run),
                run.Plan,
                machine = RunWords.ParseJson(run.Machine),
                outcome = RunWords.ParseJson(run.Outcome),
                found.Metrics,
                artefacts = found.Artefacts.Select(a => new { a.Name, a.Path, a.Kind, a.Bytes }),
                log = log.TakeLast(shown).Select(l => new { l.Time, l.Level, l.Text }),
            },
            () => Print(context, found, [.. log.TakeLast(shown)]));
        return ExitCode.Success;
    }

    private static void Print(CommandContext context, RunDetails found, IReadOnlyList<LogLine> log)
    {
        Run run = found.Run;
        var grid = new Grid().AddColumn(new GridColumn().NoWrap().Width(12)).AddColumn();
        void Row(string name, string value)
        {
            if (value.Length > 0)
            {
                grid.AddRow($"[bold]{name}[/]", Markup.Escape(value));
            }
        }

        Row("run", run.Id);
        Row("title", run.Title);
        Row("command", ShellWords.Line(ShellWords.Of(run)));
        Row("in", run.WorkingFolder);
        grid.AddRow("[bold]state[/]", $"[{RunWords.ColorOf(run.State)}]{RunWords.Word(run.State)}[/]{(run.ExitCode is { } code ? $", exit code {code}" : "")}{Markup.Escape(run.Doing.Length > 0 ? $", {run.Doing}" : "")}");
        Row("began", $"{RunWords.Local(run.Started)}, {(run.Ended is null ? "for" : "took")} {Text.Duration(run.Duration)}");
        Row("seed", run.Seed?.ToString(CultureInfo.InvariantCulture) ?? "");
        Row("tags", string.Join(", ", run.Tags.Select(t => t.Tag)));
        Row("folder", run.Folder);
        Row("goes on", run.ResumedFrom);
        Row("versions", string.Join(", ", (RunWords.ParseJson(run.Machine)?.EnumerateObject() ?? default).Select(p => $"{p.Name} {p.Value}")));
        Row("error", run.Error);
        context.Console.Write(grid);
        if (run.Plan.Length > 0)
        {
            context.Console.MarkupLine("[bold]plan[/]");
            foreach (string line in run.Plan.TrimEnd().Split('\n'))
            {
                context.Output.WriteLine($"  {line}");
            }
        }

        Write(context, [new("result"), new("", Numeric: true)], OutcomeFigures.Of(run.Outcome).Take(MostFigures).Select(f => (string[])[f.Key, f.Value]));
        Write(context, [new("figure"), new("points", Numeric: true), new("last", Numeric: true), new("least", Numeric: true), new("greatest", Numeric: true)],
            found.Metrics.Select(m => (string[])[m.Name, $"{m.Count}", Figure(m.Last), Figure(m.Least), Figure(m.Greatest)]));
        Write(context, [new("file"), new("kind"), new("size", Numeric: true)], found.Artefacts.Select(a => (string[])[a.Name, a.Kind, Text.Bytes(a.Bytes)]));
        foreach (LogLine line in log)
        {
            context.Output.WriteLine($"{line.Time.ToLocalTime():HH:mm:ss}  {(line.Level == "say" ? "" : line.Level + ": ")}{line.Text}");
        }

        if (run.State is RunState.Interrupted or RunState.Failed)
        {
            context.Output.WriteLine($"`espalier runs resume {run.ShortId}` runs it again{(ResumeWords.GoesOn(run.Command) ? ", from where it was" : "")}.");
        }
    }

    internal static string Figure(double? value) => value?.ToString("G5", CultureInfo.InvariantCulture) ?? "–";

    private static void Write(CommandContext context, Column[] headings, IEnumerable<string[]> rows)
    {
        string[][] all = [.. rows];
        if (all.Length > 0)
        {
            context.Console.Write(Tables.Of(headings, all));
        }
    }
}
