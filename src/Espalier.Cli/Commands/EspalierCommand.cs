using System.CommandLine;

namespace Espalier.Cli.Commands;

/// <summary>A command: it parses its words, calls the engine, and shows what came back.</summary>
internal abstract class EspalierCommand : Command
{
    /// <param name="name">The word for it.</param>
    /// <param name="summary">One sentence for the list of commands.</param>
    /// <param name="examples">Lines that one can copy into a shell.</param>
    protected EspalierCommand(string name, string summary, params string[] examples)
        : base(name, summary)
    {
        Examples = examples;
        SetAction(async (parsed, cancellation) =>
        {
            using CommandContext context = CommandContext.From(this, parsed);
            try
            {
                Check(parsed);
                int code = await RunAsync(parsed, context, cancellation).ConfigureAwait(false);
                await (context.Recording?.FinishAsync(code) ?? Task.CompletedTask).ConfigureAwait(false);
                return code;
            }
            catch (Exception fault) when (context.Recording is { } recording)
            {
                await recording.FailAsync(fault, cancellation).ConfigureAwait(false);
                throw;
            }
        });
    }

    /// <summary>What <c>--help</c> shows last.</summary>
    public IReadOnlyList<string> Examples { get; }

    /// <summary>It works on a model, so its runs are kept (docs/runs.md).</summary>
    public bool IsRecorded { get; private set; }

    /// <summary>Has the command's runs kept, and adds the words that name and group them. Called last, so that these stand last in the help.</summary>
    protected void KeepRuns()
    {
        IsRecorded = true;
        Add(new Option<string?>("--title") { Description = "What to call this run in `espalier runs`.", HelpName = "text" });
        Add(new Option<string[]>("--tag") { Description = "A word that groups runs in `espalier runs`; may be given several times.", HelpName = "word" });
    }

    /// <summary>Refuses words that do not go together, before any file is opened; forms ask this while one types.</summary>
    /// <param name="parsed">The words.</param>
    /// <exception cref="Espalier.Runtime.EspalierException">With what to change.</exception>
    internal virtual void Check(ParseResult parsed)
    {
    }

    /// <summary>Does the work; <see cref="Check"/> has been asked.</summary>
    /// <returns>One of <see cref="ExitCode"/>.</returns>
    protected abstract Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation);
}

/// <summary>Every command of the tool, in the order of the help text.</summary>
internal static class CommandList
{
    public static IEnumerable<EspalierCommand> All() =>
    [
        new QuickstartCommand(),
        new PruneCommand(),
        new CompareCommand(),
        new SearchCommand(),
        new PackCommand(),
        new UnpackCommand(),
        new SpeedCommand(),
        new MethodsCommand(),
        new InspectCommand(),
        new GenerateCommand(),
        new EvalCommand(),
        new ExportCommand(),
        new ReproduceCommand(),
        new RunsCommand(),
        new TrainCommand(),
        new WorkCommand(),
        new AdaptCommand(),
        new MergeAdapterCommand(),
        new ComplexityCommand(),
        new CompleteCommand(),
        new AttentionCommand(),
        new TokenizerCommand(),
        new DownloadCommand(),
        new VerifyCommand(),
        new SynthesizeCommand(),
        new StudioCommand(),
        new DoctorCommand(),
    ];
}
