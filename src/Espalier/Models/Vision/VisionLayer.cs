using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models.Vision;

/// <summary>The shape of a layer's output for one image: a feature map, or tokens (<paramref name="Height"/> counts them and <paramref name="Width"/> is 1).</summary>
/// <param name="Channels">Channels, or features of a vector or token.</param>
/// <param name="Height">Rows; 1 for a vector.</param>
/// <param name="Width">Columns; 1 for a vector.</param>
public sealed record FeatureShape(long Channels, long Height = 1, long Width = 1)
{
    /// <summary>The places that a channel has.</summary>
    public long Positions => Height * Width;

    /// <summary>As in "64×8×8".</summary>
    public override string ToString() => $"{Channels}×{Height}×{Width}";
}

/// <summary>One node of a vision net's graph. Methods watch it and change what it puts out from outside; the net itself stays plain.</summary>
public abstract class VisionLayer : IDisposable
{
    private readonly List<(string Name, Parameter Value)> _parameters = [];
    private readonly List<(string Name, Tensor Value)> _buffers = [];

    private protected VisionLayer(string name, IReadOnlyList<VisionLayer> inputs, FeatureShape shape)
    {
        (Name, Inputs, Shape) = (name, inputs, shape);
    }

    /// <summary>Its name; for a layer with tensors the prefix of their checkpoint names ("layer1.0.conv1").</summary>
    public string Name { get; }

    /// <summary>The layers that it reads.</summary>
    public IReadOnlyList<VisionLayer> Inputs { get; }

    /// <summary>What it puts out for one image.</summary>
    public FeatureShape Shape { get; }

    /// <summary>Its parameters under their full checkpoint names.</summary>
    public IReadOnlyList<(string Name, Parameter Value)> Parameters => _parameters;

    /// <summary>Tensors that belong to the checkpoint but are not trained: running statistics.</summary>
    public IReadOnlyList<(string Name, Tensor Value)> Buffers => _buffers;

    /// <summary>Multiply-accumulates for one image; norms, activations and additions count none.</summary>
    public virtual long Macs => 0;

    /// <summary>Sees the first input [images, …] before the layer runs. Must not keep or change it; null for none.</summary>
    public Action<Tensor>? InputObserver { get; set; }

    /// <summary>Sees the output [images, …], after <see cref="OutputChange"/>. Must not keep or change it; null for none.</summary>
    public Action<Tensor>? OutputObserver { get; set; }

    /// <summary>Puts another tensor of the same shape in the output's place, within the gradient's graph (gates, dynamic filters); null for none.</summary>
    public Func<Tensor, Tensor>? OutputChange { get; set; }

    /// <summary>The channels that it puts out, as those that must be cut together.</summary>
    internal ChannelSpace Channels { get; set; } = null!;

    /// <summary>How many features in a row one channel has become (after flattening a map).</summary>
    internal long FeaturesPerChannel { get; set; } = 1;

    /// <summary>Runs the layer with its observers.</summary>
    internal Tensor Run(IReadOnlyList<Tensor> inputs, bool training)
    {
        InputObserver?.Invoke(inputs[0]);
        Tensor output = Compute(inputs, training);
        output = OutputChange?.Invoke(output) ?? output;
        OutputObserver?.Invoke(output);
        return output;
    }

    /// <summary>Sets the parameters as for training from scratch.</summary>
    /// <param name="generator">The stream of this layer.</param>
    internal virtual void Initialize(Generator generator)
    {
    }

    /// <summary>The layer alone.</summary>
    private protected abstract Tensor Compute(IReadOnlyList<Tensor> inputs, bool training);

    private protected Parameter Own(string suffix, Device device, params long[] shape)
    {
        Parameter made = Models.Parameters.Empty(shape, ScalarType.Float32, device);
        _parameters.Add((Full(suffix), made));
        return made;
    }

    private protected Tensor OwnBuffer(string suffix, Device device, params long[] shape)
    {
        Tensor made = zeros(shape, ScalarType.Float32, device).DetachFromDisposeScope();
        _buffers.Add((Full(suffix), made));
        return made;
    }

    private protected static void Normal(Parameter value, double deviation, Generator generator)
    {
        using var scope = NewDisposeScope();
        value.copy_(normal(0, deviation, value.shape, ScalarType.Float32, generator: generator));
    }

    /// <summary>Releases what is neither parameter nor buffer.</summary>
    private protected virtual void DisposeOwn()
    {
    }

    private string Full(string suffix) => Name.Length == 0 ? suffix : $"{Name}.{suffix}";

    /// <inheritdoc/>
    public void Dispose()
    {
        DisposeOwn();
        _parameters.ForEach(p => p.Value.Dispose());
        _buffers.ForEach(b => b.Value.Dispose());
        GC.SuppressFinalize(this);
    }
}
