using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models.Vision;

/// <summary>What a layer without weights does.</summary>
public enum PlainKind
{
    /// <summary>The images themselves.</summary>
    Input,

    /// <summary>max(x, 0).</summary>
    Relu,

    /// <summary>x·Φ(x), exact.</summary>
    Gelu,

    /// <summary>The largest value under a window.</summary>
    MaxPool,

    /// <summary>The mean under equal parts of the map.</summary>
    MeanPool,

    /// <summary>The mean over the whole map: a vector.</summary>
    GlobalMean,

    /// <summary>The map as one vector.</summary>
    Flatten,

    /// <summary>The sum of several maps.</summary>
    Add,

    /// <summary>Channels become finer pixels.</summary>
    PixelShuffle,

    /// <summary>A constant added to every channel.</summary>
    Shift,

    /// <summary>A constant that all is multiplied by.</summary>
    Scale,

    /// <summary>The first of all tokens.</summary>
    ClassToken,
}

/// <summary>A layer without tensors of its own.</summary>
public sealed class PlainLayer : VisionLayer
{
    private readonly Func<IReadOnlyList<Tensor>, Tensor> _function;

    internal PlainLayer(PlainKind kind, string name, IReadOnlyList<VisionLayer> inputs, FeatureShape shape, Func<IReadOnlyList<Tensor>, Tensor> function)
        : base(name, inputs, shape)
    {
        (Kind, _function) = (kind, function);
    }

    /// <summary>What it does.</summary>
    public PlainKind Kind { get; }

    /// <summary>What its kind is set by: kernel, stride and padding of a <see cref="PlainKind.MaxPool"/>, the constants of a <see cref="PlainKind.Shift"/> or <see cref="PlainKind.Scale"/>.</summary>
    public IReadOnlyList<double> Settings { get; internal init; } = [];

    private protected override Tensor Compute(IReadOnlyList<Tensor> inputs, bool training) => _function(inputs);
}

/// <summary>
/// A shortcut without weights between stages (He et al. 2016, option A): every second pixel, and each output channel is a channel
/// of the input or zero.
/// </summary>
public sealed class PadShortcutLayer : VisionLayer
{
    private readonly int _stride;
    private readonly Tensor _sources, _present;

    internal PadShortcutLayer(string name, VisionLayer input, IReadOnlyList<int> map, int stride, Device device)
        : base(name, [input], new FeatureShape(map.Count, (input.Shape.Height + stride - 1) / stride, (input.Shape.Width + stride - 1) / stride))
    {
        (Map, _stride) = (map, stride);
        using var scope = NewDisposeScope();
        _sources = tensor([.. map.Select(m => (long)Math.Max(0, m))], ScalarType.Int64).to(device).DetachFromDisposeScope();
        _present = tensor([.. map.Select(m => m < 0 ? 0f : 1f)]).view(1, -1, 1, 1).to(device).DetachFromDisposeScope();
    }

    /// <summary>The step between the pixels that it takes.</summary>
    public int Stride => _stride;

    /// <summary>For each output channel the input channel that it is; −1 where it is zero.</summary>
    public IReadOnlyList<int> Map { get; }

    private protected override Tensor Compute(IReadOnlyList<Tensor> inputs, bool training)
    {
        using var scope = NewDisposeScope();
        Tensor fewer = inputs[0][.., .., TensorIndex.Slice(null, null, _stride), TensorIndex.Slice(null, null, _stride)];
        return (fewer.index_select(1, _sources) * _present).MoveToOuterDisposeScope();
    }

    private protected override void DisposeOwn()
    {
        _sources.Dispose();
        _present.Dispose();
    }
}

/// <summary>Patches of a map as tokens, behind a class token, with learned positions: cls_token [1, 1, features], pos_embed [1, tokens, features].</summary>
public sealed class TokensLayer : VisionLayer
{
    private readonly Parameter _class, _positions;

    /// <summary>The token in front of all others [1, 1, features].</summary>
    public Parameter ClassToken => _class;

    /// <summary>What is added to each token [1, tokens, features].</summary>
    public Parameter Positions => _positions;

    internal TokensLayer(VisionLayer input, Device device)
        : base("", [input], new FeatureShape(input.Shape.Channels, input.Shape.Positions + 1))
    {
        _class = Own("cls_token", device, 1, 1, Shape.Channels);
        _positions = Own("pos_embed", device, 1, Shape.Height, Shape.Channels);
    }

    internal override void Initialize(Generator generator)
    {
        Normal(_class, VisionTransformer.Deviation, generator);
        Normal(_positions, VisionTransformer.Deviation, generator);
    }

    private protected override Tensor Compute(IReadOnlyList<Tensor> inputs, bool training)
    {
        using var scope = NewDisposeScope();
        Tensor patches = inputs[0].flatten(2).transpose(1, 2);
        return (cat([_class.expand(patches.shape[0], 1, Shape.Channels), patches], 1) + _positions).MoveToOuterDisposeScope();
    }
}

/// <summary>Self-attention of all tokens from fused queries, keys and values [images, tokens, 3·heads·size] to [images, tokens, heads·size].</summary>
public sealed class AttentionLayer : VisionLayer
{
    private readonly long _size;

    internal AttentionLayer(string name, VisionLayer qkv, long headSize)
        : base(name, [qkv], qkv.Shape with { Channels = qkv.Shape.Channels / 3 })
    {
        _size = headSize;
    }

    /// <summary>The width of a head.</summary>
    public long HeadSize => _size;

    /// <summary>The heads.</summary>
    public long Heads => Shape.Channels / _size;

    /// <summary>Computes the output [images, tokens, heads·size] from the fused queries, keys and values in another way, within the gradient's graph (rounded attention); null for the usual one.</summary>
    public Func<Tensor, Tensor>? Mixing { get; set; }

    /// <inheritdoc/>
    public override long Macs => 2 * Shape.Height * Shape.Height * Shape.Channels;

    private protected override Tensor Compute(IReadOnlyList<Tensor> inputs, bool training)
    {
        if (Mixing is not null)
        {
            return Mixing(inputs[0]);
        }

        using var scope = NewDisposeScope();
        long images = inputs[0].shape[0], tokens = Shape.Height;
        Tensor[] parts = [.. inputs[0].view(images, tokens, 3, Heads, _size).permute(2, 0, 3, 1, 4).unbind(0)];
        Tensor mixed = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2]);
        return mixed.transpose(1, 2).reshape(images, tokens, Shape.Channels).MoveToOuterDisposeScope();
    }
}
