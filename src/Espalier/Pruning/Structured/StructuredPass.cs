using System.Diagnostics;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Pruning.Structured;

/// <summary>From plan to smaller model: measure the units, decide what stays, make the biases, lay out the cut.</summary>
internal sealed class StructuredPass(PruningJob job, StreamedModel model, PruningJournal journal, PruningPreview preview, IProgressSink progress)
{
    private readonly PruningPlan _plan = job.Plan;
    private readonly Pattern.StructuredPattern _pattern = (Pattern.StructuredPattern)job.Plan.Pattern;
    private readonly ModelConfig _config = model.Config;

    /// <summary>Measures and decides; the tensors of what it returns are read from the source when they are wanted.</summary>
    public CutModel Run(CancellationToken cancellation)
    {
        var clock = Stopwatch.StartNew();
        if (File.Exists(Path.Combine(job.Folder, SparsityMasks.FileName)))
        {
            progress.Warn($"{job.Folder} has masks of an earlier pruning; its zeros are cut along with the rest, but the masks are not carried over.");
        }

        var measure = new UnitMeasure(job, model, journal, preview.Spills, progress);
        measure.Run(cancellation);
        CutPlan plan = Choose(measure);
        ModelSize size = plan.Size(_config);
        StructuredRules.CheckUniform(_pattern, _config, size);
        IReadOnlyDictionary<string, float[]> biases = _plan.Repair is IUnitBiasRepair repair ? Biases(repair, measure, plan, cancellation) : new Dictionary<string, float[]>();
        StructureReport structure = Sizes(plan, size);
        progress.Say(StructureText.Sentence(structure));
        return new CutModel(model.Source, _config, plan, biases, Reports(plan, size.Apply(_config), clock.Elapsed.TotalSeconds), structure);
    }

    /// <summary>What stays, unit by unit: the best of every group, in memory order.</summary>
    private CutPlan Choose(UnitMeasure measure)
    {
        using var scope = NewDisposeScope();
        var criterion = (IUnitCriterion)_plan.Criterion;
        var groups = new List<UnitGroup>();
        foreach (BlockUnits units in Enumerable.Range(0, _config.LayerCount).SelectMany(UnitsOf))
        {
            Tensor channels = measure.ScoresOf(units.Group.Block, units.Group.Kind);
            groups.Add(units.Group with { Channels = channels, Scores = criterion.Join(channels.reshape(units.Group.Count, -1)).to(ScalarType.Float32) });
        }

        CutSizes sizes = CutSizes.Decide(_plan, _config, groups, Architecture.For(_config).BlockParameterCount(_config));
        IReadOnlyList<int> layers = sizes.Layers == _config.LayerCount ? [.. Enumerable.Range(0, sizes.Layers)] : CutPlan.Best(measure.LayerScores(), sizes.Layers);
        IReadOnlyList<int> channelsKept = sizes.Hidden == _config.HiddenSize ? [.. Enumerable.Range(0, sizes.Hidden)] : CutPlan.Best(Values(measure.ChannelScores()), sizes.Hidden);
        return new CutPlan(channelsKept, [.. layers.Select(i => new BlockChoice(i,
            Kept(g => g.Block == i && g.Kind is not CoupledKind.Neuron, _config.ShapeOf(i).KeyValueHeads),
            Kept(g => g.Block == i && g.Kind is CoupledKind.Neuron, _config.ShapeOf(i).Neurons)))]);

        IReadOnlyList<int> Kept(Predicate<UnitGroup> wanted, int all)
        {
            int at = groups.FindIndex(wanted);
            return at < 0 ? [.. Enumerable.Range(0, all)] : CutPlan.Best(Values(groups[at].Scores!), sizes.Units![at]);
        }
    }

    private static float[] Values(Tensor scores) => scores.cpu().data<float>().ToArray();

    private IReadOnlyList<BlockUnits> UnitsOf(int index)
    {
        using DecoderBlock block = Architecture.For(_config).CreateBlock(_config, index, Placement.Meta);
        return BlockUnits.Of(block, _pattern.Cuts);
    }

    // What the biases of the readers have to take over from the inputs that go.
    private Dictionary<string, float[]> Biases(IUnitBiasRepair repair, UnitMeasure measure, CutPlan plan, CancellationToken cancellation)
    {
        var changes = new Dictionary<string, float[]>(StringComparer.Ordinal);
        using IProgressTask task = progress.Begin("compensating", plan.Blocks.Count, "block");
        using var _ = no_grad();
        foreach (BlockChoice choice in plan.Blocks)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            using DecoderBlock block = model.LoadBlock(choice.Index);
            foreach (BlockUnits units in BlockUnits.Of(block, _pattern.Cuts))
            {
                IReadOnlyList<int> kept = units.Group.Kind is CoupledKind.Neuron ? choice.Neurons : choice.Heads;
                if (kept.Count < units.Group.Count)
                {
                    Tensor dense = units.Reader.Linear.Matrix.detach();
                    Tensor stays = zeros(units.Group.Count, ScalarType.Bool).index_fill(0, tensor(kept.Select(k => (long)k).ToArray()), true).repeat_interleave(units.Columns);
                    Tensor change = repair.Bias(dense, dense.masked_fill(stays.logical_not(), 0), measure.MeansOf(choice.Index, units.Group.Kind));
                    changes[units.Reader.Name[..^"weight".Length] + "bias"] = Values(change);
                }
            }

            NativeMemory.Trim();
            task.Advance();
        }

        return changes;
    }

    private StructureReport Sizes(CutPlan plan, ModelSize size)
    {
        Architecture family = Architecture.For(_config);
        ModelConfig dense = ModelConfig.Load(job.Folder), cut = size.Apply(_config);
        long blocksBefore = family.BlockParameterCount(dense), blocksAfter = family.BlockParameterCount(cut);
        return new StructureReport
        {
            Asked = _pattern.Share,
            Achieved = 1 - ((double)blocksAfter / blocksBefore),
            ParametersBefore = family.ParameterCount(dense),
            ParametersAfter = family.ParameterCount(cut),
            HiddenBefore = _config.HiddenSize,
            HiddenAfter = size.Hidden,
            Plain = size.IsPlain(_config),
            Blocks = [.. Enumerable.Range(0, _config.LayerCount).Select(i => SizeOf(i, size, family, dense, cut))],
            Cuts = [.. FirstCuts(plan)],
        };
    }

    private static BlockSize SizeOf(int index, ModelSize size, Architecture family, ModelConfig dense, ModelConfig cut)
    {
        BlockShape before = dense.ShapeOf(index);
        int at = size.Layers.ToList().IndexOf(index);
        BlockShape after = at < 0 ? new BlockShape(0, 0, 0) : size.Blocks[at];
        using DecoderBlock whole = family.CreateBlock(dense, index, Placement.Meta);
        using DecoderBlock? smaller = at < 0 ? null : family.CreateBlock(cut, at, Placement.Meta);
        return new BlockSize(index, at >= 0, before.Heads, after.Heads, before.KeyValueHeads, after.KeyValueHeads, before.Neurons, after.Neurons, whole.ParameterCount, smaller?.ParameterCount ?? 0);
    }

    // One unit of every kind as it was cut: the first of the first block that lost one.
    private IEnumerable<string> FirstCuts(CutPlan plan)
    {
        var seen = new HashSet<CoupledKind>();
        foreach (BlockChoice choice in plan.Blocks)
        {
            foreach (BlockUnits units in UnitsOf(choice.Index))
            {
                IReadOnlyList<int> kept = units.Group.Kind is CoupledKind.Neuron ? choice.Neurons : choice.Heads;
                int first = Enumerable.Range(0, units.Group.Count).FirstOrDefault(u => !kept.Contains(u), -1);
                if (first >= 0 && seen.Add(units.Group.Kind))
                {
                    yield return $"{units.Coupled.Owner}: {units.Coupled.Describe(first)}";
                }
            }
        }

        if (plan.Channels.Count < _config.HiddenSize)
        {
            int first = Enumerable.Range(0, _config.HiddenSize).First(c => !plan.Channels.Contains(c));
            yield return $"hidden channel {first}: entry {first} of {StreamTensors()} tensors, through the whole model";
        }

        int[] layers = [.. Enumerable.Range(0, _config.LayerCount).Except(plan.Blocks.Select(b => b.Index))];
        if (layers.Length > 0)
        {
            yield return $"{(layers.Length == 1 ? "layer" : "layers")} {string.Join(", ", layers)}: all their tensors; the layers behind move up";
        }
    }

    private int StreamTensors()
    {
        Architecture family = Architecture.For(_config);
        using Embedding embedding = family.CreateEmbedding(_config, Placement.Meta);
        using OutputHead head = family.CreateHead(_config, embedding, Placement.Meta);
        return embedding.HiddenChannelSlices.Count + head.HiddenChannelSlices.Count + Enumerable.Range(0, _config.LayerCount).Sum(i =>
        {
            using DecoderBlock block = family.CreateBlock(_config, i, Placement.Meta);
            return block.HiddenChannelSlices.Count;
        });
    }

    private IReadOnlyList<BlockReport> Reports(CutPlan plan, ModelConfig cut, double seconds)
    {
        Architecture family = Architecture.For(_config);
        return [.. Enumerable.Range(0, _config.LayerCount).Select(i =>
        {
            int at = plan.Blocks.ToList().FindIndex(b => b.Index == i);
            using DecoderBlock before = family.CreateBlock(_config, i, Placement.Meta);
            using DecoderBlock? after = at < 0 ? null : family.CreateBlock(cut, at, Placement.Meta);
            return new BlockReport(i, [.. before.Linears.Select((l, n) =>
            {
                long all = l.Linear.OutFeatures * l.Linear.InFeatures;
                long left = after is null ? 0 : after.Linears[n].Linear.OutFeatures * after.Linears[n].Linear.InFeatures;
                double gone = 1 - ((double)left / all);
                return new LayerReport(l.Name, l.Linear.OutFeatures, l.Linear.InFeatures, _pattern.Share ?? gone, gone, null, null);
            })], null, null, seconds / _config.LayerCount);
        })];
    }
}
