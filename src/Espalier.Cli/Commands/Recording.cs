using System.CommandLine;
using System.CommandLine.Parsing;
using System.Text.Json;
using Espalier.Cli.Display;
using Espalier.Runs;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary>The record of the command that is running: begun from its words, ended with what came of it.</summary>
internal sealed class Recording
{
    // A result of more than this is a report with pages of tables, which lies in the output folder anyway.
    private const int LongestOutcome = 4 << 20;

    private readonly DateTime _began = DateTime.UtcNow;
    private string _folder, _outcome = "";

    private Recording(RunRecorder recorder, string folder) => (Recorder, _folder) = (recorder, folder);

    /// <summary>The run that the command goes on with, set by <c>espalier runs resume</c> around it.</summary>
    public static AsyncLocal<string?> Resuming { get; } = new();

    /// <summary>Progress that is recorded as well.</summary>
    public RunRecorder Recorder { get; }

    /// <summary>Begins to record a command, unless there is no store or the words only ask for something to be shown.</summary>
    public static Recording? Begin(EspalierCommand command, ParseResult parsed, IProgressSink progress)
    {
        if (!command.IsRecorded || WordsOf.Given(parsed, "--dry-run") is not null || WordsOf.Given(parsed, "--tasks") == TaskWords.List)
        {
            return null;
        }

        RunLocation location;
        try
        {
            location = RunLocation.FromEnvironment();
        }
        catch (EspalierException fault)
        {
            progress.Warn($"This run is not recorded: {fault.Message}");
            return null;
        }

        if (location.IsNone)
        {
            return null;
        }

        string folder = (WordsOf.Given(parsed, "--out") ?? WordsOf.Given(parsed, "--output")) is { } path ? Path.GetFullPath(path) : "";
        string? queued = Environment.GetEnvironmentVariable(RunRecorder.IdVariable);
        Environment.SetEnvironmentVariable(RunRecorder.IdVariable, null); // one run takes it up, not every one of this process
        var run = new NewRun
        {
            Id = string.IsNullOrWhiteSpace(queued) ? null : queued.Trim(),
            Command = command.Name,
            Title = WordsOf.Given(parsed, "--title") ?? "",
            Tags = WordsOf.All(parsed, "--tag"),
            Model = WordsOf.Model(parsed),
            Plan = PlanFile.ToYaml(WordsOf.Options(parsed)),
            Words = [.. parsed.Tokens.Select(t => t.Value)],
            WorkingFolder = Environment.CurrentDirectory,
            Version = typeof(Recording).Assembly.GetName().Version?.ToString(3) ?? "",
            Machine = Machine.DescribeSystem(),
            Seed = WordsOf.Seed(parsed),
            Folder = folder,
            ResumedFrom = Resuming.Value ?? Environment.GetEnvironmentVariable(RunRecorder.ResumesVariable) ?? "",
        };
        return new Recording(RunRecorder.Start(progress, async () => await RunStore.OpenAsync(location).ConfigureAwait(false), run), folder);
    }

    /// <summary>Says what the words alone do not: the whole plan, the folder that a plan names.</summary>
    public void Describe(PlanFile? plan, string? folder, string? model, long? seed)
    {
        _folder = folder is null ? _folder : Path.GetFullPath(folder);
        string full = _folder, yaml = plan is null ? "" : PlanFile.ToYaml(plan.Values), title = plan?.Values.GetValueOrDefault("name") as string ?? "";
        Recorder.Describe(run =>
        {
            run.Folder = full;
            run.Plan = yaml.Length > 0 ? yaml : run.Plan;
            run.Model = model ?? run.Model;
            run.Seed = seed ?? run.Seed;
            run.Title = run.Title.Length > 0 ? run.Title : title;
        });
    }

    /// <summary>Keeps the command's result.</summary>
    public void Outcome(object value)
    {
        string json = JsonSerializer.Serialize(value, JsonEvents.Options);
        _outcome = json.Length <= LongestOutcome ? json : "";
    }

    /// <summary>Ends the record of a command that has answered.</summary>
    public Task FinishAsync(int exitCode) => EndAsync(new RunEnd(RunState.Finished) { ExitCode = exitCode, Outcome = _outcome });

    /// <summary>Ends the record of a command that was stopped or has failed.</summary>
    public Task FailAsync(Exception fault, CancellationToken cancellation)
    {
        if (fault is OperationCanceledException && cancellation.IsCancellationRequested)
        {
            return EndAsync(new RunEnd(RunState.Interrupted) { ExitCode = ExitCode.Interrupted, Outcome = _outcome });
        }

        var (sentence, code) = EspalierCommandLine.Explain(fault);
        return EndAsync(new RunEnd(RunState.Failed) { ExitCode = code, Error = sentence, Outcome = _outcome });
    }

    private Task EndAsync(RunEnd end) => Recorder.FinishAsync(end, OutputFiles.Of(_folder, _began));
}

/// <summary>What the words of any command say, by the names that all commands share.</summary>
internal static class WordsOf
{
    /// <summary>What was given for an option, or null.</summary>
    public static string? Given(ParseResult parsed, string option) =>
        Result(parsed, option) is { } result ? result.Tokens.Count > 0 ? result.Tokens[0].Value : "true" : null;

    /// <summary>Everything that was given for an option.</summary>
    public static IReadOnlyList<string> All(ParseResult parsed, string option) => [.. Result(parsed, option)?.Tokens.Select(t => t.Value) ?? []];

    /// <summary>The model, plan, system or configuration that the command works on.</summary>
    public static string Model(ParseResult parsed)
    {
        IEnumerable<string> arguments = parsed.CommandResult.Children.OfType<ArgumentResult>().SelectMany(a => a.Tokens).Select(t => t.Value);
        return string.Join(", ", arguments) is { Length: > 0 } named ? named : Given(parsed, "--config") ?? Given(parsed, "--model") ?? "";
    }

    /// <summary>The seed: as given, else 0 where the command takes one; null where it takes several.</summary>
    public static long? Seed(ParseResult parsed)
    {
        string? word = Given(parsed, "--seed") ?? Given(parsed, "--seeds");
        return word is null
            ? parsed.CommandResult.Command.Options.Any(o => o.Name == "--seed") ? 0 : null
            : long.TryParse(word, System.Globalization.CultureInfo.InvariantCulture, out long seed) ? seed : null;
    }

    /// <summary>The options that were given, as a map for YAML.</summary>
    public static IReadOnlyDictionary<string, object?> Options(ParseResult parsed)
    {
        string[] own = ["--title", "--tag", "--out", "--output", "--seed", "--resume", "--fresh"];
        return parsed.CommandResult.Children.OfType<OptionResult>()
            .Where(r => !r.Implicit && !own.Contains(r.Option.Name))
            .ToDictionary(r => r.Option.Name.TrimStart('-'), r => (object?)(r.Tokens.Count switch
            {
                0 => "true",
                1 => r.Tokens[0].Value,
                _ => r.Tokens.Select(t => (object?)t.Value).ToList(),
            }));
    }

    private static OptionResult? Result(ParseResult parsed, string option) =>
        parsed.CommandResult.Children.OfType<OptionResult>().FirstOrDefault(r => r.Option.Name == option && !r.Implicit);
}
