using Espalier.Catalogue;
using Espalier.Models;

namespace Espalier.Sparsity;

/// <summary>Every layer gives the same share: the default of the language-model literature.</summary>
/// <remarks>
/// Of units (structured patterns) every block gives floor(share·heads) heads, and its neurons carry the rest of the budget,
/// so that the share of parameters is met although heads are few.
/// </remarks>
[Method("uniform", "Uniform layer-wise sparsity", Family = "Pruning", Source = "the convention of the language-model literature",
    Summary = "Every layer gives the same share of its weights; the default allocator.", Fits = "allocator; any criterion, pattern, repair and retraining")]
public sealed record Uniform : IAllocator, IUnitAllocator
{
    /// <inheritdoc/>
    public IReadOnlyList<double> Allocate(IReadOnlyList<AllocatedLayer> layers, double sparsity) =>
        [.. layers.Select(_ => sparsity)];

    /// <inheritdoc/>
    public bool IsUneven => false;

    /// <inheritdoc/>
    public IReadOnlyList<double> Keep(IReadOnlyList<UnitGroup> groups, double remove)
    {
        double share = remove / groups.Sum(g => g.Total);
        bool both = groups.Any(g => g.Kind is CoupledKind.Neuron) && groups.Any(g => g.Kind is not CoupledKind.Neuron);
        double left = remove, neurons = groups.Where(g => g.Kind is CoupledKind.Neuron).Sum(g => (double)g.Total);
        var heads = new Dictionary<UnitGroup, double>(ReferenceEqualityComparer.Instance);
        foreach (UnitGroup group in groups.Where(g => g.Kind is not CoupledKind.Neuron))
        {
            // Beside neurons, which carry the rest, heads go by floor; alone they go by the nearest number.
            double gone = both ? Math.Floor((share * group.Count) + 1e-9) : share * group.Count;
            heads[group] = group.Count - gone;
            left -= gone * group.Parameters;
        }

        return [.. groups.Select(g => heads.TryGetValue(g, out double kept) ? kept : g.Count * (1 - (left / neurons)))];
    }
}
