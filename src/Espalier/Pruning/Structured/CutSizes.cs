using System.Globalization;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;

namespace Espalier.Pruning.Structured;

/// <summary>How much of a model stays: decided from its sizes alone, or, where an allocator ranks over blocks, from the measured scores too.</summary>
/// <param name="Layers">How many blocks stay.</param>
/// <param name="Hidden">How many channels of the residual stream stay.</param>
/// <param name="Units">How many units of each group stay, in the order of the groups; null where only a measurement can tell.</param>
internal sealed record CutSizes(int Layers, int Hidden, IReadOnlyList<int>? Units)
{
    /// <summary>Decides, and refuses what cannot be.</summary>
    /// <param name="plan">The plan.</param>
    /// <param name="config">The model.</param>
    /// <param name="groups">Heads and neurons of all blocks, as far as the plan cuts them; with scores once they are measured.</param>
    /// <param name="blockParameters">The parameters of all decoder blocks.</param>
    /// <exception cref="EspalierException">With the size that does not fit.</exception>
    public static CutSizes Decide(PruningPlan plan, ModelConfig config, IReadOnlyList<UnitGroup> groups, long blockParameters)
    {
        var pattern = (Pattern.StructuredPattern)plan.Pattern;
        (int layers, int hidden) = (config.LayerCount, config.HiddenSize);
        int keptLayers = pattern.Layers ?? (pattern.Cuts == Sparsity.Units.Layers ? (int)Math.Round(layers * (1 - pattern.Sparsity), MidpointRounding.AwayFromZero) : layers);
        int keptHidden = pattern.Hidden ?? (pattern.Cuts == Sparsity.Units.Channels ? pattern.Rounded(hidden * (1 - pattern.Sparsity), hidden) : hidden);
        EspalierException.Require(keptLayers >= 1 && keptLayers <= layers, $"The model has {layers} layers, so {keptLayers} cannot stay; at least one must, and at most all.");
        EspalierException.Require(keptHidden <= hidden, $"The model is {hidden} channels wide, so {keptHidden} cannot stay; structured pruning only makes it smaller.");
        IReadOnlyList<int>? units = pattern.HasSizes ? [.. groups.Select(g => Target(pattern, config, g))]
            : groups.Count == 0 ? [] : plan.EffectiveUnitAllocator.NeedsScores && groups.Any(g => g.Scores is null) ? null
            : Allocated(plan, pattern, groups, blockParameters);
        EspalierException.Require(units is null || keptLayers < layers || keptHidden < hidden || units.Where((n, i) => n < groups[i].Count).Any(),
            string.Create(CultureInfo.InvariantCulture, $"Nothing would be cut: {(pattern.HasSizes ? "the target sizes are those that the model has" : $"a share of {pattern.Sparsity:0.####} is less than one unit{(pattern.Cuts.HasFlag(Sparsity.Units.Neurons) || pattern.Cuts == Sparsity.Units.Channels ? " of the widths' rounding" : "")}")}; ask for more, or set round to 1."));
        return new CutSizes(keptLayers, keptHidden, units);
    }

    // At least one head and eight neurons stay; neurons in hardware-friendly multiples.
    private static int[] Allocated(PruningPlan plan, Pattern.StructuredPattern pattern, IReadOnlyList<UnitGroup> groups, long blockParameters)
    {
        double remove = pattern.Sparsity * blockParameters;
        long most = groups.Sum(g => (g.Count - Least(g)) * g.Parameters);
        EspalierException.Require(remove <= most, string.Create(CultureInfo.InvariantCulture,
            $"A share of {pattern.Sparsity:0.####} of the blocks is more than {string.Join(" and ", groups.Select(g => BlockUnits.KindOf(g.Kind).ToString().ToLowerInvariant()).Distinct())} can give ({(double)most / blockParameters:P1}, with one head and {Pattern.StructuredPattern.LeastNeurons} neurons left in every block); ask for less or cut more kinds of units."));
        IReadOnlyList<double> kept = plan.EffectiveUnitAllocator.Keep(groups, remove);
        return [.. groups.Select((g, i) => g.Kind is CoupledKind.Neuron
            ? Math.Max(pattern.Rounded(kept[i], g.Count), Least(g))
            : (int)Math.Clamp(Math.Round(kept[i], MidpointRounding.AwayFromZero), Least(g), g.Count))];
    }

    private static int Least(UnitGroup group) => group.Kind is CoupledKind.Neuron ? Math.Min(Pattern.StructuredPattern.LeastNeurons, group.Count) : 1;

    private static int Target(Pattern.StructuredPattern pattern, ModelConfig config, UnitGroup group)
    {
        BlockShape shape = config.ShapeOf(group.Block);
        int queries = shape.Heads / shape.KeyValueHeads;
        EspalierException.Require(group.Kind is CoupledKind.Neuron || pattern.Heads is not { } asked || asked % queries == 0,
            $"{pattern.Heads} heads do not divide into key-value groups of {queries} query heads, which go together; give a multiple of {queries}.");
        (int target, string what) = group.Kind is CoupledKind.Neuron ? (pattern.Neurons!.Value, "neurons")
            : pattern.Heads is { } heads ? (heads / queries, queries == 1 ? "heads" : "key-value groups") : (pattern.KeyValueHeads!.Value, "key-value groups");
        EspalierException.Require(target <= group.Count, $"Block {group.Block} has {group.Count} {what}, so {target} cannot stay; structured pruning only makes a model smaller.");
        return target;
    }
}
