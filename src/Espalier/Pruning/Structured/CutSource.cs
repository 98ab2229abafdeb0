using Espalier.Checkpoints;
using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Pruning.Structured;

/// <summary>
/// The smaller model as tensors to read: each is cut from the larger one's as it is read, so that never more than one
/// tensor is in memory. What holds nothing learned (stored masks, frequencies) is left behind.
/// </summary>
internal sealed class CutSource : ITensorSource
{
    private readonly ITensorSource _ground;
    private readonly Dictionary<string, Piece> _pieces = new(StringComparer.Ordinal);

    /// <summary>Lays out the cut.</summary>
    /// <param name="ground">The larger model's tensors.</param>
    /// <param name="from">Its configuration.</param>
    /// <param name="to">The smaller model's.</param>
    /// <param name="plan">What stays.</param>
    public CutSource(ITensorSource ground, ModelConfig from, ModelConfig to, CutPlan plan)
    {
        _ground = ground;
        IReadOnlyList<int> channels = Gone(from.HiddenSize, plan.Channels);
        Architecture family = Architecture.For(from);
        using Embedding embeddingFrom = family.CreateEmbedding(from, Placement.Meta), embeddingTo = family.CreateEmbedding(to, Placement.Meta);
        Take(embeddingFrom, embeddingTo, [], channels);
        for (int i = 0; i < plan.Blocks.Count; i++)
        {
            using DecoderBlock blockFrom = family.CreateBlock(from, plan.Blocks[i].Index, Placement.Meta), blockTo = family.CreateBlock(to, i, Placement.Meta);
            IReadOnlyList<CoupledGroup> groups = blockFrom.Groups;
            Take(blockFrom, blockTo, [.. groups.Select(g => (g.Patterns, Gone(g.Count, g.Kind is CoupledKind.Neuron ? plan.Blocks[i].Neurons : plan.Blocks[i].Heads)))], channels);
        }

        using OutputHead headFrom = family.CreateHead(from, embeddingFrom, Placement.Meta), headTo = family.CreateHead(to, embeddingTo, Placement.Meta);
        Take(headFrom, headTo, [], channels);

        // As they lie in the source, with the new names.
        ILookup<string, string> byOld = _pieces.ToLookup(p => p.Value.From, p => p.Key, StringComparer.Ordinal);
        Names = [.. ground.Names.SelectMany(n => byOld[n])];
    }

    private sealed record Piece(string From, IReadOnlyList<(int Axis, long[] Kept)> Axes, TensorInfo Info);

    /// <inheritdoc/>
    public IReadOnlyList<string> Names { get; }

    /// <inheritdoc/>
    public bool Contains(string name) => _pieces.ContainsKey(name);

    /// <inheritdoc/>
    public TensorInfo Info(string name) => _pieces[name].Info;

    /// <inheritdoc/>
    public Tensor Read(string name, ScalarType? type = null)
    {
        Piece piece = _pieces[name];
        using var scope = NewDisposeScope();
        Tensor value = _ground.Read(piece.From, type);
        foreach ((int axis, long[] kept) in piece.Axes)
        {
            value = value.index_select(axis, tensor(kept));
        }

        return value.MoveToOuterDisposeScope();
    }

    private void Take(ModelPart from, ModelPart to, IReadOnlyList<(IReadOnlyList<SlicePattern> Patterns, IReadOnlyList<int> Gone)> groups, IReadOnlyList<int> channels)
    {
        foreach (((string old, TorchSharp.Modules.Parameter value), (string name, TorchSharp.Modules.Parameter wanted)) in from.Tensors.Zip(to.Tensors))
        {
            var axes = new List<(int, long[])>();
            long[] shape = value.shape;
            for (int axis = 0; axis < shape.Length; axis++)
            {
                var stays = new bool[shape[axis]];
                Array.Fill(stays, true);
                foreach ((IReadOnlyList<SlicePattern> patterns, IReadOnlyList<int> gone) in groups.Append((from.HiddenChannelSlices, channels)))
                {
                    foreach (TensorSlice slice in patterns.Where(p => p.Tensor == old && p.Axis == axis).SelectMany(p => gone.Select(u => p.At(u))))
                    {
                        Array.Fill(stays, false, (int)slice.Start, (int)slice.Length);
                    }
                }

                long[] kept = [.. Enumerable.Range(0, stays.Length).Where(i => stays[i]).Select(i => (long)i)];
                if (kept.Length < stays.Length)
                {
                    axes.Add((axis, kept));
                    shape[axis] = kept.Length;
                }
            }

            if (!shape.AsSpan().SequenceEqual(wanted.shape))
            {
                throw new InvalidOperationException($"{old} cut is [{string.Join(", ", shape)}], but the smaller model needs [{string.Join(", ", wanted.shape)}]; the architecture's slices are at fault.");
            }

            _pieces.Add(name, new Piece(old, axes, ElementTypes.Plan(name, _ground.Info(old).ElementType, shape)));
        }
    }

    private static int[] Gone(int count, IReadOnlyList<int> kept)
    {
        HashSet<int> stay = [.. kept];
        return [.. Enumerable.Range(0, count).Where(i => !stay.Contains(i))];
    }
}
