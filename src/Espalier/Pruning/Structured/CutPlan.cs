using Espalier.Models;

namespace Espalier.Pruning.Structured;

/// <summary>What stays of a block that stays.</summary>
/// <param name="Index">Its number in the model that is cut.</param>
/// <param name="Heads">The heads or key-value groups that stay, ascending: cut units leave the others in memory order.</param>
/// <param name="Neurons">The neurons that stay, ascending.</param>
internal sealed record BlockChoice(int Index, IReadOnlyList<int> Heads, IReadOnlyList<int> Neurons);

/// <summary>What stays of a model, unit by unit.</summary>
/// <param name="Channels">The channels of the residual stream that stay, ascending.</param>
/// <param name="Blocks">The blocks that stay, in order.</param>
internal sealed record CutPlan(IReadOnlyList<int> Channels, IReadOnlyList<BlockChoice> Blocks)
{
    /// <summary>The sizes of the smaller model.</summary>
    /// <param name="c">The model that is cut.</param>
    public ModelSize Size(ModelConfig c) => new(Channels.Count, [.. Blocks.Select(b => b.Index)], [.. Blocks.Select(b =>
    {
        BlockShape before = c.ShapeOf(b.Index);
        return new BlockShape(b.Heads.Count * (before.Heads / before.KeyValueHeads), b.Heads.Count, b.Neurons.Count);
    })]);

    /// <summary>The heads and neurons that go, block by block.</summary>
    /// <param name="c">The model that is cut.</param>
    public IEnumerable<RemovedUnits> Removed(ModelConfig c)
    {
        foreach (BlockChoice block in Blocks)
        {
            BlockShape before = c.ShapeOf(block.Index);
            CoupledKind head = before.Heads == before.KeyValueHeads ? CoupledKind.AttentionHead : CoupledKind.KeyValueGroup;
            foreach ((CoupledKind kind, int count, IReadOnlyList<int> kept) in new[] { (head, before.KeyValueHeads, block.Heads), (CoupledKind.Neuron, before.Neurons, block.Neurons) })
            {
                if (kept.Count < count)
                {
                    yield return new RemovedUnits(block.Index, kind, [.. Enumerable.Range(0, count).Except(kept)]);
                }
            }
        }
    }

    /// <summary>The best units by score, ascending by number; among equals the lower number goes first.</summary>
    /// <param name="scores">The importance of every unit.</param>
    /// <param name="keep">How many stay.</param>
    public static IReadOnlyList<int> Best(IReadOnlyList<float> scores, int keep) =>
        [.. Enumerable.Range(0, scores.Count).OrderBy(i => scores[i]).Skip(scores.Count - keep).Order()];
}
