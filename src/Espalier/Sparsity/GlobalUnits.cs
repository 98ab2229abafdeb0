using Espalier.Catalogue;
using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>One ranking of the heads of all blocks and one of their neurons; each kind gives the same share. Blocks end with widths of their own.</summary>
/// <remarks>Scores are compared as they are: sensible where the criterion's scale is the same in all blocks.</remarks>
[Method("global", "One ranking of units over all blocks", Family = "Pruning", Source = "the convention of the structured-pruning literature",
    Summary = "One ranking of all heads and one of all neurons: blocks end with widths of their own.", Fits = "allocator of a structured pattern; any criterion that ranks units")]
public sealed record GlobalUnits : IUnitAllocator
{
    /// <inheritdoc/>
    public bool IsUneven => true;

    /// <inheritdoc/>
    public IReadOnlyList<double> Keep(IReadOnlyList<UnitGroup> groups, double remove)
    {
        double share = remove / groups.Sum(g => g.Total);
        var kept = new double[groups.Count];
        foreach (IGrouping<bool, int> kind in Enumerable.Range(0, groups.Count).GroupBy(i => groups[i].Kind is CoupledKind.Neuron))
        {
            using var scope = NewDisposeScope();
            (int Group, float Score, long Parameters)[] units = [.. kind.SelectMany(i => groups[i].Scores!.cpu().data<float>().ToArray().Select(s => (i, s, groups[i].Parameters)))];
            foreach (int i in kind)
            {
                kept[i] = groups[i].Count;
            }

            // Worst first; among equals the earlier block and the lower index go first. The cut is where the removed parameters are nearest to the budget.
            double left = share * kind.Sum(i => (double)groups[i].Total);
            foreach ((int group, _, long parameters) in units.OrderBy(u => u.Score))
            {
                if (left < parameters / 2.0)
                {
                    break;
                }

                left -= parameters;
                kept[group]--;
            }
        }

        return kept;
    }
}
