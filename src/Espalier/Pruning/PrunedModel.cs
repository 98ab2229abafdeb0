using Espalier.Models;
using Espalier.Sparsity;

namespace Espalier.Pruning;

/// <summary>A pruned model in memory.</summary>
/// <param name="Model">The model; float32.</param>
/// <param name="Masks">The masks of its pruned weights by name.</param>
/// <param name="Blocks">What happened to each block.</param>
public sealed record PrunedModel(LanguageModel Model, IReadOnlyDictionary<string, SparsityMask> Masks, IReadOnlyList<BlockReport> Blocks) : IDisposable
{
    /// <summary>The linear maps of all blocks in order.</summary>
    public IEnumerable<LayerReport> Layers => Blocks.SelectMany(b => b.Layers);

    /// <inheritdoc/>
    public void Dispose() => Model.Dispose();
}
