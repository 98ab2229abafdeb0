using Espalier.Models;
using Espalier.Pruning.Structured;
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

    /// <summary>The sizes before and after where units were cut; null where weights were masked.</summary>
    public StructureReport? Structure { get; init; }

    /// <summary>The heads and neurons that were cut out of blocks that stay; none where weights were masked.</summary>
    public IReadOnlyList<RemovedUnits> Removed { get; init; } = [];

    /// <inheritdoc/>
    public void Dispose() => Model.Dispose();
}

/// <summary>The units of one kind that one block lost.</summary>
/// <param name="Block">The block's number in the model that was cut.</param>
/// <param name="Kind">What the units are.</param>
/// <param name="Units">Their numbers, ascending.</param>
public sealed record RemovedUnits(int Block, CoupledKind Kind, IReadOnlyList<int> Units);
