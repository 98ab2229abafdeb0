using System.Globalization;
using Espalier.Reporting;
using Espalier.Runtime;

namespace Espalier.Pruning.Structured;

/// <summary>What was cut, in words, tables and charts.</summary>
public static class StructureText
{
    /// <summary>The cut in one sentence.</summary>
    public static string Sentence(StructureReport structure)
    {
        string asked = structure.Asked is { } share && Math.Abs(share - structure.Achieved) >= 0.0005 ? $" (asked {Percent(share)})" : "";
        return $"{Percent(structure.Achieved)} of the blocks' parameters were cut out{asked}: {Text.Count(structure.ParametersBefore)} parameters became {Text.Count(structure.ParametersAfter)}.";
    }

    /// <summary>The sizes of every block before and after, row by row: block, heads, neurons, parameters.</summary>
    public static IEnumerable<IReadOnlyList<string>> Rows(StructureReport structure) => structure.Blocks.Select(b => (IReadOnlyList<string>)(b.Kept
        ?
        [
            b.Index.ToString(CultureInfo.InvariantCulture), Change(b.HeadsBefore, b.HeadsAfter), Change(b.KeyValueHeadsBefore, b.KeyValueHeadsAfter), Change(b.NeuronsBefore, b.NeuronsAfter),
            Change(b.ParametersBefore, b.ParametersAfter),
        ]
        : [b.Index.ToString(CultureInfo.InvariantCulture), "gone", "gone", "gone", $"{Text.Count(b.ParametersBefore)} → 0"]));

    /// <summary>The headings of <see cref="Rows"/>.</summary>
    public static IReadOnlyList<string> Headings { get; } = ["block", "heads", "key-value heads", "neurons", "parameters"];

    /// <summary>The section of a report page.</summary>
    internal static ReportPage AddTo(ReportPage page, StructureReport structure, DiskSize disk)
    {
        var facts = new List<KeyValuePair<string, string>>
        {
            new("parameters", $"{Text.Count(structure.ParametersBefore)} → {Text.Count(structure.ParametersAfter)}"),
            new("width of the residual stream", Change(structure.HiddenBefore, structure.HiddenAfter)),
            new("tensors on disk", $"{Text.Bytes(disk.Before)} → {Text.Bytes(disk.After)}"),
        };
        if (structure.Speed is { } speed)
        {
            facts.Add(new("speed on this machine", speed.ToString()));
        }

        facts.Add(new("loads elsewhere", structure.Plain ? "yes: the configuration has the family's plain keys only" : "Espalier only (block_shapes or a head width of its own); for other programs prune with uniform, or pad: espalier export --format checkpoint --pad"));
        string[] places = [.. structure.Blocks.Select(b => b.Index.ToString(CultureInfo.InvariantCulture))];
        page = page.Section("What was cut", Sentence(structure),
        [
            Widths("Parameters per block", "parameters", b => b.ParametersBefore, b => b.ParametersAfter),
            .. structure.Blocks.Any(b => b.NeuronsAfter < b.NeuronsBefore) ? [Widths("Neurons per block", "neurons", b => b.NeuronsBefore, b => b.NeuronsAfter)] : Array.Empty<IReportBlock>(),
            .. structure.Blocks.Any(b => b.HeadsAfter < b.HeadsBefore) ? [Widths("Query heads per block", "heads", b => b.HeadsBefore, b => b.HeadsAfter)] : Array.Empty<IReportBlock>(),
            DataTable.Of(facts, "what", "before → after"),
            new DataTable([.. Headings.Select((h, i) => new Column(h, i > 0))], [.. Rows(structure)]),
        ]);
        return structure.Cuts.Count == 0 ? page
            : page.Add(new Details("Where one unit of each kind was cut", DataTable.Of(structure.Cuts.Select(c => c.Split(": ", 2)).Select(c => new KeyValuePair<string, string>(c[0], c[^1])), "where", "what")));

        ColumnChart Widths(string title, string unit, Func<BlockSize, double> before, Func<BlockSize, double> after) => new()
        {
            Title = title,
            XLabel = "block",
            YLabel = unit,
            Places = places,
            Format = v => Text.Count((long)v),
            Columns = [new ColumnSeries("before", [.. structure.Blocks.Select(b => (double?)before(b))], Tone.Slate), new ColumnSeries("after", [.. structure.Blocks.Select(b => (double?)after(b))], Tone.Leaf)],
        };
    }

    internal static string Percent(double share) => (100 * share).ToString("0.#", CultureInfo.InvariantCulture) + " %";

    private static string Change(long before, long after) => before == after ? Text.Count(before) : $"{Text.Count(before)} → {Text.Count(after)}";
}
