using System.CommandLine;
using System.Globalization;
using Espalier.Runs;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier runs</c>: the group of what is done with kept runs.</summary>
internal sealed class RunsCommand : EspalierCommand
{
    public RunsCommand()
        : base("runs", "Lists, shows, compares, tags, exports, deletes and resumes runs; every command that works on a model keeps its own.",
            "espalier runs list",
            "espalier runs show last",
            "espalier runs resume 3f9a01bc")
    {
        foreach (EspalierCommand command in new EspalierCommand[] { new RunsListCommand(), new RunsShowCommand(), new RunsCompareCommand(), new RunsTagCommand(add: true), new RunsTagCommand(add: false), new RunsResumeCommand(), new RunsExportCommand(), new RunsDeleteCommand() })
        {
            Add(command);
        }
    }

    protected override Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        context.Error.WriteLine("error: say what to do with runs.");
        context.Error.WriteLine("hint: `espalier runs --help` shows its words with examples.");
        return Task.FromResult(ExitCode.UserError);
    }
}

/// <summary>Words that several commands of <c>espalier runs</c> share.</summary>
internal static class RunWords
{
    public const string IdHelp = "A run: its id, the unmistakable beginning or end of it, or last.";

    public static Task<RunStore> OpenAsync(CancellationToken cancellation) => RunStore.OpenAsync(RunLocation.FromEnvironment(), cancellation);

    public static async Task<RunDetails> FindAsync(RunStore store, string word, CancellationToken cancellation)
    {
        string id = await store.ResolveAsync(word, cancellation).ConfigureAwait(false);
        return await store.GetAsync(id, cancellation).ConfigureAwait(false) ?? throw new EspalierException($"Run {id} has just been deleted.");
    }

    /// <summary>A time: a date, a date with a time, or how long ago (90m, 12h, 7d, 4w).</summary>
    public static DateTime Time(string word, string option, DateTime now)
    {
        if (word.Length > 1 && double.TryParse(word[..^1], NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double amount) && amount < 1e5)
        {
            TimeSpan? ago = word[^1] switch
            {
                'm' => TimeSpan.FromMinutes(amount),
                'h' => TimeSpan.FromHours(amount),
                'd' => TimeSpan.FromDays(amount),
                'w' => TimeSpan.FromDays(7 * amount),
                _ => null,
            };
            if (ago is { } span)
            {
                return now - span;
            }
        }

        EspalierException.Require(DateTime.TryParse(word, CultureInfo.InvariantCulture, DateTimeStyles.AssumeLocal | DateTimeStyles.AdjustToUniversal, out DateTime time),
            $"{option} {word} is no time; give a date (2026-03-31), or how long ago (90m, 12h, 7d, 4w).");
        return time;
    }

    public static string Local(DateTime time) => time.ToLocalTime().ToString("yyyy-MM-dd HH:mm", CultureInfo.InvariantCulture);

    public static string Word(RunState state) => state.ToString().ToLowerInvariant();

    public static string ColorOf(RunState state) => state switch
    {
        RunState.Running => "blue",
        RunState.Finished => "green",
        RunState.Failed => "red",
        RunState.Interrupted => "yellow",
        _ => "grey",
    };

    /// <summary>What a person calls a run: its title, else its model.</summary>
    public static string NameOf(Run run) => run.Title.Length > 0 ? run.Title : Path.IsPathRooted(run.Model) ? Path.GetFileName(run.Model) : run.Model;

    /// <summary>A run as <c>--json</c> shows it.</summary>
    public static object Json(Run run) => new
    {
        run.Id,
        run.ShortId,
        run.Command,
        run.Title,
        run.Model,
        run.State,
        run.Started,
        run.Ended,
        seconds = Math.Round(run.Duration.TotalSeconds, 3),
        run.ExitCode,
        run.Seed,
        run.Version,
        tags = run.Tags.Select(t => t.Tag),
        run.Folder,
        headline = OutcomeFigures.Headline(run.Outcome),
        error = run.Error.Length > 0 ? run.Error : null,
        resumedFrom = run.ResumedFrom.Length > 0 ? run.ResumedFrom : null,
        progress = run.State is RunState.Running ? run.Progress : null,
        doing = run.Doing.Length > 0 ? run.Doing : null,
        words = ParseJson(run.Words),
        run.WorkingFolder,
    };

    public static System.Text.Json.JsonElement? ParseJson(string text)
    {
        try
        {
            return text.Length == 0 ? null : System.Text.Json.JsonSerializer.Deserialize<System.Text.Json.JsonElement>(text);
        }
        catch (System.Text.Json.JsonException)
        {
            return null;
        }
    }
}
