using Espalier.Models.Decoding;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>A prunable linear map of a block.</summary>
/// <param name="Name">The checkpoint name of its weight ("model.layers.0.self_attn.q_proj.weight").</param>
/// <param name="Linear">The map.</param>
/// <param name="Stage">Maps that read the same input share a stage; a later stage reads what earlier ones produce.</param>
public sealed record BlockLinear(string Name, Linear Linear, int Stage);

/// <summary>One transformer block of a decoder: attention and feed-forward around a residual stream.</summary>
public abstract class DecoderBlock : ModelPart
{
    /// <summary>Makes block number <paramref name="index"/>.</summary>
    protected DecoderBlock(string name, int index)
        : base(name)
    {
        Index = index;
    }

    /// <summary>Its number, from 0.</summary>
    public int Index { get; }

    /// <summary>The activation function of its feed-forward part; a new tensor of the same shape.</summary>
    public Func<Tensor, Tensor> Activation { get; private protected set; } = x => x.alias();

    /// <summary>Its linear maps in calibration order: a map comes after those that its input depends on.</summary>
    public abstract IReadOnlyList<BlockLinear> Linears { get; }

    /// <summary>The norms whose outputs its attention and feed-forward part read, [.., hidden] each.</summary>
    public abstract IReadOnlyList<(string Name, nn.Module<Tensor, Tensor> Norm)> StreamNorms { get; }

    /// <summary>What can be cut out of this block alone: its heads and its neurons.</summary>
    public abstract IReadOnlyList<CoupledGroup> Groups { get; }

    /// <summary>Takes over the activation function of a configuration.</summary>
    internal void Activate(ModelConfig config) => Activation = Activations.Of(config);

    /// <summary>Passes hidden states through the block.</summary>
    /// <param name="hidden">Hidden states [batch, tokens, hidden].</param>
    /// <param name="position">The position of the first token; with a cache, the number of tokens it holds.</param>
    /// <param name="cache">Keys and values of the tokens before; they are extended. Null: the tokens given are the whole context.</param>
    /// <returns>[batch, tokens, hidden].</returns>
    public abstract Tensor Forward(Tensor hidden, long position = 0, KeyValueCache? cache = null);

    /// <summary>Passes one token of a single sequence through the block on plain memory: float32, on the CPU, without gradients.</summary>
    /// <param name="room">Holds the residual stream, which is changed, and room for the rest.</param>
    /// <param name="position">The token's position.</param>
    /// <param name="cache">Keys and values of the tokens before; they are extended.</param>
    internal virtual void Step(StepRoom room, long position, KeyValueCache cache)
    {
        using var scope = NewDisposeScope();
        Tensor hidden = empty([1, 1, room.Hidden.Length]);
        room.Hidden.CopyTo(StepMath.Numbers(hidden));
        StepMath.Numbers(Forward(hidden, position, cache)).CopyTo(room.Hidden);
    }

    /// <summary>A feed-forward part without gates, of one token: second(act(first(x))).</summary>
    /// <param name="room">Room for the neurons.</param>
    /// <param name="x">[hidden].</param>
    /// <param name="first">To the neurons.</param>
    /// <param name="second">And back.</param>
    /// <param name="to">[hidden].</param>
    private protected void FeedForward(StepRoom room, ReadOnlySpan<float> x, Linear first, Linear second, Span<float> to)
    {
        Span<float> neurons = room.Take(StepVector.Neurons, (int)first.OutFeatures);
        first.Step(x, neurons);
        StepMath.Activate(Activation, neurons);
        second.Step(neurons, to);
    }
}
