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
            using CommandContext context = CommandContext.From(parsed);
            return await RunAsync(parsed, context, cancellation).ConfigureAwait(false);
        });
    }

    /// <summary>What <c>--help</c> shows last.</summary>
    public IReadOnlyList<string> Examples { get; }

    /// <summary>Does the work.</summary>
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
        new TrainCommand(),
        new AdaptCommand(),
        new MergeAdapterCommand(),
        new ComplexityCommand(),
        new CompleteCommand(),
        new AttentionCommand(),
        new TokenizerCommand(),
        new DownloadCommand(),
        new VerifyCommand(),
        new SynthesizeCommand(),
        new DoctorCommand(),
    ];
}
