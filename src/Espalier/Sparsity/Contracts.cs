using Espalier.Runtime;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>What a criterion or repair must know of a layer's inputs; the one calibration pass collects what the plan's parts ask for.</summary>
[Flags]
public enum CalibrationNeeds
{
    /// <summary>Nothing: the weights are enough.</summary>
    None = 0,

    /// <summary><see cref="LayerContext.InputNorms"/>.</summary>
    InputNorms = 1,

    /// <summary><see cref="LayerContext.Hessian"/>.</summary>
    Hessian = 2,

    /// <summary><see cref="LayerContext.InputMean"/>, <see cref="LayerContext.InputVariance"/> and <see cref="LayerContext.WithinVariance"/>.</summary>
    InputMoments = 4,
}

/// <summary>One linear map as the parts of a plan see it.</summary>
public sealed class LayerContext
{
    /// <summary>The name of its weight in the checkpoint.</summary>
    public required string Name { get; init; }

    /// <summary>The dense weight W [out, in], float32. Read only.</summary>
    public required Tensor Weight { get; init; }

    /// <summary>Wanda's s [in], float32: the mean over calibration sequences of ‖X[:, j]‖².</summary>
    public Tensor? InputNorms { get; init; }

    /// <summary>SparseGPT's raw H [in, in]: (2/N)·Σ x xᵀ over all tokens, N counting sequences; undamped.</summary>
    public Tensor? Hessian { get; init; }

    /// <summary>The mean over all tokens of each input [in].</summary>
    public Tensor? InputMean { get; init; }

    /// <summary>The population variance over all tokens of each input [in].</summary>
    public Tensor? InputVariance { get; init; }

    /// <summary>The mean over tokens of the population variance within their sequence, of each input [in]: what moves around a sequence's own mean.</summary>
    public Tensor? WithinVariance { get; init; }

    /// <summary>The mean number of tokens per calibration sequence; 0 where none was seen.</summary>
    public double TokensPerSequence { get; init; }

    /// <summary>The plan's seed, for criteria that draw.</summary>
    public Seed Seed { get; init; }
}

/// <summary>A weight and the mask that belongs to it.</summary>
/// <param name="Weight">[out, in], float32, exactly 0 where <paramref name="Keep"/> is false.</param>
/// <param name="Keep">[out, in], bool: true stays.</param>
public sealed record PrunedLayer(Tensor Weight, Tensor Keep)
{
    /// <summary>What is added to the map's bias [out]; null where the repair changes weights alone.</summary>
    public Tensor? BiasChange { get; init; }
}

/// <summary>Gives every weight of a layer an importance.</summary>
public interface ICriterion
{
    /// <summary>What it must know of the layer's inputs.</summary>
    CalibrationNeeds Needs { get; }

    /// <summary>The scope of its paper, used where the plan names none.</summary>
    Scope DefaultScope { get; }

    /// <summary>The importance of every weight: the smallest are pruned first.</summary>
    /// <returns>[out, in], float32, finite.</returns>
    Tensor Score(LayerContext layer);
}

/// <summary>A criterion that also has a rule of its own for turning scores into a mask (Wanda's variant, magnitude's published threshold).</summary>
public interface IMaskingCriterion : ICriterion
{
    /// <summary>Whether that rule is switched on and removes another number of weights than floor(n·sparsity).</summary>
    bool HasOwnCount { get; }

    /// <summary>The mask by the criterion's own rule, or null where the shared exact selection applies.</summary>
    /// <param name="layer">The dense layer.</param>
    /// <param name="pattern">What may be removed.</param>
    /// <param name="scope">Which weights the plan ranks together; never the default.</param>
    /// <param name="sparsity">The share of this layer to remove.</param>
    /// <returns>[out, in], bool: true stays.</returns>
    Tensor? Keep(LayerContext layer, Pattern pattern, Scope scope, double sparsity);
}

/// <summary>Changes kept weights (or, within the same sparsity, the mask) of one layer without gradients, after the mask is known.</summary>
public interface IRepair
{
    /// <summary>What it must know of the layer's inputs.</summary>
    CalibrationNeeds Needs { get; }

    /// <summary>The repaired layer: as many zeros as before, in a pattern that the plan allows.</summary>
    PrunedLayer Repair(LayerContext layer, PrunedLayer pruned, Pattern pattern);
}

/// <summary>A repair that answers removed weights with a bias (<see cref="PrunedLayer.BiasChange"/>): it needs a map that has one, so the plan gives the model biases where its family knows them.</summary>
public interface IBiasRepair : IRepair
{
}

/// <summary>A repair that can answer whole removed inputs with a bias, as cutting units leaves them.</summary>
public interface IUnitBiasRepair : IBiasRepair
{
    /// <summary>What the bias has to add so that the map's mean output stays.</summary>
    /// <param name="dense">W [out, in] before anything was removed.</param>
    /// <param name="pruned">W′ [out, in], 0 where removed.</param>
    /// <param name="mean">The mean of each input [in].</param>
    /// <returns>[out], float32.</returns>
    Tensor Bias(Tensor dense, Tensor pruned, Tensor mean);
}

/// <summary>
/// A criterion whose choice of weights and whose update of the others are one sweep (SparseGPT): when a plan names the
/// same system as criterion and repair, the layer is handed over whole.
/// </summary>
public interface IJointPruner : ICriterion, IRepair
{
    /// <summary>Chooses and repairs in one sweep.</summary>
    /// <param name="layer">The dense layer.</param>
    /// <param name="pattern">What may be removed.</param>
    /// <param name="sparsity">The share of this layer to remove, as the allocator gave it (an N:M pattern fixes it).</param>
    PrunedLayer Prune(LayerContext layer, Pattern pattern, double sparsity);
}

/// <summary>Rounds the kept weights of one layer to numbers that a packed type holds exactly.</summary>
public interface IWeightQuantiser
{
    /// <summary>What it must know of the layer's inputs.</summary>
    CalibrationNeeds Needs { get; }

    /// <summary>The layer on the type's grid (int8: a scale per row; int4: a bfloat16 scale per 64 columns); the mask stays, though a kept weight may become 0.</summary>
    /// <param name="layer">The dense layer.</param>
    /// <param name="pruned">What pruning and repair left of it.</param>
    /// <param name="type">int8 or int4.</param>
    PrunedLayer Quantise(LayerContext layer, PrunedLayer pruned, PackedType type);
}

/// <summary>A system that chooses, repairs and rounds weights in one sweep (SparseGPT): what a plan names it for together is done together.</summary>
public interface IJointQuantiser : IJointPruner, IWeightQuantiser
{
    /// <summary>Chooses, repairs and rounds.</summary>
    /// <param name="layer">The dense layer.</param>
    /// <param name="pattern">What may be removed.</param>
    /// <param name="sparsity">The share of this layer to remove.</param>
    /// <param name="type">int8 or int4.</param>
    PrunedLayer Prune(LayerContext layer, Pattern pattern, double sparsity, PackedType type);

    /// <summary>Repairs and rounds under a mask that is known.</summary>
    /// <param name="layer">The dense layer.</param>
    /// <param name="pruned">The mask.</param>
    /// <param name="type">int8 or int4.</param>
    PrunedLayer Repair(LayerContext layer, PrunedLayer pruned, PackedType type);
}

/// <summary>A prunable weight as an allocator sees it.</summary>
/// <param name="Name">Its name in the checkpoint.</param>
/// <param name="Block">The number of its block, from 0.</param>
/// <param name="Rows">Output features.</param>
/// <param name="Columns">Input features.</param>
public sealed record AllocatedLayer(string Name, int Block, long Rows, long Columns)
{
    /// <summary>How many weights it has.</summary>
    public long Count => Rows * Columns;
}

/// <summary>Decides how much of the budget each layer gives.</summary>
public interface IAllocator
{
    /// <summary>The share to remove from each layer.</summary>
    /// <param name="layers">The prunable weights in order.</param>
    /// <param name="sparsity">The share to remove over all of them.</param>
    /// <returns>One share in [0, 1) per layer; their weighted mean is <paramref name="sparsity"/>.</returns>
    IReadOnlyList<double> Allocate(IReadOnlyList<AllocatedLayer> layers, double sparsity);

    /// <summary>Throws where its options make a share impossible; asked before anything is measured.</summary>
    /// <param name="sparsity">The share to remove over all layers.</param>
    void Check(double sparsity)
    {
    }
}
