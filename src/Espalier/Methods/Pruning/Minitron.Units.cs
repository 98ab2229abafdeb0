using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>Minitron's importances as the criterion of a structured plan: heads, neurons, channels of the residual stream, layers.</summary>
public sealed partial class Minitron : IUnitCriterion
{
    /// <inheritdoc/>
    public Units Ranks => Units.Heads | Units.Neurons | Units.Channels | Units.Layers;

    /// <inheritdoc/>
    public bool UnitsOnly => true;

    /// <inheritdoc/>
    public bool ReadsActivations => true;

    /// <inheritdoc/>
    public IUnitWatch Watch(long width, Device device) => Accumulate();

    /// <summary>Step 2: the aggregated activations of every channel; of norms they are summed over the network.</summary>
    public Tensor Score(UnitContext place) => ((MinitronAccumulator)place.Seen!).Score();

    /// <summary>A head's (or group's) importance is the L2 norm over its channels.</summary>
    public Tensor Join(Tensor channels) => Aggregate(channels, 1, MinitronAggregation.L2);

    /// <summary>Step 3: BI, from what enters and leaves the block.</summary>
    public double Layer(int index, Tensor? input, Tensor? output, Seed seed) => BlockImportance(input!, output!);
}
