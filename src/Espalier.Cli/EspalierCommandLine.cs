using System.CommandLine;
using System.CommandLine.Help;
using System.Runtime.InteropServices;
using Espalier.Cli.Commands;
using Espalier.Cli.Display;
using Espalier.Runtime;

namespace Espalier.Cli;

/// <summary>The whole command line: words in, text and an exit code out. Tests run it in their own process.</summary>
public static class EspalierCommandLine
{
    /// <summary>Runs one command.</summary>
    /// <param name="words">The words after <c>espalier</c>.</param>
    /// <param name="output">Where results go.</param>
    /// <param name="error">Where progress, warnings and errors go.</param>
    /// <param name="cancellation">Ends the work where nothing is lost.</param>
    /// <returns>One of <see cref="ExitCode"/>.</returns>
    public static async Task<int> RunAsync(
        IReadOnlyList<string> words, TextWriter output, TextWriter error, CancellationToken cancellation = default)
    {
        RootCommand root = BuildRoot();
        ParseResult parsed = root.Parse(words);
        bool verbose = GlobalOptions.IsVerbose(parsed), json = GlobalOptions.IsJson(parsed);
        try
        {
            if (parsed.Errors.Count > 0 && parsed.Action is not HelpWithExamples)
            {
                return ShowUsageError(parsed, root, error);
            }

            var configuration = new InvocationConfiguration
            {
                Output = output,
                Error = error,
                EnableDefaultExceptionHandler = false,
                ProcessTerminationTimeout = null,
            };
            return await parsed.InvokeAsync(configuration, cancellation).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            error.WriteLine("stopped.");
            return ExitCode.Interrupted;
        }
        catch (Exception fault)
        {
            var (sentence, code) = Explain(fault);
            error.WriteLine($"error: {sentence}");
            if (verbose)
            {
                error.WriteLine(fault);
            }

            if (json)
            {
                JsonEvents.Write(output, new { @event = "error", message = sentence, exitCode = code });
            }

            return code;
        }
        finally
        {
            await output.FlushAsync(CancellationToken.None).ConfigureAwait(false);
            await error.FlushAsync(CancellationToken.None).ConfigureAwait(false);
        }
    }

    /// <summary>The command tree; also what completions and the docs are made from.</summary>
    internal static RootCommand BuildRoot()
    {
        var root = new RootCommand("Makes neural networks smaller, cheaper to train and cheaper to run: prune, retrain, adapt, quantise, merge.");
        foreach (EspalierCommand command in CommandList.All())
        {
            root.Add(command);
        }

        GlobalOptions.AddTo(root);
        foreach (Option option in root.Options)
        {
            switch (option)
            {
                case HelpOption help:
                    help.Description = "Shows this text.";
                    help.Action = new HelpWithExamples((HelpAction)help.Action!);
                    break;
                case VersionOption version:
                    version.Description = "Shows the version.";
                    break;
            }
        }

        return root;
    }

    private static int ShowUsageError(ParseResult parsed, RootCommand root, TextWriter error)
    {
        Command command = parsed.CommandResult.Command;
        error.WriteLine(parsed.UnmatchedTokens.Count > 0 && command.Subcommands.Count > 0 && !parsed.UnmatchedTokens[0].StartsWith('-')
            ? $"error: '{parsed.UnmatchedTokens[0]}' is no command."
            : $"error: {parsed.Errors[0].Message}");
        if (parsed.UnmatchedTokens.Count > 0)
        {
            IEnumerable<string> known = command.Subcommands.Select(c => c.Name)
                .Concat(command.Options.Concat(root.Options).Where(o => !o.Hidden).Select(o => o.Name));
            string? near = NearestWord.To(parsed.UnmatchedTokens[0], known);
            if (near is not null)
            {
                error.WriteLine($"hint: did you mean '{near}'?");
                return ExitCode.UserError;
            }
        }

        string path = command is RootCommand ? "espalier" : "espalier " + PathOf(command);
        error.WriteLine($"hint: `{path} --help` shows its words with examples.");
        return ExitCode.UserError;
    }

    private static string PathOf(Command command) =>
        command.Parents.OfType<Command>().FirstOrDefault(p => p is not RootCommand) is { } parent
            ? $"{PathOf(parent)} {command.Name}"
            : command.Name;

    internal static (string Sentence, int Code) Explain(Exception fault)
    {
        switch (fault)
        {
            case EspalierException:
                return (fault.Message, ExitCode.UserError);
            case UnauthorizedAccessException or FileNotFoundException or DirectoryNotFoundException:
                return (fault.Message, ExitCode.UserError);
            case IOException { HResult: 28 or unchecked((int)0x80070070) }:
                return ("The disk is full; nothing that was already written under its final name is damaged. Make room and run the command again.", ExitCode.UserError);
            case IOException:
                return (fault.Message, ExitCode.UserError);
            case OutOfMemoryException:
            case ExternalException when fault.Message.Contains("allocate memory", StringComparison.Ordinal) || fault.Message.Contains("out of memory", StringComparison.OrdinalIgnoreCase):
                return ("The machine ran out of memory; use a smaller --batch, --context or --length, or close other programs.", ExitCode.UserError);
            case TypeInitializationException { InnerException: { } inner }:
                return Explain(inner);
            default:
                string first = fault.Message.Split('\n')[0].Trim().TrimEnd('.');
                return ($"Something went wrong inside Espalier ({fault.GetType().Name}: {first}); please report it to the project's issue tracker with the output of the same command with --verbose.", ExitCode.Fault);
        }
    }
}
