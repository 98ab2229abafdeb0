using Espalier.Checkpoints;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Export.Onnx;

/// <summary>Layers as standard operators; their weights are a checkpoint's, by name.</summary>
/// <param name="b">The graph.</param>
/// <param name="source">The checkpoint.</param>
internal sealed class OnnxLayers(OnnxBuilder b, ITensorSource source)
{
    /// <summary>x Wᵀ + b over the last axis; the bias where the checkpoint has one. The weight is held as [in, out].</summary>
    public string Linear(string x, string name, WeightLayout layout = WeightLayout.OutIn)
    {
        string weight = $"{name}.weight", bias = $"{name}.bias";
        IReadOnlyList<long> stored = source.Info(weight).Shape;
        string product = layout is WeightLayout.InOut
            ? b.Node("MatMul", [x, Weight(weight)])
            : b.Node("MatMul", [x, b.Weight(weight, [.. stored.Reverse()], () => Read(weight).t().contiguous())]);
        return source.Contains(bias) ? b.Node("Add", [product, Weight(bias)]) : product;
    }

    /// <summary>x Wᵀ with a table that is also looked up in: the tied head.</summary>
    public string Tied(string x, string table) => b.Node("MatMul", [x, b.Node("Transpose", [Weight($"{table}.weight")], ("perm", new long[] { 1, 0 }))]);

    /// <summary>Rows of a table.</summary>
    public string Lookup(string table, string rows) => b.Node("Gather", [Weight($"{table}.weight"), rows]);

    /// <summary>Layer normalisation over the last axis, with the gain and shift that the checkpoint has.</summary>
    public string LayerNorm(string x, string name, long width, double epsilon)
    {
        string gain = source.Contains($"{name}.weight") ? Weight($"{name}.weight") : b.Weight($"ones {width}", [width], () => ones(width));
        string[] from = source.Contains($"{name}.bias") ? [x, gain, Weight($"{name}.bias")] : [x, gain];
        return b.Node("LayerNormalization", from, ("axis", -1L), ("epsilon", (float)epsilon));
    }

    /// <summary>Root-mean-square normalisation over the last axis, in the steps that runtimes recognise and fuse.</summary>
    public string RmsNorm(string x, string name, double epsilon)
    {
        string square = b.Node("Pow", [x, b.Scalar(2f)]);
        string mean = b.Node("ReduceMean", [square], ("axes", new long[] { -1 }), ("keepdims", 1L));
        string size = b.Node("Sqrt", [b.Node("Add", [mean, b.Scalar((float)epsilon)])]);
        return b.Node("Mul", [b.Node("Div", [x, size]), Weight($"{name}.weight")]);
    }

    /// <summary>The activation of a configuration.</summary>
    /// <exception cref="EspalierException">For one that has no translation.</exception>
    public string Activate(string x, ModelConfig config)
    {
        switch (config.Activation)
        {
            case "silu" or "swish":
                return b.Node("Mul", [x, b.Node("Sigmoid", [x])]);
            case "relu":
                return b.Node("Relu", [x]);
            case "relu2":
                return b.Node("Pow", [b.Node("Relu", [x]), b.Scalar(2f)]);
            case Activations.FatReluName:
                return b.Node("Where", [b.Node("Less", [x, b.Scalar((float)config.ActivationThreshold)]), b.Scalar(0f), x]);
            case "gelu" or "gelu_python":
                string erf = b.Node("Erf", [b.Node("Div", [x, b.Scalar((float)Math.Sqrt(2))])]);
                return b.Node("Mul", [b.Node("Mul", [x, b.Node("Add", [erf, b.Scalar(1f)])]), b.Scalar(0.5f)]);
            case "gelu_new" or "gelu_fast" or "gelu_accurate" or "gelu_pytorch_tanh":
                string cube = b.Node("Mul", [b.Node("Pow", [x, b.Scalar(3f)]), b.Scalar(0.044715f)]);
                string tanh = b.Node("Tanh", [b.Node("Mul", [b.Node("Add", [x, cube]), b.Scalar((float)Math.Sqrt(2 / Math.PI))])]);
                return b.Node("Mul", [b.Node("Mul", [x, b.Node("Add", [tanh, b.Scalar(1f)])]), b.Scalar(0.5f)]);
            case "quick_gelu":
                return b.Node("Mul", [x, b.Node("Sigmoid", [b.Node("Mul", [x, b.Scalar(1.702f)])])]);
            case "tanh":
                return b.Node("Tanh", [x]);
            case "sigmoid":
                return b.Node("Sigmoid", [x]);
            default:
                throw new EspalierException($"{config.Fields.Origin}: the activation '{config.Activation}' has no translation into ONNX operators; the model cannot be exported to ONNX.");
        }
    }

    private string Weight(string name) => b.Weight(name, source.Info(name).Shape, () => Read(name));

    private Tensor Read(string name) => source.Read(name, ScalarType.Float32);
}
