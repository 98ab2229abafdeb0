using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using Espalier.Cli.Commands;

namespace Espalier.Cli;

/// <summary>The usual help text, followed by lines that one can copy.</summary>
internal sealed class HelpWithExamples : SynchronousCommandLineAction
{
    private const int Width = 110;
    private readonly HelpAction _usual;

    public HelpWithExamples(HelpAction usual)
    {
        _usual = usual;
        // One width everywhere: what the docs show is what the terminal shows.
        _usual.MaxWidth = Width;
    }

    public override bool ClearsParseErrors => true;

    public override int Invoke(ParseResult parseResult)
    {
        using var text = new StringWriter();
        TextWriter output = parseResult.InvocationConfiguration.Output;
        parseResult.InvocationConfiguration.Output = text;
        _usual.Invoke(parseResult);
        parseResult.InvocationConfiguration.Output = output;

        string[] executableNames = [RootCommand.ExecutableName];
        string usual = executableNames.Aggregate(text.ToString(), (t, name) => t.Replace($"  {name} ", "  espalier ", StringComparison.Ordinal));
        output.WriteLine(string.Join('\n', usual.Split('\n').Select(l => l.TrimEnd())).TrimEnd());
        IReadOnlyList<string> examples = parseResult.CommandResult.Command is EspalierCommand command
            ? command.Examples
            : ["espalier doctor", "espalier methods pruning", "espalier prune plan.yaml"];
        output.WriteLine();
        output.WriteLine("Examples:");
        foreach (string example in examples)
        {
            output.WriteLine($"  {example}");
        }

        return ExitCode.Success;
    }
}
