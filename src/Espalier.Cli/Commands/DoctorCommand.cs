using System.CommandLine;
using Espalier.Cli.Doctor;
using Spectre.Console;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier doctor</c>: looks at the machine and says what to mend.</summary>
internal sealed class DoctorCommand() : EspalierCommand(
    "doctor",
    "Looks at this machine (libraries, processor, memory, folders) and says what to do about what is not right.",
    "espalier doctor",
    "espalier doctor --json | jq .value.checks")
{
    protected override Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        Check[] checks = [.. NativeChecks.All(), .. SystemChecks.All()];
        Health worst = checks.Max(c => c.Health);
        context.Show(new { health = worst, checks }, () => Print(context.Console, checks, worst));
        return Task.FromResult(worst == Health.Fail ? ExitCode.Negative : ExitCode.Success);
    }

    private static void Print(IAnsiConsole console, Check[] checks, Health worst)
    {
        var table = new Grid().AddColumn(new GridColumn().NoWrap()).AddColumn(new GridColumn().NoWrap()).AddColumn();
        foreach (Check check in checks)
        {
            string color = check.Health switch { Health.Ok => "green", Health.Warn => "yellow", _ => "red" };
            string advice = check.Advice is null ? "" : $"\n[{color}]→ {Markup.Escape(check.Advice)}[/]";
            table.AddRow($"[{color}]{check.Health.ToString().ToLowerInvariant()}[/]", Markup.Escape(check.Name), Markup.Escape(check.Found) + advice);
        }

        console.Write(table);
        console.MarkupLine(worst switch
        {
            Health.Ok => "[green]Everything is ready.[/]",
            Health.Warn => "[yellow]Ready; the lines marked warn say what could be better.[/]",
            _ => "[red]Not ready: mend the lines marked fail.[/]",
        });
    }
}
