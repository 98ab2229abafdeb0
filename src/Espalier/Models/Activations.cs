using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>The activation functions by the names that config files use.</summary>
internal static class Activations
{
    /// <summary>The ReLU with a threshold, as published ProSparse models name it; the threshold is <c>hidden_act_param</c>.</summary>
    public const string FatReluName = "fatrelu";

    private static readonly Dictionary<string, Func<Tensor, Tensor>> ByName = new(StringComparer.Ordinal)
    {
        ["silu"] = x => x.silu(),
        ["swish"] = x => x.silu(),
        ["relu"] = x => x.relu(),
        ["relu2"] = SquaredRelu,
        [FatReluName] = x => FatRelu(x, 0),
        ["gelu"] = x => x.gelu(),
        ["gelu_python"] = x => x.gelu(),
        ["gelu_new"] = TanhGelu,
        ["gelu_fast"] = TanhGelu,
        ["gelu_accurate"] = TanhGelu,
        ["gelu_pytorch_tanh"] = TanhGelu,
        ["quick_gelu"] = QuickGelu,
        ["tanh"] = x => x.tanh(),
        ["sigmoid"] = x => x.sigmoid(),
    };

    /// <summary>The names that are known.</summary>
    public static IReadOnlyCollection<string> Names => ByName.Keys;

    /// <summary>Whether a function is exactly 0 over a range of inputs, so that neurons are inactive.</summary>
    public static bool GivesZeros(string name) => name is "relu" or "relu2" or FatReluName;

    /// <summary>The function of a configuration, which has been checked.</summary>
    public static Func<Tensor, Tensor> Of(ModelConfig config)
    {
        double threshold = config.ActivationThreshold;
        return threshold == 0 ? ByName[config.Activation] : x => FatRelu(x, threshold);
    }

    /// <summary>x where x ≥ t, else 0; not shifted by t.</summary>
    public static Tensor FatRelu(Tensor x, double threshold)
    {
        using Tensor below = x.lt(threshold);
        return x.masked_fill(below, 0);
    }

    /// <summary>GELU by its tanh approximation; the names above differ only in how they round √(2/π).</summary>
    private static Tensor TanhGelu(Tensor x) => nn.functional.gelu(x, TorchSharp.Modules.GELU.Approximate.tanh);

    private static Tensor SquaredRelu(Tensor x)
    {
        using Tensor positive = x.relu();
        return positive.square();
    }

    /// <summary>x · σ(1.702 x).</summary>
    private static Tensor QuickGelu(Tensor x)
    {
        using Tensor scaled = x * 1.702;
        using Tensor gate = scaled.sigmoid();
        return x * gate;
    }
}
