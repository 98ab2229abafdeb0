using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>The activation functions by the names that config files use.</summary>
internal static class Activations
{
    private static readonly Dictionary<string, Func<Tensor, Tensor>> ByName = new(StringComparer.Ordinal)
    {
        ["silu"] = x => x.silu(),
        ["swish"] = x => x.silu(),
        ["relu"] = x => x.relu(),
        ["relu2"] = SquaredRelu,
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

    /// <summary>The function of this name; the config that named it has been checked.</summary>
    public static Func<Tensor, Tensor> Named(string name) => ByName[name];

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
