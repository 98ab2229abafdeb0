using System.Globalization;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;

namespace Espalier.Pruning.Structured;

/// <summary>One coupled group as a preview shows it.</summary>
/// <param name="Owner">Whose units they are ("model.layers.0.mlp"; "the residual stream").</param>
/// <param name="Unit">What a unit is ("neuron").</param>
/// <param name="Count">How many there are.</param>
/// <param name="Kept">How many stay; null where only a measurement can tell.</param>
/// <param name="Cut">What is cut out of the tensors with the first unit.</param>
public sealed record PlannedGroup(string Owner, string Unit, int Count, int? Kept, string Cut);

/// <summary>What a structured plan will cut, as far as it is known before anything is measured.</summary>
public sealed record StructurePreview
{
    /// <summary>Every coupled group that is cut: heads and neurons of each block, the residual stream, the stack of layers.</summary>
    public required IReadOnlyList<PlannedGroup> Groups { get; init; }

    /// <summary>The parameters of the model now.</summary>
    public required long ParametersBefore { get; init; }

    /// <summary>And of the smaller one; null where only a measurement can tell.</summary>
    public long? ParametersAfter { get; init; }

    /// <summary>The configuration of the smaller model; null where only a measurement can tell.</summary>
    internal ModelConfig? Config { get; init; }

    /// <summary>What the rounding of widths does, or who decides after calibration, in a sentence.</summary>
    public required string Note { get; init; }

    /// <summary>Plans the cut, and refuses one that cannot be.</summary>
    /// <param name="job">The job; its plan has a structured pattern.</param>
    /// <param name="config">The model, with the biases that a repair fills.</param>
    /// <exception cref="EspalierException">With the size that does not fit.</exception>
    public static StructurePreview Make(PruningJob job, ModelConfig config)
    {
        var pattern = (Pattern.StructuredPattern)job.Plan.Pattern;
        Architecture family = Architecture.For(config);
        EspalierException.Require(job.Out.Length == 0 || Path.GetFullPath(job.Out) != Path.GetFullPath(job.Folder),
            "A smaller model has other shapes, so it cannot be written over the one that it is cut from; name another output folder.");
        List<BlockUnits> units = [.. Enumerable.Range(0, config.LayerCount).SelectMany(i =>
        {
            using DecoderBlock block = family.CreateBlock(config, i, Placement.Meta);
            return BlockUnits.Of(block, pattern.Cuts);
        })];
        long blocks = family.BlockParameterCount(config);
        CutSizes sizes = CutSizes.Decide(job.Plan, config, [.. units.Select(u => u.Group)], blocks);
        ModelSize? size = SizeOf(config, sizes, units);
        ModelConfig dense = ModelConfig.Load(job.Folder);
        ModelConfig? smaller = null;
        if (size is not null)
        {
            StructuredRules.CheckUniform(pattern, config, size);
            smaller = size.Apply(config);
        }

        return new StructurePreview
        {
            Groups = [.. Rows(config, sizes, units)],
            ParametersBefore = family.ParameterCount(dense),
            ParametersAfter = smaller is null ? null : family.ParameterCount(smaller),
            Config = smaller,
            Note = Noted(job.Plan, pattern, smaller is null ? null : 1 - ((double)family.BlockParameterCount(smaller) / family.BlockParameterCount(dense)), config),
        };
    }

    // Which layers stay is only known after measuring; of a model whose blocks are alike it does not matter.
    private static ModelSize? SizeOf(ModelConfig config, CutSizes sizes, List<BlockUnits> units)
    {
        if (sizes.Units is null || (sizes.Layers < config.LayerCount && config.BlockShapes is not null))
        {
            return null;
        }

        return new ModelSize(sizes.Hidden, [.. Enumerable.Range(0, sizes.Layers)], [.. Enumerable.Range(0, sizes.Layers).Select(i =>
        {
            BlockShape before = config.ShapeOf(i);
            int heads = Kept(i, Units.Heads) ?? before.KeyValueHeads;
            return new BlockShape(heads * (before.Heads / before.KeyValueHeads), heads, Kept(i, Units.Neurons) ?? before.Neurons);
        })]);

        int? Kept(int block, Units kind)
        {
            int at = units.FindIndex(u => u.Group.Block == block && BlockUnits.KindOf(u.Group.Kind) == kind);
            return at < 0 ? null : sizes.Units[at];
        }
    }

    private static IEnumerable<PlannedGroup> Rows(ModelConfig config, CutSizes sizes, List<BlockUnits> units)
    {
        for (int i = 0; i < units.Count; i++)
        {
            string[] described = units[i].Coupled.Describe(0).Split(" 0: ", 2);
            yield return new PlannedGroup(units[i].Coupled.Owner, described[0], units[i].Group.Count, sizes.Units?[i], described[1]);
        }

        if (sizes.Hidden < config.HiddenSize)
        {
            yield return new PlannedGroup("the residual stream", "hidden channel", config.HiddenSize, sizes.Hidden, "entry 0 of every tensor along the stream: embedding, norms, all maps that read or write it, head");
        }

        if (sizes.Layers < config.LayerCount)
        {
            yield return new PlannedGroup("the model", "layer", config.LayerCount, sizes.Layers, "all tensors of a block; the blocks behind move up");
        }
    }

    private static string Noted(PruningPlan plan, Pattern.StructuredPattern pattern, double? achieved, ModelConfig config)
    {
        string rounding = RoundingOf(pattern, config);
        if (achieved is null)
        {
            return $"{PruningPlan.NameOf(plan.EffectiveUnitAllocator)} decides how much each block gives, once all units are measured{(rounding.Length > 0 ? $"; {rounding}" : "")}.";
        }

        string share = string.Create(CultureInfo.InvariantCulture, $"{100 * achieved.Value:0.#} %");
        return pattern.Share is { } asked
            ? string.Create(CultureInfo.InvariantCulture, $"Asked {100 * asked:0.#} % of the blocks' parameters; {(rounding.Length > 0 ? rounding + " give" : "whole units give")} {share}.")
            : $"These sizes remove {share} of the blocks' parameters.";
    }

    // As in "neurons rounded to 16".
    private static string RoundingOf(Pattern.StructuredPattern pattern, ModelConfig config)
    {
        (Units Kind, int Width)[] widths = pattern.HasSizes ? [] : [(Units.Neurons, config.IntermediateSize), (Units.Channels, config.HiddenSize)];
        return string.Join(" and ", widths.Where(w => pattern.Cuts.HasFlag(w.Kind) && pattern.MultipleFor(w.Width) > 1)
            .Select(w => $"{w.Kind.ToString().ToLowerInvariant()} rounded to multiples of {pattern.MultipleFor(w.Width)}"));
    }
}
