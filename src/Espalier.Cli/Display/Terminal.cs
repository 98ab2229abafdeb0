using Espalier.Runtime;
using Spectre.Console;

namespace Espalier.Cli.Display;

/// <summary>What the writers are: a terminal that can move its cursor, or a pipe or file.</summary>
internal static class Terminal
{
    private const int PipeWidth = 120;

    public static IAnsiConsole ConsoleFor(TextWriter output, bool color)
    {
        bool terminal = ReferenceEquals(output, Console.Out) && !Console.IsOutputRedirected;
        IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings
        {
            Out = new AnsiConsoleOutput(output),
            Ansi = terminal && color ? AnsiSupport.Detect : AnsiSupport.No,
            ColorSystem = terminal && color ? ColorSystemSupport.Detect : ColorSystemSupport.NoColors,
            Interactive = InteractionSupport.No,
        });
        if (!terminal)
        {
            console.Profile.Width = PipeWidth;
        }

        return console;
    }

    public static IProgressSink ProgressFor(TextWriter output, TextWriter error, GlobalSettings settings)
    {
        if (settings.Json)
        {
            return new JsonProgress(output, TimeProvider.System);
        }

        bool moving = settings.Color && !settings.Quiet && ReferenceEquals(error, Console.Error) && !Console.IsErrorRedirected
            && Environment.GetEnvironmentVariable("TERM") is not "dumb";
        return moving
            ? new BarProgress(error, () => Console.WindowWidth, TimeProvider.System)
            : new LineProgress(error, settings.Quiet, TimeProvider.System);
    }
}
