using System.Globalization;
using System.Text.RegularExpressions;
using Espalier.Reporting;

namespace Espalier.Studio.Layout;

/// <summary>Reads the block and the kind of a layer out of its weight's name ("model.layers.3.mlp.up_proj.weight": 3, "mlp.up_proj").</summary>
internal static partial class LayerName
{
    /// <summary>The block and the kind; null where the name has no number.</summary>
    public static (int Block, string Kind)? Block(string name)
    {
        Match match = Numbered().Match(name);
        return match.Success ? (int.Parse(match.Groups[1].Value, CultureInfo.InvariantCulture), match.Groups[2].Value.Replace(".weight", "", StringComparison.Ordinal)) : null;
    }

    /// <summary>A grid of blocks and kinds; null where the names do not make one.</summary>
    public static HeatGrid? Heat(string title, IEnumerable<(string Name, double? Value)> layers, double? low = null, double? high = null, Func<double, string>? format = null)
    {
        var placed = layers.Select(l => (Place: Block(l.Name), l.Value)).Where(l => l.Place is not null && l.Value is not null).ToArray();
        string[] kinds = [.. placed.Select(l => l.Place!.Value.Kind).Distinct()];
        int[] blocks = [.. placed.Select(l => l.Place!.Value.Block).Distinct().Order()];
        if (kinds.Length == 0 || kinds.Length > 24 || blocks.Length < 2)
        {
            return null;
        }

        var values = placed.GroupBy(l => l.Place!.Value).ToDictionary(g => g.Key, g => g.First().Value);
        var grid = new HeatGrid
        {
            Title = title,
            Rows = kinds,
            Columns = [.. blocks.Select(b => b.ToString(CultureInfo.InvariantCulture))],
            Values = [.. kinds.Select(k => (IReadOnlyList<double?>)[.. blocks.Select(b => values.GetValueOrDefault((b, k)))])],
            XLabel = "block",
            Low = low,
            High = high,
        };
        return format is null ? grid : new HeatGrid { Title = title, Rows = grid.Rows, Columns = grid.Columns, Values = grid.Values, XLabel = "block", Low = low, High = high, Format = format };
    }

    [GeneratedRegex(@"\.(?:layers|h|layer|blocks)\.(\d+)\.(.+)$")]
    private static partial Regex Numbered();
}
