using System.CommandLine;
using Espalier.Catalogue;
using Espalier.Pruning;
using Espalier.Runtime;
using Spectre.Console;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier methods</c>: the catalogue, searched by words.</summary>
internal sealed class MethodsCommand : EspalierCommand
{
    private readonly Argument<string[]> _words = new("words")
    {
        Description = "Words to search for in names, titles, families and descriptions; criterion, allocator, repair, quantiser or retraining list what can stand there in a plan, sparse-training, vision and optimizer what `espalier train` can do, adaptation what `espalier adapt` can; none lists everything.",
        Arity = ArgumentArity.ZeroOrMore,
    };

    public MethodsCommand()
        : base("methods", "Lists the published systems in the catalogue and what each goes with.",
            "espalier methods",
            "espalier methods pruning",
            "espalier methods criterion",
            "espalier methods wanda",
            "espalier methods --json | jq '.value[] | select(.state == \"built\") | .slug'") => Add(_words);

    protected override Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string words = string.Join(' ', parsed.GetValue(_words) ?? []);
        MethodCatalogue catalogue = MethodCatalogue.Default;
        IReadOnlyList<CatalogueEntry> found = PlanWords.Systems(words) ?? catalogue.Search(words);
        EspalierException.Require(found.Count > 0,
            $"No system in the catalogue has all of the words '{words}'; `espalier methods` lists all {catalogue.Entries.Count}.{NearestWord.Suggest(words, catalogue.Entries.Select(e => e.Slug))}");
        CatalogueEntry? named = found.FirstOrDefault(e => e.Slug.Equals(words, StringComparison.OrdinalIgnoreCase));
        context.Show(
            found.Select(e => new { e.Slug, e.Title, e.Family, e.State, e.Summary, e.Source, e.Fits, e.Listed }),
            () =>
            {
                if (named is not null)
                {
                    PrintOne(context.Console, named);
                }
                else
                {
                    PrintList(context.Console, found);
                }
            });
        return Task.FromResult(ExitCode.Success);
    }

    internal static void PrintList(IAnsiConsole console, IReadOnlyList<CatalogueEntry> found)
    {
        foreach (IGrouping<string, CatalogueEntry> family in found.GroupBy(e => e.Family).OrderBy(g => g.Key, StringComparer.Ordinal))
        {
            console.MarkupLine($"[bold]{Markup.Escape(family.Key)}[/]");
            var grid = new Grid().AddColumn(new GridColumn().NoWrap().PadLeft(2).Width(18)).AddColumn();
            foreach (CatalogueEntry entry in family.OrderBy(e => e.State is MethodState.NotYet).ThenBy(e => e.Slug, StringComparer.Ordinal))
            {
                if (entry.State is MethodState.Built)
                {
                    grid.AddRow($"[green]{Markup.Escape(entry.Slug)}[/]", $"{Markup.Escape(entry.Summary)}\n[grey]fits: {Markup.Escape(entry.Fits)}[/]");
                }
                else
                {
                    grid.AddRow($"[grey]{Markup.Escape(entry.Slug)}[/]", $"[grey]not yet: {Markup.Escape(entry.Title)}[/]");
                }
            }

            console.Write(grid);
        }

        int built = found.Count(e => e.State is MethodState.Built);
        console.MarkupLine($"{built} ready, {found.Count - built} not yet. [grey]`espalier methods NAME` tells more of one.[/]");
    }

    internal static void PrintOne(IAnsiConsole console, CatalogueEntry entry)
    {
        var grid = new Grid().AddColumn(new GridColumn().NoWrap().Width(10)).AddColumn();
        grid.AddRow("[bold]name[/]", $"[bold]{Markup.Escape(entry.Slug)}[/]");
        grid.AddRow("title", Markup.Escape(entry.Title));
        grid.AddRow("family", Markup.Escape(entry.Family));
        if (entry.State is MethodState.Built)
        {
            grid.AddRow("source", Markup.Escape(entry.Source));
            grid.AddRow("does", Markup.Escape(entry.Summary));
            grid.AddRow("fits", Markup.Escape(entry.Fits));
            if (OptionNames(entry.Implementation!) is { Count: > 0 } names)
            {
                grid.AddRow("options", Markup.Escape(string.Join(", ", names)));
            }
        }
        else
        {
            grid.AddRow("state", "not yet: this version lists it but cannot run it");
        }

        console.Write(grid);
    }

    // A system has its options as settable properties, or takes one options record.
    private static IReadOnlyList<string> OptionNames(Type type) =>
        type.GetConstructor(Type.EmptyTypes) is not null
            ? OptionsBinder.Names(type)
            : type.GetConstructors().FirstOrDefault(c => c.GetParameters().Length == 1) is { } constructor
                ? OptionsBinder.Names(constructor.GetParameters()[0].ParameterType)
                : [];
}
