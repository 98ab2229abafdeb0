using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>Mag-sp, the structured baseline without data: the L2 norm of the reader's column, summed over a head's channels.</summary>
public sealed partial class Magnitude : IUnitCriterion
{
    /// <inheritdoc/>
    public Units Ranks => Units.Heads | Units.Neurons;

    /// <inheritdoc/>
    public bool ReadsActivations => false;

    /// <inheritdoc/>
    public Tensor Score(UnitContext place)
    {
        using var scope = NewDisposeScope();
        RequireFinite(place.Weight!, place.Name);
        return place.Weight!.detach().pow(2).sum([0L]).sqrt().MoveToOuterDisposeScope();
    }
}
