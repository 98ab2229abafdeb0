using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>Prunes the linear maps of one block in memory: score, choose, repair, in the order of the plan.</summary>
/// <param name="plan">What to do.</param>
/// <param name="asked">The share to remove from each weight, by name (from the allocator).</param>
/// <param name="decided">Masks that a ranking over the whole model has already fixed, by name; null where each layer decides.</param>
public sealed class BlockPruner(PruningPlan plan, IReadOnlyDictionary<string, double> asked, Func<string, Tensor, Tensor>? decided = null)
{
    /// <summary>Watches the inputs of the block's linear maps while it runs; dispose to stop watching.</summary>
    public sealed class Watch : IDisposable
    {
        private readonly Dictionary<int, LayerStatistics> _byStage = [];
        private readonly List<Linear> _observed = [];

        internal Watch(DecoderBlock block, CalibrationNeeds needs, Device device)
        {
            // Linear maps of one stage read the same input: the first of them watches for all.
            foreach (IGrouping<int, BlockLinear> stage in block.Linears.GroupBy(l => l.Stage))
            {
                Linear first = stage.First().Linear;
                var statistics = new LayerStatistics(needs, first.InFeatures, device);
                _byStage[stage.Key] = statistics;
                first.InputObserver = statistics.Observe;
                _observed.Add(first);
            }
        }

        internal LayerStatistics Of(int stage) => _byStage[stage];

        internal void Release(int stage)
        {
            if (_byStage.Remove(stage, out LayerStatistics? statistics))
            {
                statistics.Dispose();
            }
        }

        /// <summary>Stops watching but keeps the figures.</summary>
        public void Stop() => _observed.ForEach(l => l.InputObserver = null);

        /// <inheritdoc/>
        public void Dispose()
        {
            Stop();
            foreach (LayerStatistics statistics in _byStage.Values)
            {
                statistics.Dispose();
            }

            _byStage.Clear();
        }
    }

    /// <summary>Begins to collect what the plan needs.</summary>
    public Watch Observe(DecoderBlock block, Device device) => new(block, plan.Needs, device);

    /// <summary>Prunes every linear map of the block.</summary>
    /// <param name="block">The dense block; its weights are replaced.</param>
    /// <param name="watch">The input statistics of the dense block; null where the plan needs none.</param>
    /// <param name="stored">The element type of the checkpoint: kept weights are rounded to it, so that what is propagated is what is written.</param>
    /// <param name="cancellation">Ends the work between two linear maps.</param>
    public BlockMasks Prune(DecoderBlock block, Watch? watch, Func<string, ScalarType> stored, CancellationToken cancellation)
    {
        var result = new BlockMasks();
        using var _ = no_grad();
        foreach (IGrouping<int, BlockLinear> stage in block.Linears.GroupBy(l => l.Stage))
        {
            foreach (BlockLinear linear in stage)
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = NewDisposeScope();
                Tensor weight = linear.Linear.Matrix.detach().to(ScalarType.Float32).contiguous();
                EspalierException.Require(weight.isfinite().all().item<bool>(), $"{linear.Name} holds NaN or infinite weights; the checkpoint is damaged or was never trained to the end.");
                LayerContext context = watch is null
                    ? new LayerContext { Name = linear.Name, Weight = weight, Seed = plan.Seed }
                    : watch.Of(linear.Stage).Context(linear.Name, weight, plan.Seed);
                (Tensor first, PrunedLayer final) = PruneLayer(context, asked[linear.Name]);
                PrunedLayer rounded = final with { Weight = Rounded(final.Weight, stored(linear.Name)) };
                result.Add(context, first, rounded, asked[linear.Name]);
                CheckAchieved(context, final.Keep, asked[linear.Name]);
                linear.Linear.SetMatrix(rounded.Weight); // last: the context's weight may be this very memory
                AddToBias(linear, final.BiasChange, stored);
            }

            watch?.Release(stage.Key);
        }

        return result;
    }

    private static void AddToBias(BlockLinear linear, Tensor? change, Func<string, ScalarType> stored)
    {
        if (change is null)
        {
            return;
        }

        TorchSharp.Modules.Parameter bias = linear.Linear.bias ?? throw new InvalidOperationException($"{linear.Name} has no bias, though the plan's repair changes it.");
        using var scope = NewDisposeScope();
        string name = linear.Name[..^"weight".Length] + "bias";
        bias.copy_((bias + change).to(stored(name)).to(ScalarType.Float32));
    }

    // Kept weights as the checkpoint will hold them; the unrounded ones are not needed any more.
    private static Tensor Rounded(Tensor weight, ScalarType stored)
    {
        if (stored is ScalarType.Float32)
        {
            return weight;
        }

        using Tensor narrow = weight.to(stored);
        weight.Dispose();
        return narrow.to(ScalarType.Float32);
    }

    private (Tensor First, PrunedLayer Final) PruneLayer(LayerContext context, double sparsity)
    {
        if (plan.IsJoint)
        {
            PrunedLayer swept = plan.RoundingRepair is { } rounding
                ? rounding.Prune(context, plan.Pattern, sparsity, plan.Quantisation!.Type)
                : Quantised(context, ((IJointPruner)plan.Criterion).Prune(context, plan.Pattern, sparsity));
            return (swept.Keep, swept);
        }

        Tensor keep = decided is not null
            ? decided(context.Name, context.Weight)
            : MaskSelection.Choose(plan.Criterion, context, plan.Pattern, plan.Scope, sparsity);
        var pruned = new PrunedLayer(context.Weight.masked_fill(keep.logical_not(), 0), keep);
        return (keep, plan.RoundingRepair is { } joint
            ? joint.Repair(context, pruned, plan.Quantisation!.Type)
            : Quantised(context, plan.Repair is null ? pruned : plan.Repair.Repair(context, pruned, plan.Pattern)));
    }

    private PrunedLayer Quantised(LayerContext context, PrunedLayer layer) =>
        plan.Quantisation is { } quantisation ? quantisation.Method.Quantise(context, layer, quantisation.Type) : layer;

    // Asked and achieved are compared in units: one weight per group that is ranked on its own.
    private void CheckAchieved(LayerContext context, Tensor keep, double sparsity)
    {
        if (decided is not null || plan.Criterion is IMaskingCriterion { HasOwnCount: true })
        {
            return; // the ranking over the model is exact as a whole and free within a layer; a rule of its own counts in its own way
        }

        long rows = context.Weight.shape[0], columns = context.Weight.shape[1];
        long removed = (rows * columns) - keep.sum().item<long>();
        double wanted = rows * columns * sparsity;
        long unit = plan.IsJoint ? columns : plan.Scope is Scope.Layer ? 1 : rows;
        long forced = plan.IsJoint ? context.Weight.eq(0).sum().item<long>() + DeadWeights(context) : 0;
        EspalierException.Require(removed >= wanted - unit && removed <= wanted + unit + forced,
            $"{context.Name} was to lose {wanted:F0} of its {rows * columns} weights but lost {removed}; this is a fault of {PruningPlan.NameOf(plan.Criterion)}, please report it.");
    }

    // Weights whose input is always 0 score 0, and SparseGPT's threshold takes all of them.
    private static long DeadWeights(LayerContext context) =>
        context.Hessian is null ? 0 : context.Hessian.diagonal().eq(0).sum().item<long>() * context.Weight.shape[0];
}

/// <summary>Masks and figures of one block's linear maps.</summary>
public sealed class BlockMasks
{
    /// <summary>The final masks by weight name.</summary>
    public Dictionary<string, SparsityMask> Final { get; } = new(StringComparer.Ordinal);

    /// <summary>The criterion's masks where a repair moved zeros.</summary>
    public Dictionary<string, SparsityMask> First { get; } = new(StringComparer.Ordinal);

    /// <summary>Layer by layer.</summary>
    public List<LayerReport> Layers { get; } = [];

    internal void Add(LayerContext context, Tensor first, PrunedLayer final, double asked)
    {
        using var scope = NewDisposeScope();
        SparsityMask mask = SparsityMask.FromTensor(final.Keep);
        EspalierException.Require(mask.Revived(final.Weight) == 0, $"A pruned weight of {context.Name} is not 0 after repair; this is a fault of the repair, please report it.");
        Final[context.Name] = mask;
        SparsityMask criterion = SparsityMask.FromTensor(first);
        if (!criterion.Equals(mask))
        {
            First[context.Name] = criterion;
        }

        // A bias changes the error too, but not through the second moments.
        double? repairedError = final.BiasChange is not null ? null : Error(context, (from, count) => final.Weight.narrow(0, from, count));
        double? maskedError = Error(context, (from, count) => context.Weight.narrow(0, from, count).masked_fill(first.narrow(0, from, count).logical_not(), 0));
        Layers.Add(new LayerReport(context.Name, mask.Rows, mask.Columns, asked, mask.Sparsity, maskedError, repairedError));
    }

    // ‖X(W−W′)ᵀ‖² / ‖XWᵀ‖² = tr(Δ H Δᵀ) / tr(W H Wᵀ)
    private static double? Error(LayerContext context, Func<long, long, Tensor> changed)
    {
        if (context.Hessian is null)
        {
            return null;
        }

        // Some rows at a time: the differences of a whole layer and their products would be the largest things in memory.
        const long rows = 256;
        double lost = 0, whole = 0;
        for (long from = 0; from < context.Weight.shape[0]; from += rows)
        {
            using var scope = NewDisposeScope();
            long count = Math.Min(rows, context.Weight.shape[0] - from);
            Tensor weight = context.Weight.narrow(0, from, count);
            lost += Energy(weight - changed(from, count), context.Hessian);
            whole += Energy(weight, context.Hessian);
        }

        return whole <= 0 ? 0 : Math.Max(0, lost / whole);

        static double Energy(Tensor delta, Tensor hessian) => delta.mm(hessian).mul_(delta).sum(ScalarType.Float64).item<double>();
    }
}
