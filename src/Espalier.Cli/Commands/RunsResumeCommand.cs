using System.CommandLine;
using Espalier.Runs;
using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier runs resume</c>: the same command line again, going on where the run was.</summary>
internal sealed class RunsResumeCommand : EspalierCommand
{
    private readonly Argument<string> _run = new("run") { Description = RunWords.IdHelp };
    private readonly Option<bool> _print = new("--print") { Description = "Only print the command line." };

    public RunsResumeCommand()
        : base("resume", "Goes on with a run that was interrupted or has failed: the same words in the same folder; what is finished is not done again.",
            "espalier runs resume last",
            "espalier runs resume 3f9a01bc --print")
    {
        Add(_run);
        Add(_print);
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        Run run;
        await using (RunStore store = await RunWords.OpenAsync(cancellation).ConfigureAwait(false))
        {
            run = (await RunWords.FindAsync(store, parsed.GetRequiredValue(_run), cancellation).ConfigureAwait(false)).Run;
        }

        IReadOnlyList<string> words = ResumeWords.ToGoOn(run);
        if (parsed.GetValue(_print))
        {
            context.Show(new { folder = run.WorkingFolder, words, line = ShellWords.Line(words), goesOn = ResumeWords.GoesOn(run.Command) }, () => context.Output.WriteLine(ShellWords.Line(words)));
            return ExitCode.Success;
        }

        EspalierException.Require(run.State is not RunState.Running, $"Run {run.ShortId} is at work (process {run.ProcessId}); stop it first, or wait for its end.");
        EspalierException.Require(run.WorkingFolder.Length == 0 || Directory.Exists(run.WorkingFolder),
            $"The folder that the run was started in, {run.WorkingFolder}, is not there; `espalier runs resume {run.ShortId} --print` shows the command to give elsewhere.");
        context.Progress.Say(ShellWords.Line(words));
        string here = Environment.CurrentDirectory;
        Recording.Resuming.Value = run.Id;
        try
        {
            Environment.CurrentDirectory = run.WorkingFolder.Length == 0 ? here : run.WorkingFolder;
            (context.Progress as IDisposable)?.Dispose();
            return await EspalierCommandLine.RunAsync(words, context.Output, context.Error, cancellation).ConfigureAwait(false);
        }
        finally
        {
            Environment.CurrentDirectory = here;
        }
    }
}

/// <summary>The command line of a run, and the one that goes on with it.</summary>
internal static class ResumeWords
{
    private const string Resume = "--resume", Fresh = "--fresh", TrainingState = "training-state";

    /// <summary>The words that go on with the run: with <c>--resume</c> where it left a training's state, without what starts over.</summary>
    /// <exception cref="EspalierException">When the run has no command line of this tool.</exception>
    public static IReadOnlyList<string> ToGoOn(Run run)
    {
        IReadOnlyList<string> words = [.. ShellWords.Of(run).Where(w => w is not (Resume or Fresh))];
        EspalierException.Require(words.Count > 0, $"Run {run.ShortId} was not started from a command line, so there is none to give again.");
        bool knows = CommandList.All().FirstOrDefault(c => c.Name == run.Command)?.Options.Any(o => o.Name == Resume) == true;
        return knows && run.Folder.Length > 0 && TrainingStates.Any(Path.Combine(run.Folder, TrainingState)) ? [.. words, Resume] : words;
    }

    /// <summary>Whether a command keeps what it has finished; the others begin anew.</summary>
    public static bool GoesOn(string command) => command is "prune" or "compare" or "search" or "reproduce" or "train" or "adapt";
}
