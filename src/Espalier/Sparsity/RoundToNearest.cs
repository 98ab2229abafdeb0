using Espalier.Catalogue;
using Espalier.Sparsity.Packed;

namespace Espalier.Sparsity;

/// <summary>Every kept weight becomes the nearest number of the grid; nothing makes up for the error. What <c>espalier pack</c> does as well.</summary>
[Method("rtn", "Round to nearest", Family = "Quantization", Source = "the baseline of the quantisation literature",
    Summary = "Rounds every kept weight to the nearest number that 8 or 4 bits hold; the default quantiser.", Fits = "quantiser; any criterion, mask pattern, allocator, repair and retraining; also without pruning")]
public sealed class RoundToNearest : IWeightQuantiser
{
    /// <inheritdoc/>
    public CalibrationNeeds Needs => CalibrationNeeds.None;

    /// <inheritdoc/>
    public PrunedLayer Quantise(LayerContext layer, PrunedLayer pruned, PackedType type) => pruned with { Weight = Grid.Round(pruned.Weight, type) };
}
