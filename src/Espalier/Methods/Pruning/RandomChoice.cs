using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>Chooses by lot, from the plan's seed: the baseline that shows what a criterion is worth. Needs no data.</summary>
[Method("random", "Random choice", Family = "Pruning", Source = "the usual baseline",
    Summary = "Removes weights or units by lot: the baseline that shows what a criterion is worth.",
    Fits = "criterion of weights, heads, neurons, channels and layers; any pattern, allocator, repair and retraining")]
public sealed class RandomChoice : IUnitCriterion
{
    /// <inheritdoc/>
    public CalibrationNeeds Needs => CalibrationNeeds.None;

    /// <inheritdoc/>
    public Scope DefaultScope => Scope.Layer;

    /// <inheritdoc/>
    public Units Ranks => Units.Heads | Units.Neurons | Units.Channels | Units.Layers;

    /// <inheritdoc/>
    public bool ReadsActivations => false;

    /// <inheritdoc/>
    public Tensor Score(LayerContext layer) => Draw(layer.Seed, layer.Name, layer.Weight.shape).to(layer.Weight.device);

    /// <inheritdoc/>
    public Tensor Score(UnitContext place) => Draw(place.Seed, place.Name, [place.Width]);

    /// <inheritdoc/>
    public double Layer(int index, Tensor? input, Tensor? output, Seed seed) => seed.Random($"random layer {index}").NextDouble();

    // Above 0, as a global ranking needs.
    private static Tensor Draw(Seed seed, string name, long[] shape)
    {
        using Generator generator = seed.Generator($"random {name}");
        using Tensor drawn = rand(shape, generator: generator);
        return 1 - drawn;
    }
}
