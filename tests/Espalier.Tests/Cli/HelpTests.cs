using System.CommandLine;
using Espalier.Cli;
using Espalier.Cli.Commands;

namespace Espalier.Tests.Cli;

public sealed class HelpTests
{
    public static TheoryData<string> Commands => [.. Paths(EspalierCommandLine.BuildRoot(), "")];

    [Theory]
    [MemberData(nameof(Commands))]
    public async Task Help_is_as_it_was_approved(string path)
    {
        Tool tool = await Tool.RunAsync([.. path.Split(' ', StringSplitOptions.RemoveEmptyEntries), "--help"]);
        tool.Code.ShouldBe(ExitCode.Success);
        tool.Error.ShouldBeEmpty();
        Golden.Check("help" + (path.Length > 0 ? "-" + path.Replace(' ', '-') : ""), tool.Output);
    }

    [Fact]
    public void Every_example_is_a_line_that_the_tool_understands()
    {
        RootCommand root = EspalierCommandLine.BuildRoot();
        foreach (EspalierCommand command in All(root))
        {
            command.Examples.ShouldNotBeEmpty(command.Name);
            foreach (string example in command.Examples)
            {
                example.ShouldStartWith("espalier ");
                root.Parse(example.Split(" | ")[0]["espalier ".Length..]).Errors.ShouldBeEmpty(example);
            }
        }
    }

    private static IEnumerable<EspalierCommand> All(Command from) =>
        from.Subcommands.OfType<EspalierCommand>().SelectMany(c => All(c).Prepend(c));

    private static IEnumerable<string> Paths(Command from, string path) =>
        from.Subcommands.SelectMany(c => Paths(c, $"{path} {c.Name}".Trim())).Prepend(path);
}
