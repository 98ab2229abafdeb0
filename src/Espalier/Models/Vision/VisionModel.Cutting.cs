using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Vision;

public sealed partial class VisionModel
{
    /// <summary>The smaller net without some units: their slices are taken out of every tensor. This net stays as it is.</summary>
    /// <param name="remove">Units to remove by <see cref="CoupledGroup.Owner"/>; groups that are not named stay whole.</param>
    /// <returns>A new net whose configuration holds the new widths.</returns>
    /// <exception cref="EspalierException">When a group or unit does not exist, or a group would be empty.</exception>
    public VisionModel Cut(IReadOnlyDictionary<string, IReadOnlyCollection<int>> remove)
    {
        EspalierException.Require(Gates.Count == 0, "Channels of a net with gates cannot be cut, because its predictors read them; cut first and train gates on the smaller net.");
        foreach ((string owner, IReadOnlyCollection<int> units) in remove)
        {
            CoupledGroup group = Groups.FirstOrDefault(g => g.Owner == owner)
                ?? throw new EspalierException($"Nothing can be cut at {owner}; the groups are {string.Join(", ", Groups.Take(6).Select(g => g.Owner))}, ….");
            EspalierException.Require(units.All(u => u >= 0 && u < group.Count), $"{group} has no unit {units.FirstOrDefault(u => u < 0 || u >= group.Count)}; they are counted from 0.");
            EspalierException.Require(units.Distinct().Count() < group.Count, $"Of {group} nothing would be left; keep at least one.");
        }

        using var scope = NewDisposeScope();
        using var _ = no_grad();
        CoupledGroup[] groups = [.. Groups.Where(g => remove.GetValueOrDefault(g.Owner) is { Count: > 0 })];
        Dictionary<string, Tensor> values = Tensors.ToDictionary(t => t.Name, t => t.Value);
        foreach (CoupledGroup group in groups)
        {
            foreach (string name in group.Patterns.Select(p => p.Tensor).Distinct())
            {
                values[name] = group.Cut(name, values[name], remove[group.Owner]);
            }
        }

        var widths = new Dictionary<string, int>(Config.Widths);
        foreach (WeightLayer layer in Weights.Where(w => values[w.WeightName].shape[0] != w.Rows))
        {
            widths[layer.Name] = (int)values[layer.WeightName].shape[0];
        }

        var cut = new VisionModel(Config.WithCut(widths, CutMaps(remove)), Device);
        foreach ((string name, Tensor value) in cut.Tensors)
        {
            value.copy_(values[name]);
        }

        return cut;
    }

    // A shortcut without weights: outputs that were cut go, inputs that were cut become zero, the others move up.
    private Dictionary<string, IReadOnlyList<int>> CutMaps(IReadOnlyDictionary<string, IReadOnlyCollection<int>> remove)
    {
        var maps = new Dictionary<string, IReadOnlyList<int>>();
        foreach (PadShortcutLayer shortcut in Layers.OfType<PadShortcutLayer>())
        {
            IReadOnlyCollection<int> outputs = Removed(shortcut), inputs = Removed(shortcut.Inputs[0]);
            maps[shortcut.Name] = [.. shortcut.Map.Where((_, o) => !outputs.Contains(o)).Select(m => m < 0 || inputs.Contains(m) ? -1 : m - inputs.Distinct().Count(i => i < m))];
        }

        return maps;

        IReadOnlyCollection<int> Removed(VisionLayer layer) =>
            layer.Channels.Root.Group is { } group && remove.TryGetValue(group.Owner, out IReadOnlyCollection<int>? units) ? units : [];
    }
}
