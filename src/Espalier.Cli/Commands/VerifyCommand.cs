using System.CommandLine;
using Espalier.Verification;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier verify</c>: runs the reference vectors.</summary>
internal sealed class VerifyCommand : EspalierCommand
{
    private readonly Argument<string?> _folder = new("DIR")
    {
        Description = "A folder that is searched for cases; by default the cases that ship with Espalier.",
        Arity = ArgumentArity.ZeroOrOne,
    };

    private readonly Option<string?> _system = new("--system") { Description = "Only the cases of one system.", HelpName = "S" };

    public VerifyCommand()
        : base("verify", "Runs reference cases and compares: a line for each that fails, then 'S: passed/total' for each system.",
            "espalier verify",
            "espalier verify --system wanda",
            "espalier verify ./my-cases --json")
    {
        Add(_folder);
        Add(_system);
    }

    protected override Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        ParityReport report = ParityVerifier.Run(parsed.GetValue(_folder), parsed.GetValue(_system), context.Progress, cancellation);
        context.Show(
            new
            {
                report.Passed,
                systems = report.Systems.Select(s => new { s.System, s.Passed, s.Total }),
                cases = report.Results.Select(r => new { r.Path, r.System, r.Op, r.Passed, r.Failure, r.LargestError, seconds = r.Duration.TotalSeconds }),
            },
            () =>
            {
                foreach (string line in report.Lines)
                {
                    context.Output.WriteLine(line);
                }
            });
        return Task.FromResult(report.Passed ? ExitCode.Success : ExitCode.Negative);
    }
}
