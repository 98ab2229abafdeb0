using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Vision;

public sealed partial class VisionModel
{
    /// <summary>The gates, in order; empty in most nets.</summary>
    public IReadOnlyList<GateLayer> Gates { get; }

    /// <summary>The convolutions that can be gated: those with a batch norm before a ReLU or at the end of a residual branch.</summary>
    public IReadOnlyList<string> Gateable { get; }

    /// <summary>The same net with gates, whose predictors are random. This net stays as it is.</summary>
    /// <param name="gates">Which convolutions, and how.</param>
    /// <param name="seed">The seed of the predictors.</param>
    /// <exception cref="EspalierException">When a convolution cannot be gated, or the net has gates already.</exception>
    public VisionModel WithGates(GateConfig gates, Seed seed)
    {
        EspalierException.Require(Gates.Count == 0, "The net has gates already; start from the net without them.");
        VisionModel gated = Rebuilt(Config.WithGates(gates));
        using var frozen = no_grad();
        foreach (GateLayer gate in gated.Gates)
        {
            using Generator generator = seed.Generator($"initialize {gate.Name}");
            gate.Initialize(generator);
        }

        return gated;
    }

    /// <summary>The same net without its gates: every filter counts for every image. This net stays as it is.</summary>
    public VisionModel WithoutGates() => Rebuilt(Config.WithGates(null));

    // What both nets have is copied.
    private VisionModel Rebuilt(VisionConfig config)
    {
        var other = new VisionModel(config, Device) { Training = Training };
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Dictionary<string, Tensor> values = Tensors.ToDictionary(t => t.Name, t => t.Value);
        foreach ((string name, Tensor value) in other.Tensors.Where(t => values.ContainsKey(t.Name)))
        {
            value.copy_(values[name]);
        }

        return other;
    }
}
