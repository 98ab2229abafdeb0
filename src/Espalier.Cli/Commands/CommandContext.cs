using System.CommandLine;
using Espalier.Cli.Display;
using Espalier.Runtime;
using Spectre.Console;
using TorchSharp;

namespace Espalier.Cli.Commands;

/// <summary>What a running command writes to and was told by the global options.</summary>
internal sealed class CommandContext : IDisposable
{
    private readonly string _command;

    private CommandContext(EspalierCommand command, ParseResult parsed, GlobalSettings settings, TextWriter output, TextWriter error)
    {
        (_command, Settings, Output, Error) = (command.Name, settings, output, error);
        Console = Terminal.ConsoleFor(output, settings.Color);
        Progress = Terminal.ProgressFor(output, error, settings);
        Recording = Recording.Begin(command, parsed, Progress);
        Progress = Recording?.Recorder ?? Progress;
    }

    public GlobalSettings Settings { get; }

    /// <summary>Standard output: results only.</summary>
    public TextWriter Output { get; }

    /// <summary>Standard error: progress and sentences.</summary>
    public TextWriter Error { get; }

    /// <summary>Standard output with tables and colours, where it is a terminal.</summary>
    public IAnsiConsole Console { get; }

    public IProgressSink Progress { get; }

    /// <summary>The record of this run; null where none is kept.</summary>
    public Recording? Recording { get; }

    /// <summary>The device of <c>--device</c>.</summary>
    /// <exception cref="EspalierException">When it is not to be had.</exception>
    public torch.Device Device => ComputeDevice.Parse(Settings.Device);

    public static CommandContext From(EspalierCommand command, ParseResult parsed)
    {
        GlobalSettings settings = GlobalOptions.Read(parsed);
        if (settings.Threads is { } threads)
        {
            NativeLibraries.EnsureLoaded();
            torch.set_num_threads(threads);
        }

        InvocationConfiguration configuration = parsed.InvocationConfiguration;
        return new CommandContext(command, parsed, settings, configuration.Output, configuration.Error);
    }

    /// <summary>With <c>--json</c> the last line: the command's result.</summary>
    public void Result(object value) => JsonEvents.Write(Output, new { @event = "result", command = _command, value });

    /// <summary>Writes a result as JSON, or shows it.</summary>
    public void Show(object value, Action show)
    {
        (Progress as IDisposable)?.Dispose();
        Recording?.Outcome(value);
        if (Settings.Json)
        {
            Result(value);
        }
        else
        {
            show();
        }
    }

    public void Dispose() => (Progress as IDisposable)?.Dispose();
}
