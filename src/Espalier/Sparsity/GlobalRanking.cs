using Espalier.Catalogue;
using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>
/// No shares at all: one ranking over the whole model decides what each layer gives. Of weights it is the scope global by
/// another name; of units one ranking of the heads of all blocks and one of their neurons, so that blocks end with widths of their own.
/// </summary>
/// <remarks>Scores are compared as they are: sensible where the criterion's scale is the same in all layers.</remarks>
[Method("global", "Global ranking", Family = "Pruning", Source = "Han, Pool, Tran, Dally, NeurIPS 2015, and its successors",
    Summary = "All weights, or all units of a kind, are ranked together; what each layer gives follows from its scores.", Fits = "allocator; criteria whose scores are comparable across layers, unstructured or structured, any repair and retraining")]
public sealed record GlobalRanking : IAllocator, IUnitAllocator
{
    /// <inheritdoc/>
    /// <remarks>The shares that are expected before anything is ranked: each the same. The ranking is exact over all layers and free within one.</remarks>
    public IReadOnlyList<double> Allocate(IReadOnlyList<AllocatedLayer> layers, double sparsity) => [.. layers.Select(_ => sparsity)];

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
