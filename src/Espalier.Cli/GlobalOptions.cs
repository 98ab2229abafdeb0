using System.CommandLine;

namespace Espalier.Cli;

/// <summary>What every command understands.</summary>
/// <param name="Json">Results and progress are JSON lines on standard output.</param>
/// <param name="Quiet">No progress, only results, warnings and errors.</param>
/// <param name="Verbose">Stack traces with errors.</param>
/// <param name="Color">Colours and moving bars are allowed where the terminal has them.</param>
/// <param name="Device">Where to compute: cpu, cuda, cuda:N or auto.</param>
/// <param name="Threads">How many threads libtorch may use; null leaves it to libtorch.</param>
public sealed record GlobalSettings(bool Json, bool Quiet, bool Verbose, bool Color, string Device, int? Threads);

/// <summary>The options of <see cref="GlobalSettings"/>, given before or after the command's name.</summary>
internal static class GlobalOptions
{
    private static readonly Option<bool> Json = new("--json") { Description = "Result and progress as JSON lines on standard output, for scripts.", Recursive = true };
    private static readonly Option<bool> Quiet = new("--quiet", "-q") { Description = "No progress; only results, warnings and errors.", Recursive = true };
    private static readonly Option<bool> Verbose = new("--verbose") { Description = "Stack traces with errors.", Recursive = true };
    private static readonly Option<bool> NoColor = new("--no-color") { Description = "No colours and no moving bars (NO_COLOR does the same).", Recursive = true };
    private static readonly Option<string> Device = new("--device") { Description = "Where to compute: cpu, cuda, cuda:N or auto.", HelpName = "word", Recursive = true, DefaultValueFactory = _ => "auto" };
    private static readonly Option<int?> Threads = new("--threads") { Description = "How many threads to compute with (default: one per core).", HelpName = "N", Recursive = true };

    static GlobalOptions() => Threads.Validators.Add(result =>
    {
        if (result.Tokens.Count == 1 && int.TryParse(result.Tokens[0].Value, out int threads) && threads < 1)
        {
            result.AddError($"--threads {threads} is not possible; give 1 or more, or leave it out for one per core.");
        }
    });

    public static void AddTo(RootCommand root)
    {
        foreach (Option option in new Option[] { Json, Quiet, Verbose, NoColor, Device, Threads })
        {
            root.Add(option);
        }
    }

    public static GlobalSettings Read(ParseResult parsed) => new(
        parsed.GetValue(Json),
        parsed.GetValue(Quiet),
        parsed.GetValue(Verbose),
        !parsed.GetValue(NoColor) && string.IsNullOrEmpty(Environment.GetEnvironmentVariable("NO_COLOR")),
        parsed.GetValue(Device) ?? "auto",
        parsed.GetValue(Threads));

    public static bool IsVerbose(ParseResult parsed) => parsed.GetResult(Verbose) is { Implicit: false };

    public static bool IsJson(ParseResult parsed) => parsed.GetResult(Json) is { Implicit: false };
}
