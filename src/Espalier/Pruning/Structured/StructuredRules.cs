using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;

namespace Espalier.Pruning.Structured;

/// <summary>Which parts go together when whole units are cut, and which models can be cut so.</summary>
internal static class StructuredRules
{
    /// <summary>Checks the parts of a plan against each other.</summary>
    /// <exception cref="EspalierException">With the pair that does not go together, and what to do.</exception>
    public static void Check(PruningPlan plan, Pattern.StructuredPattern pattern)
    {
        string criterion = PruningPlan.NameOf(plan.Criterion), allocator = PruningPlan.NameOf(plan.EffectiveUnitAllocator);
        EspalierException.Require(plan.Criterion is IUnitCriterion,
            $"{criterion} ranks single weights, so it cannot choose the units of the pattern structured; use flap, minitron, wanda, magnitude or random.");
        Units unranked = pattern.Cuts & ~((IUnitCriterion)plan.Criterion).Ranks;
        EspalierException.Require(unranked is Units.None,
            $"{criterion} cannot rank {Words(unranked)}; it ranks {Words(((IUnitCriterion)plan.Criterion).Ranks)}. Use minitron or random.");
        EspalierException.Require(plan.Repair is null or IUnitBiasRepair,
            $"{(plan.Repair is null ? "" : PruningPlan.NameOf(plan.Repair))} repairs masks, and cut units leave none; with the pattern structured use repair: flap or repair: none.");
        EspalierException.Require(plan.Reconstruction is null,
            "Layer-wise reconstruction rebuilds a block under its masks, and cut units leave none; with the pattern structured retrain the smaller model instead (retrain: perp).");
        EspalierException.Require(plan.Repair is null || (pattern.Cuts & (Units.Heads | Units.Neurons)) != 0,
            $"A bias can stand in for heads and neurons, but {Words(pattern.Cuts)} are cut; leave it out (repair: none).");
        EspalierException.Require(plan.Allocator is Uniform,
            $"The allocator {PruningPlan.NameOf(plan.Allocator)} shares out single weights; with the pattern structured use uniform, global or flap.");
        EspalierException.Require(plan.UnitAllocator is null or Uniform || !pattern.HasSizes, $"The target sizes say what each block gives; leave the allocator {allocator} out.");
        EspalierException.Require(plan.UnitAllocator is null or Uniform || (pattern.Cuts & (Units.Heads | Units.Neurons)) != 0,
            $"The allocator {allocator} shares out heads and neurons, but {Words(pattern.Cuts)} are cut; leave it out.");
        EspalierException.Require(!pattern.Uniform || !plan.EffectiveUnitAllocator.IsUneven,
            $"The allocator {allocator} gives blocks different widths, but uniform asks for equal ones; leave one of them out, or use the allocator uniform.");
    }

    /// <summary>Checks the sizes that a model would end with.</summary>
    /// <exception cref="EspalierException">Where uniform promises more than the family's published code can load.</exception>
    public static void CheckUniform(Pattern.StructuredPattern pattern, ModelConfig config, ModelSize size)
    {
        EspalierException.Require(!pattern.Uniform || size.IsUniform,
            "The blocks of this model differ in width already, so a share leaves them different; with uniform name the sizes that all of them are to have (heads, neurons).");
        EspalierException.Require(!pattern.Uniform || size.IsPlain(config),
            $"Programs other than Espalier take the width of a {config.ModelType} head as hidden width / heads, which is {config.HeadDim} now and must stay so; cut neurons or layers, cut hidden and heads alike, or leave uniform out (Espalier itself loads the result).");
    }

    /// <summary>As in "heads and neurons".</summary>
    public static string Words(Units units) =>
        string.Join(" and ", Enum.GetValues<Units>().Where(u => u is not Units.None && units.HasFlag(u)).Select(u => u.ToString().ToLowerInvariant()));
}
