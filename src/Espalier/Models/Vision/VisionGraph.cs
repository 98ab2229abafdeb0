using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Vision;

/// <summary>
/// Builds a net layer by layer; a family is one method that calls it. Shapes, multiply-accumulates and the groups of channels that
/// must be cut together follow from the calls. Widths of a net that was cut come from its configuration.
/// </summary>
internal sealed class VisionGraph
{
    private const long LargestMatrix = 1L << 40, LargestWidth = 1 << 28;
    private const int MostLayers = 20_000;

    private readonly List<VisionLayer> _layers = [];
    private readonly List<string> _gateable = [];
    private readonly VisionConfig _config;
    private readonly Device _device;

    public VisionGraph(VisionConfig config, Device device)
    {
        (_config, _device) = (config, device);
        Input = Plain(PlainKind.Input, [], new FeatureShape(config.Channels, config.ImageSize, config.ImageSize), _ => throw new InvalidOperationException("The images are given."), Space(CoupledKind.Channel, config.Channels));
        Input.Channels.Fix();
    }

    /// <summary>The images [images, channels, height, width].</summary>
    public VisionLayer Input { get; }

    /// <summary>The layers in the order in which they run; the last is the output.</summary>
    public IReadOnlyList<VisionLayer> Layers => _layers;

    /// <summary>The convolutions behind which a gate can stand.</summary>
    public IReadOnlyList<string> Gateable => _gateable;

    /// <summary>The variance of new weights times their inputs: 2 keeps the signal through ReLU.</summary>
    public double Gain { get; init; } = 2;

    public VisionLayer Conv(string name, VisionLayer input, long channels, int kernel, int stride = 1, int padding = 0, bool bias = false, double? gain = null)
    {
        EspalierException.Require(input.Shape.Height + (2 * padding) >= kernel && input.Shape.Width + (2 * padding) >= kernel,
            $"The filters of {name} are {kernel}×{kernel}, but only {input.Shape} reaches them; use larger images or fewer pools.");
        RequireSize(name, _config.WidthOf(name, channels), input.Shape.Channels, kernel);
        return Weighted(new ConvLayer(name, input, _config.WidthOf(name, channels), kernel, stride, padding, bias, gain ?? Gain, _device));
    }

    public VisionLayer Linear(string name, VisionLayer input, long features, double? gain = null)
    {
        RequireSize(name, _config.WidthOf(name, features), input.Shape.Channels, 1);
        return Weighted(new LinearLayer(name, input, _config.WidthOf(name, features), gain ?? Gain, _device));
    }

    public VisionLayer BatchNorm(string name, VisionLayer input) => Normalized(new BatchNormLayer(name, input, _device));

    public VisionLayer LayerNorm(string name, VisionLayer input) => Normalized(new LayerNormLayer(name, input, _device));

    public VisionLayer Relu(VisionLayer input) => Gated(Same(PlainKind.Relu, input, x => nn.functional.relu(x)), input);

    public VisionLayer Gelu(VisionLayer input) => Same(PlainKind.Gelu, input, x => nn.functional.gelu(x));

    public VisionLayer MaxPool(VisionLayer input, int kernel, int stride, int padding = 0)
    {
        FeatureShape shape = new(input.Shape.Channels, ((input.Shape.Height + (2 * padding) - kernel) / stride) + 1, ((input.Shape.Width + (2 * padding) - kernel) / stride) + 1);
        EspalierException.Require(shape is { Height: > 0, Width: > 0 }, $"A map of {input.Shape} is too small for a pool of {kernel}×{kernel}; use larger images or fewer pools.");
        return Plain(PlainKind.MaxPool, [input], shape, x => nn.functional.max_pool2d(x[0], [kernel, kernel], [stride, stride], [padding, padding]), input.Channels, kernel, stride, padding);
    }

    /// <summary>The mean of equal parts, so that <paramref name="side"/>×<paramref name="side"/> stay.</summary>
    public VisionLayer MeanPool(VisionLayer input, int side) =>
        Plain(PlainKind.MeanPool, [input], new FeatureShape(input.Shape.Channels, side, side), x => nn.functional.adaptive_avg_pool2d(x[0], [side, side]), input.Channels);

    public VisionLayer GlobalMean(VisionLayer input) =>
        Plain(PlainKind.GlobalMean, [input], new FeatureShape(input.Shape.Channels), x => x[0].mean([2, 3]), input.Channels);

    public VisionLayer Flatten(VisionLayer input)
    {
        VisionLayer flat = Plain(PlainKind.Flatten, [input], new FeatureShape(input.Shape.Channels * input.Shape.Positions), x => x[0].flatten(1), input.Channels);
        flat.FeaturesPerChannel = input.Shape.Positions;
        return flat;
    }

    /// <param name="first">The branch of a residual block: it can be gated.</param>
    /// <param name="second">What the block is added to.</param>
    public VisionLayer Add(VisionLayer first, VisionLayer second)
    {
        first = Gated(first, first);
        EspalierException.Require(first.Shape == second.Shape, $"{first.Name} ({first.Shape}) and {second.Name} ({second.Shape}) cannot be added; the widths in the configuration do not fit together.");
        first.Channels.Join(second.Channels);
        return Plain(PlainKind.Add, [first, second], first.Shape, x => x[0] + x[1], first.Channels);
    }

    /// <summary>Option A: new channels, half of them before and half behind the old ones, are zero.</summary>
    public VisionLayer PadShortcut(string name, VisionLayer input, long channels, int stride)
    {
        RequireSize(name, channels, input.Shape.Channels, 1);
        long before = (channels - input.Shape.Channels) / 2;
        IReadOnlyList<int> map = _config.MapOf(name)
            ?? [.. Enumerable.Range(0, (int)channels).Select(c => c - before is var from && from >= 0 && from < input.Shape.Channels ? (int)from : -1)];
        EspalierException.Require(map.All(m => m < input.Shape.Channels), $"The channel map of {name} names channels that its input, {input.Shape}, does not have.");
        return Placed(new PadShortcutLayer(name, input, map, stride, _device), Space(CoupledKind.Channel, map.Count));
    }

    public VisionLayer PixelShuffle(VisionLayer input, int factor)
    {
        input.Channels.Fix();
        FeatureShape shape = new(input.Shape.Channels / (factor * factor), input.Shape.Height * factor, input.Shape.Width * factor);
        var channels = Space(CoupledKind.Channel, shape.Channels);
        channels.Fix();
        return Plain(PlainKind.PixelShuffle, [input], shape, x => nn.functional.pixel_shuffle(x[0], factor), channels);
    }

    /// <summary>Adds a constant to every channel of what has fixed channels.</summary>
    public VisionLayer Shift(VisionLayer input, IReadOnlyList<double> constants) => Same(PlainKind.Shift, input, x =>
    {
        using Tensor shift = tensor(constants.Select(c => (float)c).ToArray(), device: x.device);
        using Tensor shaped = shift.view(1, -1, 1, 1);
        return x + shaped;
    }, [.. constants]);

    /// <summary>Multiplies by a constant; nothing is added to the graph for 1.</summary>
    public VisionLayer Scale(VisionLayer input, double factor) => factor == 1 ? input : Same(PlainKind.Scale, input, x => x * factor, [factor]);

    public VisionLayer Tokens(VisionLayer input)
    {
        input.Channels.Fix();
        return Placed(new TokensLayer(input, _device), input.Channels);
    }

    public VisionLayer ClassToken(VisionLayer input) =>
        Plain(PlainKind.ClassToken, [input], new FeatureShape(input.Shape.Channels), x => x[0].select(1, 0), input.Channels);

    /// <summary>Attention from a fused map; its heads can be cut.</summary>
    public VisionLayer Attention(string name, VisionLayer qkv, long headSize)
    {
        EspalierException.Require(qkv.Shape.Channels % (3 * headSize) == 0, $"{qkv.Name} puts out {qkv.Shape.Channels} features, which are not queries, keys and values of whole heads of {headSize}.");
        var attention = new AttentionLayer(name, qkv, headSize);
        var heads = Space(CoupledKind.AttentionHead, attention.Heads);
        long part = attention.Shape.Channels;
        qkv.Channels.Fix();
        heads.Write((WeightLayer)qkv, headSize, 0, part, 2 * part);
        VisionLayer placed = Placed(attention, heads);
        placed.FeaturesPerChannel = headSize;
        return placed;
    }

    /// <summary>Ends the net: what it puts out is not cut.</summary>
    public void Output(VisionLayer last) => last.Channels.Fix();

    // Sizes come from a file that may lie; nothing is taken or computed from them before this.
    private void RequireSize(string name, long outputs, long inputs, long kernel) => EspalierException.Require(
        outputs is >= 1 and <= LargestWidth && inputs is >= 1 and <= LargestWidth && (UInt128)(ulong)outputs * (ulong)inputs * (ulong)kernel * (ulong)kernel <= LargestMatrix,
        $"{_config.Fields.Origin} gives {name} {outputs} outputs of {inputs} inputs{(kernel > 1 ? $" and filters of {kernel}×{kernel}" : "")}, which is no possible size; the file is damaged.");

    private ChannelSpace Space(CoupledKind kind, long count) => new(kind, count, _layers.Count);

    private VisionLayer Weighted(WeightLayer layer)
    {
        VisionLayer input = layer.Inputs[0];
        input.Channels.Read(layer, input.FeaturesPerChannel);
        var channels = Space(layer is ConvLayer ? CoupledKind.Channel : CoupledKind.Neuron, layer.Rows);
        channels.Write(layer);
        return Placed(layer, channels);
    }

    // Behind convolution and batch norm, where the configuration wants a gate there.
    private VisionLayer Gated(VisionLayer output, VisionLayer norm)
    {
        if (norm is not BatchNormLayer { Inputs: [ConvLayer convolution] })
        {
            return output;
        }

        _gateable.Add(convolution.Name);
        return _config.Gates?.Layers.Contains(convolution.Name) == true
            ? Placed(new GateLayer(convolution, output, _config.Gates, _device), output.Channels)
            : output;
    }

    private VisionLayer Normalized(VisionLayer layer)
    {
        layer.Inputs[0].Channels.Normalize(layer);
        return Placed(layer, layer.Inputs[0].Channels);
    }

    private VisionLayer Same(PlainKind kind, VisionLayer input, Func<Tensor, Tensor> function, params double[] settings)
    {
        VisionLayer layer = Plain(kind, [input], input.Shape, x => function(x[0]), input.Channels, settings);
        layer.FeaturesPerChannel = input.FeaturesPerChannel;
        return layer;
    }

    private VisionLayer Plain(PlainKind kind, IReadOnlyList<VisionLayer> inputs, FeatureShape shape, Func<IReadOnlyList<Tensor>, Tensor> function, ChannelSpace channels, params double[] settings) =>
        Placed(new PlainLayer(kind, inputs.Count == 0 ? "images" : $"{inputs[0].Name}/{kind.ToString().ToLowerInvariant()}", inputs, shape, function) { Settings = settings }, channels);

    private VisionLayer Placed(VisionLayer layer, ChannelSpace channels)
    {
        EspalierException.Require(_layers.Count < MostLayers, $"{_config.Fields.Origin} describes more than {MostLayers} layers; the file is damaged.");
        layer.Channels = channels;
        _layers.Add(layer);
        return layer;
    }
}
