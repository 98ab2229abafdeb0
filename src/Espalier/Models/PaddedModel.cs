using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>
/// A model whose blocks differ in heads or neurons, read as one whose blocks are all alike: zeros stand where a block has fewer.
/// A head or neuron of zeros adds nothing, so the function is the same; the configuration has the family's plain keys.
/// </summary>
public sealed class PaddedModel : ITensorSource
{
    private readonly ITensorSource ground;
    private readonly Dictionary<string, Piece> pieces = new(StringComparer.Ordinal);

    private PaddedModel(StreamedModel model, ModelConfig config)
    {
        (ground, Config) = (model.Source, config);
        ModelConfig from = model.Config;
        Architecture family = Architecture.For(from);
        using Embedding embedding = family.CreateEmbedding(from, Placement.Meta);
        using OutputHead head = family.CreateHead(from, embedding, Placement.Meta);
        Keep(embedding);
        for (int i = 0; i < from.LayerCount; i++)
        {
            using DecoderBlock narrow = family.CreateBlock(from, i, Placement.Meta), wide = family.CreateBlock(config, i, Placement.Meta);
            Widen(narrow, wide);
        }

        Keep(head);
        Names = [.. ground.Names.Where(pieces.ContainsKey)];
        AddedBytes = pieces.Values.Sum(p => p.Info.ByteCount) - pieces.Keys.Sum(n => ground.Info(n).ByteCount);
    }

    private sealed record Piece(IReadOnlyList<(int Axis, long[] Places)> Axes, TensorInfo Info);

    /// <summary>The configuration with the family's plain keys.</summary>
    public ModelConfig Config { get; }

    /// <summary>The bytes of the zeros, in the types that the tensors are stored in.</summary>
    public long AddedBytes { get; }

    /// <inheritdoc/>
    public IReadOnlyList<string> Names { get; }

    /// <summary>Pads a model to the widest of its blocks.</summary>
    /// <param name="model">The model; it stays the caller's and has to outlive the result.</param>
    /// <exception cref="EspalierException">When its heads cannot be padded to what the family's published code reads.</exception>
    public static PaddedModel Of(StreamedModel model) => new(model, Pad(model.Config));

    /// <inheritdoc/>
    public bool Contains(string name) => pieces.ContainsKey(name);

    /// <inheritdoc/>
    public TensorInfo Info(string name) => pieces[name].Info;

    /// <inheritdoc/>
    public Tensor Read(string name, ScalarType? type = null)
    {
        Piece piece = pieces[name];
        using var scope = NewDisposeScope();
        Tensor value = ground.Read(name, type);
        foreach ((int axis, long[] places) in piece.Axes)
        {
            long[] shape = [.. value.shape];
            shape[axis] = piece.Info.Shape[axis];
            value = zeros(shape, value.dtype).index_copy_(axis, tensor(places), value);
        }

        return value.MoveToOuterDisposeScope();
    }

    private static ModelConfig Pad(ModelConfig c)
    {
        ModelSize size = ModelSize.Of(c);
        int served = size.Blocks[0].Heads / size.Blocks[0].KeyValueHeads, groups = size.Blocks.Max(b => b.KeyValueHeads);
        EspalierException.Require(size.Blocks.All(b => b.Heads == served * b.KeyValueHeads),
            $"{c.Fields.Origin}: its blocks have different numbers of query heads for a key-value head, which zeros cannot make alike; the model cannot be padded.");
        if (!Architecture.For(c).ReadsHeadWidth)
        {
            EspalierException.Require(c.HiddenSize % c.HeadDim == 0 && c.HiddenSize / c.HeadDim >= groups,
                $"{c.Fields.Origin}: other programs share the width of a {c.ModelType} out among its heads, and no number of heads of width {c.HeadDim} makes {c.HiddenSize}; the model cannot be padded.");
            groups = c.HiddenSize / c.HeadDim;
        }

        var shape = new BlockShape(groups * served, groups, size.Blocks.Max(b => b.Neurons));
        ModelConfig padded = (size with { Blocks = [.. size.Blocks.Select(_ => shape)] }).Apply(c);
        return Architecture.For(c).ReadsHeadWidth ? padded : padded.With("head_dim", null);
    }

    private void Keep(ModelPart part)
    {
        foreach ((string name, _) in part.Tensors)
        {
            pieces.Add(name, new Piece([], ground.Info(name)));
        }
    }

    // Unit u of a group stays unit u; what no group touches keeps its place.
    private void Widen(DecoderBlock narrow, DecoderBlock wide)
    {
        (SlicePattern From, SlicePattern To, int Count)[] patterns =
            [.. narrow.Groups.Zip(wide.Groups).SelectMany(g => g.First.Patterns.Zip(g.Second.Patterns, (a, b) => (a, b, g.First.Count)))];
        foreach (((string name, TorchSharp.Modules.Parameter small), (_, TorchSharp.Modules.Parameter large)) in narrow.Tensors.Zip(wide.Tensors))
        {
            (long[] before, long[] after) = (small.shape, large.shape);
            var axes = new List<(int, long[])>();
            for (int axis = 0; axis < before.Length; axis++)
            {
                if (before[axis] == after[axis])
                {
                    continue;
                }

                long[] places = new long[before[axis]];
                foreach ((SlicePattern from, SlicePattern to, int count) in patterns.Where(p => p.From.Tensor == name && p.From.Axis == axis))
                {
                    for (int unit = 0; unit < count; unit++)
                    {
                        (TensorSlice old, TensorSlice now) = (from.At(unit), to.At(unit));
                        for (int i = 0; i < old.Length; i++)
                        {
                            places[old.Start + i] = now.Start + i;
                        }
                    }
                }

                axes.Add((axis, places));
            }

            pieces.Add(name, new Piece(axes, ElementTypes.Plan(name, ground.Info(name).ElementType, after)));
        }
    }
}
