using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>Wanda-sp, the structured form that FLAP is compared with: |W_ij|·√s_j averaged over outputs, summed over a head's channels.</summary>
public sealed partial class Wanda : IUnitCriterion
{
    /// <inheritdoc/>
    public Units Ranks => Units.Heads | Units.Neurons;

    /// <inheritdoc/>
    public bool ReadsActivations => true;

    /// <inheritdoc/>
    public Tensor Score(UnitContext place)
    {
        using var scope = NewDisposeScope();
        return Score(place.Weight!, place.InputNorms!, place.Name).mean([0L]).MoveToOuterDisposeScope();
    }
}
