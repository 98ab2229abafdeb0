using Espalier.Models;
using Espalier.Sparsity;

namespace Espalier.Pruning.Structured;

/// <summary>The units of one kind of one block: where they lie, and what an allocator must know of them.</summary>
/// <param name="Coupled">Where the units lie in the block's tensors.</param>
/// <param name="Reader">The map that reads them.</param>
/// <param name="Group">Their number and size.</param>
internal sealed record BlockUnits(CoupledGroup Coupled, BlockLinear Reader, UnitGroup Group)
{
    /// <summary>How many channels of the reader's input one unit takes.</summary>
    public int Columns => (int)Coupled.Reader.Length;

    /// <summary>The units of a block.</summary>
    /// <param name="block">The block; its parameters need no values.</param>
    /// <param name="cuts">Which kinds.</param>
    public static IReadOnlyList<BlockUnits> Of(DecoderBlock block, Units cuts)
    {
        var shapes = block.Tensors.ToDictionary(t => t.Name, t => t.Value.shape, StringComparer.Ordinal);
        return [.. block.Groups.Where(g => cuts.HasFlag(KindOf(g.Kind))).Select(g => new BlockUnits(
            g, block.Linears.First(l => l.Name == g.Reader.Tensor),
            new UnitGroup(block.Index, g.Kind, g.Count, g.Patterns.Sum(p => p.Length * Across(shapes[p.Tensor], p.Axis)))))];
    }

    /// <summary>The kind of a coupled group as patterns name it.</summary>
    public static Units KindOf(CoupledKind kind) => kind switch
    {
        CoupledKind.Neuron => Units.Neurons,
        CoupledKind.HiddenChannel => Units.Channels,
        _ => Units.Heads,
    };

    private static long Across(long[] shape, int axis) => shape.Where((_, i) => i != axis).Aggregate(1L, (a, b) => a * b);
}
