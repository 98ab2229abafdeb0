using System.CommandLine;
using Espalier.Runs;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier runs tag</c> and <c>espalier runs untag</c>: words that group runs, given and taken away.</summary>
internal sealed class RunsTagCommand : EspalierCommand
{
    private readonly bool _add;
    private readonly Argument<string> _run = new("run") { Description = RunWords.IdHelp };
    private readonly Argument<string[]> _tags;

    /// <param name="add">Whether tags are given; else they are taken away.</param>
    public RunsTagCommand(bool add)
        : base(add ? "tag" : "untag",
            add ? "Gives a run tags: words that group runs, as --tag does when it is started." : "Takes tags of a run away.",
            add ? ["espalier runs tag last paper", "espalier runs tag 3f9a01bc paper figure-2", "espalier runs list --tag paper"] : ["espalier runs untag last paper", "espalier runs untag 3f9a01bc paper figure-2"])
    {
        _add = add;
        _tags = new Argument<string[]>("tags") { Description = add ? $"The tags, each of at most {RunTag.Longest} letters." : "The tags to take away.", Arity = ArgumentArity.OneOrMore };
        Add(_run);
        Add(_tags);
    }

    /// <inheritdoc/>
    internal override void Check(ParseResult parsed)
    {
        foreach (string tag in parsed.GetRequiredValue(_tags))
        {
            EspalierException.Require(tag.Trim().Length is > 0 and <= RunTag.Longest && !tag.Any(char.IsControl), $"'{tag}' is no tag; give a word of 1 to {RunTag.Longest} letters.");
        }
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string[] tags = [.. parsed.GetRequiredValue(_tags).Select(t => t.Trim()).Distinct(StringComparer.Ordinal)];
        await using RunStore store = await RunWords.OpenAsync(cancellation).ConfigureAwait(false);
        RunDetails found = await RunWords.FindAsync(store, parsed.GetRequiredValue(_run), cancellation).ConfigureAwait(false);
        string[] known = [.. found.Run.Tags.Select(t => t.Tag)];
        EspalierException.Require(_add || tags.Any(known.Contains), $"Run {found.Run.ShortId} has none of these tags{(known.Length > 0 ? $"; it has {string.Join(", ", known)}" : " and no others")}.");
        await store.TagAsync(found.Run.Id, _add ? tags : [], _add ? [] : tags, cancellation).ConfigureAwait(false);
        string[] now = [.. (_add ? known.Union(tags) : known.Except(tags)).Order(StringComparer.Ordinal)];
        context.Show(new { found.Run.Id, found.Run.ShortId, tags = now }, () => context.Output.WriteLine(now.Length > 0 ? $"{found.Run.ShortId}: {string.Join(", ", now)}" : $"{found.Run.ShortId} has no tags."));
        return ExitCode.Success;
    }
}
