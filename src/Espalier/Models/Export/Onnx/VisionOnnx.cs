using System.Globalization;
using Espalier.Checkpoints.Onnx;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Export.Onnx;

/// <summary>A vision net as a graph, layer by layer: <c>images</c> [batch, channels, height, width] to <c>logits</c> [batch, classes] or to <c>output</c> images. Gates go along.</summary>
internal sealed class VisionOnnx
{
    private readonly OnnxBuilder _b;
    private readonly Dictionary<VisionLayer, string> _values = [];

    private VisionOnnx(VisionModel model, OnnxType type) => _b = new OnnxBuilder(model.Config.ModelType, type);

    /// <summary>The name of what a net puts out.</summary>
    public static string OutputName(VisionModel model) => PutsOutImages(model) ? "output" : "logits";

    /// <summary>Whether it puts out images and not classes.</summary>
    public static bool PutsOutImages(VisionModel model) => model.Layers[^1].Shape.Positions > 1;

    /// <summary>Builds the graph of a net.</summary>
    /// <param name="model">The net; its values are read when the graph is written.</param>
    /// <param name="type">How weights are stored.</param>
    public static OnnxBuilder Build(VisionModel model, OnnxType type)
    {
        var graph = new VisionOnnx(model, type);
        FeatureShape images = model.Layers[0].Shape;

        // A net of images to images is one of convolutions, for which any size will do.
        bool anySize = PutsOutImages(model);
        graph._values[model.Layers[0]] = graph._b.Input("images", OnnxType.F32, "batch", images.Channels, anySize ? "height" : images.Height, anySize ? "width" : images.Width);
        foreach (VisionLayer layer in model.Layers.Skip(1))
        {
            graph._values[layer] = graph.Translate(layer, [.. layer.Inputs.Select(i => graph._values[i])]);
        }

        string name = OutputName(model);
        if (anySize)
        {
            graph._b.Output(name, OnnxType.F32, "batch", model.Layers[^1].Shape.Channels, "output height", "output width");
        }
        else
        {
            graph._b.Output(name, OnnxType.F32, "batch", model.Layers[^1].Shape.Channels);
        }

        graph._b.Node("Identity", [graph._values[model.Layers[^1]]], name);
        return graph._b;
    }

    private string Translate(VisionLayer layer, string[] x) => layer switch
    {
        ConvLayer conv => Node("Conv", Inputs(x[0], conv), ("kernel_shape", Pair(conv.Kernel)), ("strides", Pair(conv.Stride)), ("pads", new long[] { conv.Padding, conv.Padding, conv.Padding, conv.Padding })),
        LinearLayer linear => Linear(x[0], linear.WeightName, linear.Weight, linear.Bias is null ? null : Held(linear, linear.Bias)),
        BatchNormLayer norm => Node("BatchNormalization", [x[0], Held(norm, norm.Weight), Held(norm, norm.Bias), Held(norm, norm.RunningMean), Held(norm, norm.RunningVariance)], ("epsilon", (float)BatchNormLayer.Epsilon)),
        LayerNormLayer norm => Node("LayerNormalization", [x[0], Held(norm, norm.Weight), Held(norm, norm.Bias)], ("axis", -1L), ("epsilon", (float)LayerNormLayer.Epsilon)),
        PadShortcutLayer shortcut => Shortcut(x[0], shortcut),
        TokensLayer tokens => Tokens(x[0], tokens),
        AttentionLayer attention => Attention(x[0], attention),
        GateLayer gate => Gate(x[0], x[1], gate),
        PlainLayer plain => Plain(x, plain),
        _ => throw new EspalierException($"The layer {layer.Name} has no translation into ONNX operators; the net cannot be exported to ONNX."),
    };

    private string Plain(string[] x, PlainLayer layer)
    {
        switch (layer.Kind)
        {
            case PlainKind.Relu:
                return Node("Relu", x);
            case PlainKind.Gelu:
                string erf = Node("Erf", [Node("Div", [x[0], _b.Scalar((float)Math.Sqrt(2))])]);
                return Node("Mul", [Node("Mul", [x[0], Node("Add", [erf, _b.Scalar(1f)])]), _b.Scalar(0.5f)]);
            case PlainKind.MaxPool:
                (long kernel, long stride, long padding) = ((long)layer.Settings[0], (long)layer.Settings[1], (long)layer.Settings[2]);
                return Node("MaxPool", x, ("kernel_shape", Pair(kernel)), ("strides", Pair(stride)), ("pads", new[] { padding, padding, padding, padding }));
            case PlainKind.MeanPool:
                return MeanPool(x[0], layer.Inputs[0].Shape, layer.Shape.Height);
            case PlainKind.GlobalMean:
                return Node("ReduceMean", x, ("axes", new long[] { 2, 3 }), ("keepdims", 0L));
            case PlainKind.Flatten:
                return Node("Reshape", [x[0], _b.List(0, -1)]);
            case PlainKind.Add:
                return Node("Add", x);
            case PlainKind.PixelShuffle:
                return Node("DepthToSpace", x, ("blocksize", layer.Shape.Height / layer.Inputs[0].Shape.Height), ("mode", "CRD"));
            case PlainKind.Shift:
                float[] constants = [.. layer.Settings.Select(s => (float)s)];
                return Node("Add", [x[0], _b.Weight($"shift {_values.Count}", [1, constants.Length, 1, 1], () => tensor(constants).view(1, -1, 1, 1), exact: true)]);
            case PlainKind.Scale:
                float factor = (float)layer.Settings[0];
                return Node("Mul", [x[0], _b.Weight($"scale {_values.Count}", [1], () => tensor([factor]), exact: true)]);
            case PlainKind.ClassToken:
                return Node("Gather", [x[0], _b.Scalar(0L)], ("axis", 1L));
            default:
                throw new EspalierException($"The layer {layer.Name} has no translation into ONNX operators; the net cannot be exported to ONNX.");
        }
    }

    // The standard's pools know no parts of unequal size; means over rows, then over columns, are two products.
    private string MeanPool(string x, FeatureShape from, long side)
    {
        string rows = Node("MatMul", [Parts(side, from.Height), x]);
        return Node("MatMul", [rows, Node("Transpose", [Parts(side, from.Width)], ("perm", new long[] { 1, 0 }))]);

        string Parts(long count, long length) => _b.Weight(string.Create(CultureInfo.InvariantCulture, $"means of {length} in {count}"), [count, length], () =>
        {
            Tensor parts = zeros(count, length);
            for (long i = 0; i < count; i++)
            {
                (long start, long end) = (i * length / count, (((i + 1) * length) + count - 1) / count);
                parts[i].narrow(0, start, end - start).fill_(1.0 / (end - start));
            }

            return parts;
        }, exact: true);
    }

    private string Shortcut(string x, PadShortcutLayer layer)
    {
        long[] sources = [.. layer.Map.Select(m => (long)Math.Max(0, m))];
        float[] present = [.. layer.Map.Select(m => m < 0 ? 0f : 1f)];
        string fewer = Node("Slice", [x, _b.List(0, 0), _b.List(long.MaxValue, long.MaxValue), _b.List(2, 3), _b.List(layer.Stride, layer.Stride)]);
        return Node("Mul", [Node("Gather", [fewer, _b.List(sources)], ("axis", 1L)), _b.Weight($"{layer.Name}.present", [1, present.Length, 1, 1], () => tensor(present).view(1, -1, 1, 1), exact: true)]);
    }

    private string Tokens(string x, TokensLayer layer)
    {
        string patches = Node("Transpose", [Node("Reshape", [x, _b.List(0, layer.Shape.Channels, -1)])], ("perm", new long[] { 0, 2, 1 }));
        string batch = Node("Unsqueeze", [Node("Gather", [Node("Shape", [x]), _b.Scalar(0L)], ("axis", 0L)), _b.List(0)]);
        string first = Node("Expand", [Held("cls_token", layer.ClassToken), Node("Concat", [batch, _b.List(1, layer.Shape.Channels)], ("axis", 0L))]);
        return Node("Add", [Node("Concat", [first, patches], ("axis", 1L)), Held("pos_embed", layer.Positions)]);
    }

    private string Attention(string x, AttentionLayer layer)
    {
        string heads = Node("Transpose", [Node("Reshape", [x, _b.List(0, 0, 3, layer.Heads, layer.HeadSize)])], ("perm", new long[] { 2, 0, 3, 1, 4 }));
        string q = Part(0), k = Part(1), v = Part(2);
        string scores = Node("MatMul", [Node("Mul", [q, _b.Scalar((float)(1 / Math.Sqrt(layer.HeadSize)))]), Node("Transpose", [k], ("perm", new long[] { 0, 1, 3, 2 }))]);
        string mixed = Node("Transpose", [Node("MatMul", [Node("Softmax", [scores], ("axis", -1L)), v])], ("perm", new long[] { 0, 2, 1, 3 }));
        return Node("Reshape", [mixed, _b.List(0, 0, layer.Shape.Channels)]);

        string Part(long index) => Node("Gather", [heads, _b.Scalar(index)], ("axis", 0L));
    }

    private string Gate(string x, string output, GateLayer gate)
    {
        string pooled = gate.Side == 1
            ? Node("ReduceMean", [x], ("axes", new long[] { 2, 3 }), ("keepdims", 0L))
            : Node("Reshape", [MeanPool(x, gate.Convolution.Inputs[0].Shape, gate.Side), _b.List(0, -1)]);
        string logits = Linear(gate.Softmax ? Node("Softmax", [pooled], ("axis", 1L)) : pooled, $"{gate.Name}.weight", gate.Weight, Held(gate, gate.Bias)), zero = _b.Scalar(0f);
        string open = Node("Less", [zero, logits]);
        if (gate.KeepTop)
        {
            string top = Node("ReduceMax", [logits], ("axes", new long[] { 1 }), ("keepdims", 1L));
            open = Node("Or", [open, Node("And", [Node("GreaterOrEqual", [logits, top]), Node("GreaterOrEqual", [zero, top])])]);
        }

        return Node("Mul", [output, Node("Unsqueeze", [Node("Cast", [open], ("to", (long)OnnxType.F32)), _b.List(2, 3)])]);
    }

    private string Linear(string x, string name, Tensor weight, string? bias)
    {
        string product = Node("MatMul", [x, _b.Weight(name, [.. weight.shape.Reverse()], () => weight.detach().t().contiguous())]);
        return bias is null ? product : Node("Add", [product, bias]);
    }

    private string[] Inputs(string x, WeightLayer layer) => [x, Held(layer, layer.Weight), .. layer.Bias is null ? [] : (string[])[Held(layer, layer.Bias)]];

    private string Held(VisionLayer layer, Tensor value) =>
        Held(layer.Parameters.Select(p => (p.Name, (Tensor)p.Value)).Concat(layer.Buffers).First(t => ReferenceEquals(t.Item2, value)).Name, value);

    private string Held(string name, Tensor value) => _b.Weight(name, value.shape, () => value.detach().cpu().clone());

    private string Node(string operation, string[] from, params (string Name, object Value)[] attributes) => _b.Node(operation, from, attributes);

    private static long[] Pair(long number) => [number, number];
}
