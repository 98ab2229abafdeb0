using Espalier.Models;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;
using Linear = Espalier.Models.Linear;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// A hyperbolic linear layer (HyboNet): h = W·x + b over all coordinates, lifted onto the manifold by <see cref="Lorentz.Lift"/> with a trainable scale. An adapter of its
/// <see cref="Map"/> (SST, LoRA) takes the place of W and nothing else: gradients flow through the lift.
/// </summary>
public sealed class LorentzLinear : IDisposable
{
    /// <summary>Makes a layer at HyboNet's start: W uniform in ±1/√out with column 0 zero, b zero, λ = log 10.</summary>
    /// <param name="name">Its name; W draws from a stream of its own for it.</param>
    /// <param name="inFeatures">Coordinates of a point that comes in, the time included.</param>
    /// <param name="outFeatures">Coordinates of a point that goes out.</param>
    /// <param name="seed">The seed.</param>
    /// <exception cref="EspalierException">When a point would have no space coordinate.</exception>
    public LorentzLinear(string name, long inFeatures, long outFeatures, Seed seed)
    {
        EspalierException.Require(inFeatures >= 2 && outFeatures >= 2, $"The Lorentz layer {name} cannot map {inFeatures} to {outFeatures} coordinates; a point has a time and at least one space coordinate.");
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using Generator generator = seed.Generator($"initialize {name}");
        Name = name;
        Map = new Linear(name, inFeatures, outFeatures, bias: true);
        double bound = 1 / Math.Sqrt(outFeatures);
        Map.weight.copy_((rand([outFeatures, inFeatures], generator: generator) * (2 * bound)) - bound);
        Map.weight.narrow(1, 0, 1).zero_();
        Map.bias!.zero_();
        LogScale = Parameters.Of(tensor([(float)Math.Log(10)]));
    }

    /// <summary>Its name.</summary>
    public string Name { get; }

    /// <summary>The linear map W, b.</summary>
    public Linear Map { get; }

    /// <summary>λ [1].</summary>
    public Parameter LogScale { get; }

    /// <summary>Points [..., in] to points [..., out].</summary>
    public Tensor Forward(Tensor points)
    {
        using var scope = NewDisposeScope();
        return Lorentz.Lift(Map.call(points), LogScale).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Map.Dispose();
        LogScale.Dispose();
    }
}
