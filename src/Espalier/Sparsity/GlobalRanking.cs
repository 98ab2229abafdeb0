using Espalier.Catalogue;

namespace Espalier.Sparsity;

/// <summary>No shares at all: one ranking over the whole model decides what each layer gives (the scope global by another name).</summary>
[Method("global", "Global ranking", Family = "Pruning", Source = "Han, Pool, Tran, Dally, NeurIPS 2015, and its successors",
    Summary = "All weights of the model are ranked together; what each layer gives follows from its scores.", Fits = "allocator; criteria whose scores are comparable across layers, unstructured, any repair and retraining")]
public sealed record GlobalRanking : IAllocator
{
    /// <inheritdoc/>
    /// <remarks>The shares that are expected before anything is ranked: each the same. The ranking is exact over all layers and free within one.</remarks>
    public IReadOnlyList<double> Allocate(IReadOnlyList<AllocatedLayer> layers, double sparsity) => [.. layers.Select(_ => sparsity)];
}
