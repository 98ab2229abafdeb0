using System.CommandLine;
using System.Globalization;
using System.Text;
using System.Text.Json;
using Espalier.Checkpoints;
using Espalier.Cli.Display;
using Espalier.Runs;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier runs export</c>: runs for other programs.</summary>
internal sealed class RunsExportCommand : EspalierCommand
{
    private readonly Argument<string[]> _runs = new("runs") { Description = $"The runs; none stands for all that the filter lets through. {RunWords.IdHelp}", Arity = ArgumentArity.ZeroOrMore };
    private readonly RunFilterWords _filter = new();
    private readonly Option<string> _format = new Option<string>("--format") { Description = "json (everything), or csv (figures over time: run, name, step, time, value).", HelpName = "word", DefaultValueFactory = _ => "json" }.AcceptOnlyFromAmong("json", "csv");
    private readonly Option<string?> _out = new("--out", "-o") { Description = "The file to write; without it, standard output.", HelpName = "file" };

    public RunsExportCommand()
        : base("export", "Writes runs with their plans, figures over time, files and lines for other programs.",
            "espalier runs export last --out run.json",
            "espalier runs export --tag paper --format csv --out figures.csv",
            "espalier runs export 3f9a01bc --format csv")
    {
        Add(_runs);
        foreach (Option option in (Option[])[.. _filter.All, _format, _out])
        {
            Add(option);
        }
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        await using RunStore store = await RunWords.OpenAsync(cancellation).ConfigureAwait(false);
        IReadOnlyList<string> ids = await SelectAsync(store, parsed.GetValue(_runs) ?? [], _filter.Read(parsed), cancellation).ConfigureAwait(false);
        EspalierException.Require(ids.Count > 0, "No run is meant by these words; `espalier runs list` shows what there is.");
        string text = parsed.GetValue(_format) == "csv" ? await CsvAsync(store, ids, cancellation).ConfigureAwait(false) : await JsonAsync(store, ids, cancellation).ConfigureAwait(false);
        if (parsed.GetValue(_out) is { } path)
        {
            string full = Path.GetFullPath(path);
            EspalierException.Require(Directory.Exists(Path.GetDirectoryName(full)), $"--out {path} lies in a folder that does not exist; make the folder first.");
            AtomicFile.WriteText(full, text);
            context.Show(new { file = full, runs = ids.Count }, () => context.Output.WriteLine($"{ids.Count} {(ids.Count == 1 ? "run" : "runs")} written to {full}"));
        }
        else
        {
            context.Output.Write(text);
        }

        return ExitCode.Success;
    }

    /// <summary>The named runs, or without names all that a filter lets through, the oldest first.</summary>
    internal static async Task<IReadOnlyList<string>> SelectAsync(RunStore store, IReadOnlyList<string> words, RunFilter filter, CancellationToken cancellation)
    {
        var ids = new List<string>();
        foreach (string word in words)
        {
            ids.Add(await store.ResolveAsync(word, cancellation).ConfigureAwait(false));
        }

        return words.Count > 0
            ? [.. ids.Distinct(StringComparer.Ordinal)]
            : [.. (await store.ListAsync(filter with { Take = int.MaxValue, Descending = false }, cancellation).ConfigureAwait(false)).Runs.Select(r => r.Id)];
    }

    private static async Task<string> JsonAsync(RunStore store, IReadOnlyList<string> ids, CancellationToken cancellation)
    {
        var all = new List<object>();
        foreach (string id in ids)
        {
            RunDetails found = await RunWords.FindAsync(store, id, cancellation).ConfigureAwait(false);
            IReadOnlyList<MetricPoint> points = await store.MetricsAsync(id, new MetricQuery { Take = int.MaxValue }, cancellation).ConfigureAwait(false);
            IReadOnlyList<LogLine> log = await store.LogAsync(id, take: int.MaxValue, cancellation: cancellation).ConfigureAwait(false);
            all.Add(new
            {
                run = RunWords.Json(found.Run),
                found.Run.Plan,
                machine = RunWords.ParseJson(found.Run.Machine),
                outcome = RunWords.ParseJson(found.Run.Outcome),
                artefacts = found.Artefacts.Select(a => new { a.Name, a.Path, a.Kind, a.Bytes }),
                metrics = points.GroupBy(p => p.Name).ToDictionary(g => g.Key, g => g.Select(p => new { p.Step, p.Time, p.Value })),
                log = log.Select(l => new { l.Time, l.Level, l.Text }),
            });
        }

        return JsonSerializer.Serialize(new { runs = all }, new JsonSerializerOptions(JsonEvents.Options) { WriteIndented = true }) + "\n";
    }

    private static async Task<string> CsvAsync(RunStore store, IReadOnlyList<string> ids, CancellationToken cancellation)
    {
        var text = new StringBuilder("run,name,step,time,value\n");
        foreach (string id in ids)
        {
            foreach (MetricPoint point in await store.MetricsAsync(id, new MetricQuery { Take = int.MaxValue }, cancellation).ConfigureAwait(false))
            {
                text.Append(CultureInfo.InvariantCulture, $"{id},{Cell(point.Name)},{point.Step},{point.Time:O},{point.Value:R}\n");
            }
        }

        return text.ToString();
    }

    private static string Cell(string text) => text.IndexOfAny([',', '"', '\n', '\r']) < 0 ? text : $"\"{text.Replace("\"", "\"\"", StringComparison.Ordinal)}\"";
}

/// <summary><c>espalier runs delete</c>.</summary>
internal sealed class RunsDeleteCommand : EspalierCommand
{
    private readonly Argument<string[]> _runs = new("runs") { Description = $"The runs. {RunWords.IdHelp}", Arity = ArgumentArity.ZeroOrMore };
    private readonly RunFilterWords _filter = new();
    private readonly Option<bool> _yes = new("--yes") { Description = "Delete all runs that the filter lets through, where no run is named." };

    public RunsDeleteCommand()
        : base("delete", "Deletes runs from the store; what they have written stays.",
            "espalier runs delete 3f9a01bc 77d0e5a2",
            "espalier runs delete --state failed --until 30d --yes")
    {
        Add(_runs);
        foreach (Option option in (Option[])[.. _filter.All, _yes])
        {
            Add(option);
        }
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string[] words = parsed.GetValue(_runs) ?? [];
        bool filtered = _filter.All.Any(o => parsed.GetResult(o) is { Implicit: false });
        EspalierException.Require(words.Length > 0 != filtered, "Name the runs to delete, or give a filter such as --state failed, one of the two.");
        await using RunStore store = await RunWords.OpenAsync(cancellation).ConfigureAwait(false);
        IReadOnlyList<string> ids = await RunsExportCommand.SelectAsync(store, words, _filter.Read(parsed), cancellation).ConfigureAwait(false);
        EspalierException.Require(!filtered || parsed.GetValue(_yes), $"That would delete {ids.Count} {(ids.Count == 1 ? "run" : "runs")}; add --yes if it should.");
        RunPage running = await store.ListAsync(new RunFilter { States = [RunState.Running], Take = int.MaxValue }, cancellation).ConfigureAwait(false);
        Run? atWork = running.Runs.FirstOrDefault(r => ids.Contains(r.Id));
        EspalierException.Require(atWork is null, $"Run {atWork?.ShortId} is at work (process {atWork?.ProcessId}); stop it first.");
        int deleted = await store.DeleteAsync(ids, cancellation).ConfigureAwait(false);
        context.Show(new { deleted }, () => context.Output.WriteLine($"{deleted} {(deleted == 1 ? "run" : "runs")} deleted; what they have written stays."));
        return ExitCode.Success;
    }
}
