using Espalier.Catalogue;

namespace Espalier.Sparsity;

/// <summary>Every layer gives the same share: the default of the language-model literature.</summary>
[Method("uniform", "Uniform layer-wise sparsity", Family = "Pruning", Source = "the convention of the language-model literature",
    Summary = "Every layer gives the same share of its weights; the default allocator.", Fits = "allocator; any criterion, pattern, repair and retraining")]
public sealed record Uniform : IAllocator
{
    /// <inheritdoc/>
    public IReadOnlyList<double> Allocate(IReadOnlyList<AllocatedLayer> layers, double sparsity) =>
        [.. layers.Select(_ => sparsity)];
}
