using System.Diagnostics;
using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>
/// The walk from the first block to the last: read a block, watch its inputs, prune and repair it, make it durable,
/// and let the pruned block make the inputs of the next. Never more than one block and its activations are in memory.
/// </summary>
internal sealed class BlockPass(PruningJob job, StreamedModel model, ITensorSource checkpoint, PruningJournal journal, PruningPreview preview, IProgressSink progress)
{
    /// <summary>How many calibration sequences the output error of a block is measured on.</summary>
    private const int ProbeSequences = 4;

    private readonly PruningPlan _plan = job.Plan;

    private string? SpillFolder => preview.Spills ? journal.Folder : null;

    /// <summary>Prunes every block that the journal does not hold yet.</summary>
    public void Run(CancellationToken cancellation)
    {
        int blocks = model.Config.LayerCount;
        int first = Enumerable.Range(0, blocks).FirstOrDefault(i => !journal.Has(i), blocks);
        if (first == blocks)
        {
            return;
        }

        Func<string, Tensor, Tensor>? decided = _plan.Scope is Scope.Global && _plan.Pattern is Pattern.UnstructuredPattern
            ? new GlobalMasks(job, model, journal, preview, progress).Decide(cancellation)
            : null;
        using ActivationStore? hidden = _plan.NeedsActivations ? Calibration.Embed(job, model, SpillFolder, cancellation) : null;
        using ActivationStore? targets = _plan.Reconstruction is null ? null : Calibration.Store(job, model.Config, SpillFolder);
        using IProgressTask task = progress.Begin("pruning", blocks, "block");
        if (first > 0)
        {
            progress.Say($"Resuming: blocks 0 to {first - 1} of {blocks} are already pruned.");
        }

        for (int i = 0; i < blocks; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            task.Describe($"block {i + 1} of {blocks}");
            if (i < first)
            {
                Replay(i, hidden, cancellation);
            }
            else
            {
                Prune(i, hidden, targets, decided, cancellation);
            }

            NativeMemory.Trim();
            task.Advance();
        }
    }

    /// <summary>Prunes one block as a trial: nothing is written.</summary>
    public BlockReport Try(int index, CancellationToken cancellation)
    {
        using ActivationStore? hidden = _plan.NeedsActivations ? Calibration.Embed(job, model, SpillFolder, cancellation) : null;
        using ActivationStore? targets = _plan.Reconstruction is null ? null : Calibration.Store(job, model.Config, SpillFolder);
        using var scope = NewDisposeScope();
        using DecoderBlock block = model.LoadBlock(index, job.Device);
        return PruneLoaded(block, hidden, targets, decided: null, cancellation).Report;
    }

    private void Prune(int index, ActivationStore? hidden, ActivationStore? targets, Func<string, Tensor, Tensor>? decided, CancellationToken cancellation)
    {
        using var scope = NewDisposeScope();
        using DecoderBlock block = model.LoadBlock(index, job.Device);
        (BlockReport report, BlockMasks masks) = PruneLoaded(block, hidden, targets, decided, cancellation);
        journal.Write(index, [.. block.Tensors.Select(t => (t.Name, (Tensor)t.Value))], block.Tensors.ToDictionary(t => t.Name, t => StoredType(t.Name)), masks.Final, masks.First, report);
        foreach (LayerReport layer in report.Layers)
        {
            progress.Report($"sparsity/{layer.Name}", index, layer.Achieved);
        }
    }

    private (BlockReport Report, BlockMasks Masks) PruneLoaded(
        DecoderBlock block, ActivationStore? hidden, ActivationStore? targets, Func<string, Tensor, Tensor>? decided, CancellationToken cancellation)
    {
        var clock = Stopwatch.StartNew();
        var pruner = new BlockPruner(_plan, preview.Asked, decided);
        using BlockPruner.Watch? watch = hidden is null ? null : pruner.Observe(block, job.Device);
        using Tensor? probe = hidden is null ? null : ForwardDense(block, hidden, targets, cancellation);
        watch?.Stop();
        BlockMasks masks = pruner.Prune(block, watch, StoredType, cancellation);
        Dictionary<string, Tensor>? before = _plan is { Quantisation: not null, Reconstruction: not null }
            ? block.Linears.ToDictionary(l => l.Name, l => l.Linear.Matrix.detach().clone()) : null;
        BlockRepairResult? reconstruction = _plan.Reconstruction?.Repair(new BlockRepairContext
        {
            Block = block,
            Masks = masks.Final,
            Inputs = hidden!,
            Targets = targets!,
            Seed = new Seed(job.Seed.For($"reconstruct block {block.Index}")),
            Progress = progress,
            Cancellation = cancellation,
        });
        if (reconstruction is not null)
        {
            RoundToStored(block, masks, before);
        }

        double? error = null;
        if (hidden is not null)
        {
            // The inputs of this block become the inputs of the next: what the pruned block makes of them.
            Calibration.Forward(job, block, hidden, hidden, cancellation);
            using var scope = NewDisposeScope();
            Tensor pruned = hidden.Read(0, (int)probe!.shape[0]);
            double whole = probe.pow(2).sum(ScalarType.Float64).item<double>();
            error = whole <= 0 ? 0 : (pruned - probe).pow(2).sum(ScalarType.Float64).item<double>() / whole;
            progress.Report("block_error", block.Index, error.Value);
        }

        var report = new BlockReport(block.Index, masks.Layers, error, reconstruction, clock.Elapsed.TotalSeconds);
        return (report, masks);
    }

    // A finished block is read from the journal only to make the inputs of the next one.
    private void Replay(int index, ActivationStore? hidden, CancellationToken cancellation)
    {
        if (hidden is null)
        {
            return;
        }

        using var scope = NewDisposeScope();
        using var finished = new StreamedModel(model.Config, PrunedSource.WithBlock(checkpoint, journal, index));
        using DecoderBlock block = finished.LoadBlock(index, job.Device);
        Calibration.Forward(job, block, hidden, hidden, cancellation);
    }

    // The dense block's outputs: kept for the reconstruction, and of a few sequences for the output error.
    private Tensor ForwardDense(DecoderBlock block, ActivationStore hidden, ActivationStore? targets, CancellationToken cancellation)
    {
        Tensor? probe = null;
        Calibration.Forward(job, block, hidden, targets, cancellation, (from, output) =>
            probe ??= output.narrow(0, 0, Math.Min(output.shape[0], ProbeSequences)).clone().DetachFromDisposeScope());
        return probe!;
    }

    // Trained weights as they will be written: on the grid again where the plan quantises.
    private void RoundToStored(DecoderBlock block, BlockMasks masks, Dictionary<string, Tensor>? before)
    {
        using var _ = no_grad();
        foreach ((string name, TorchSharp.Modules.Parameter value) in block.Tensors)
        {
            using var scope = NewDisposeScope();
            value.copy_(value.to(StoredType(name)).to(ScalarType.Float32));
        }

        foreach (BlockLinear linear in block.Linears)
        {
            using var scope = NewDisposeScope();
            if (before is not null)
            {
                linear.Linear.SetMatrix(Grid.Round(linear.Linear.Matrix, _plan.Quantisation!.Type, before[linear.Name]));
            }

            EspalierException.Require(masks.Final[linear.Name].Revived(linear.Linear.Matrix) == 0,
                $"Layer-wise reconstruction revived a pruned weight of {linear.Name}; this is a fault of {PruningPlan.NameOf(_plan.Reconstruction!)}, please report it.");
        }
    }

    private ScalarType StoredType(string name) => ElementTypes.ScalarTypeOf(checkpoint.Info(name).ElementType);
}
