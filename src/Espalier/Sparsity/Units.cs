using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>What structured pruning removes whole.</summary>
[Flags]
public enum Units
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>Attention heads; with grouped queries a key-value head and all query heads that it serves are one unit.</summary>
    Heads = 1,

    /// <summary>Neurons of the feed-forward part.</summary>
    Neurons = 2,

    /// <summary>Channels of the residual stream, through the whole model.</summary>
    Channels = 4,

    /// <summary>Whole decoder blocks.</summary>
    Layers = 8,
}

/// <summary>Sees what flows through one place of the dense model during calibration, for one criterion.</summary>
public interface IUnitWatch : IDisposable
{
    /// <summary>Adds activations [sequences, tokens, width]; must not keep or change them.</summary>
    void Observe(Tensor x);
}

/// <summary>A place of the dense model whose channels a criterion ranks: the inputs of the map that reads heads or neurons, or the outputs of a norm.</summary>
public sealed class UnitContext
{
    /// <summary>The name of the reader's weight, or of the norm.</summary>
    public required string Name { get; init; }

    /// <summary>What is ranked: heads, groups or neurons at a reader, channels of the residual stream at a norm.</summary>
    public required CoupledKind Kind { get; init; }

    /// <summary>How many channels flow through.</summary>
    public required long Width { get; init; }

    /// <summary>The reader's weight [out, width], float32; null at a norm.</summary>
    public Tensor? Weight { get; init; }

    /// <summary>The mean over calibration sequences of ‖x_j‖² [width]; null without calibration and at a norm.</summary>
    public Tensor? InputNorms { get; init; }

    /// <summary>What the criterion's own watch saw here; null where it has none.</summary>
    public IUnitWatch? Seen { get; init; }

    /// <summary>The plan's seed, for criteria that draw.</summary>
    public Seed Seed { get; init; }
}

/// <summary>Ranks whole units instead of single weights: heads, neurons, channels, layers. All figures are of the dense model.</summary>
public interface IUnitCriterion : ICriterion
{
    /// <summary>Which units it can rank.</summary>
    Units Ranks { get; }

    /// <summary>Whether it ranks units only, so that it cannot choose single weights.</summary>
    bool UnitsOnly => false;

    /// <summary>Whether it looks at activations.</summary>
    bool ReadsActivations { get; }

    /// <summary>Begins to watch a place; null where the weights and the shared figures are enough.</summary>
    /// <param name="width">How many channels flow through.</param>
    /// <param name="device">Where they live.</param>
    IUnitWatch? Watch(long width, Device device) => null;

    /// <summary>The importance of every channel of a place.</summary>
    /// <returns>[width], float32, finite.</returns>
    Tensor Score(UnitContext place);

    /// <summary>The importance of units from that of their channels; the sum unless the criterion has another rule.</summary>
    /// <param name="channels">[units, channels per unit].</param>
    /// <returns>[units], float32.</returns>
    Tensor Join(Tensor channels) => channels.sum([1L]);

    /// <summary>The importance of a whole block for some sequences; measurements are averaged over sequences.</summary>
    /// <param name="index">The block's number.</param>
    /// <param name="input">What enters it [sequences, tokens, hidden]; null for a criterion that reads no activations.</param>
    /// <param name="output">What leaves it.</param>
    /// <param name="seed">The plan's seed.</param>
    double Layer(int index, Tensor? input, Tensor? output, Seed seed) => throw new NotSupportedException($"{GetType().Name} ranks no layers.");

    /// <inheritdoc/>
    CalibrationNeeds ICriterion.Needs => CalibrationNeeds.None;

    /// <inheritdoc/>
    Scope ICriterion.DefaultScope => Scope.Layer;

    /// <inheritdoc/>
    Tensor ICriterion.Score(LayerContext layer) => throw new EspalierException($"{GetType().Name.ToLowerInvariant()} ranks whole units, not the single weights of {layer.Name}; use the pattern structured.");
}

/// <summary>The units of one kind of one block, as an allocator sees them.</summary>
/// <param name="Block">The block's number.</param>
/// <param name="Kind">What a unit is.</param>
/// <param name="Count">How many there are.</param>
/// <param name="Parameters">What one of them takes.</param>
public sealed record UnitGroup(int Block, CoupledKind Kind, int Count, long Parameters)
{
    /// <summary>The importance of every channel of the units [count·channels per unit]; null in a preview.</summary>
    public Tensor? Channels { get; init; }

    /// <summary>The importance of every unit [count]; null in a preview.</summary>
    public Tensor? Scores { get; init; }

    /// <summary>All parameters of the group.</summary>
    public long Total => Count * Parameters;
}

/// <summary>Decides how many units of each group stay.</summary>
public interface IUnitAllocator
{
    /// <summary>Whether it may give blocks different widths.</summary>
    bool IsUneven { get; }

    /// <summary>Whether it looks at the units' scores, so that only a measurement can tell what it decides.</summary>
    bool NeedsScores => IsUneven;

    /// <summary>How many units of each group stay, before rounding: within a group the best stay.</summary>
    /// <param name="groups">The groups in order: heads and neurons of each block that takes part.</param>
    /// <param name="remove">The parameters to remove over all of them.</param>
    /// <exception cref="EspalierException">When the groups cannot be compared.</exception>
    IReadOnlyList<double> Keep(IReadOnlyList<UnitGroup> groups, double remove);
}
