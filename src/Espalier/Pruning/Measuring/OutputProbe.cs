using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Pruning.Measuring;

/// <summary>One weight changed alone.</summary>
/// <param name="Weight">The weight's name.</param>
/// <param name="Number">The caller's number of this change.</param>
/// <param name="From">The first calibration sequence that is passed through it.</param>
/// <param name="Count">How many are.</param>
/// <param name="Make">The changed weight [out, in], float32, in the caller's scope; the dense one is handed over.</param>
public sealed record WeightChange(string Weight, int Number, int From, int Count, Func<Tensor, Tensor> Make);

/// <summary>
/// What becomes of the model's output when one weight alone is changed, for many changes, with one block in memory at a
/// time: what a change makes of its own block's output is carried through the blocks behind it; the blocks before it
/// are never run again.
/// </summary>
/// <param name="context">Model, text and where hidden states are kept.</param>
/// <param name="sequences">How many calibration sequences take part.</param>
public sealed class OutputProbe(MeasuringContext context, int sequences)
{
    private readonly int _blocks = context.Model.Config.LayerCount;

    /// <summary>Runs through all blocks.</summary>
    /// <param name="needs">What of the inputs of linear maps must be known to make the changes.</param>
    /// <param name="needed">Whether a block's changes are wanted; it may be done already.</param>
    /// <param name="changes">The changes of one linear map, told what is known of its inputs.</param>
    /// <param name="seen">The logits [tokens, vocabulary] of a change for one sequence, and those of the dense model.</param>
    /// <param name="end">All changes of a block were seen.</param>
    public void Run(
        Sparsity.CalibrationNeeds needs, Func<int, bool> needed, Func<Sparsity.LayerContext, IEnumerable<WeightChange>> changes,
        Action<WeightChange, int, Tensor, Tensor> seen, Action<int> end)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using ActivationStore dense = context.Room(sequences, 2), last = context.Room(sequences, 2);
        using IProgressTask task = context.Progress.Begin("measuring the output", _blocks, "block");
        context.Embed(dense, sequences);
        context.Embed(last, sequences);
        for (int i = 0; i < _blocks; i++)
        {
            using DecoderBlock block = context.Model.LoadBlock(i, context.Device);
            context.Forward(block, last);
        }

        for (int i = 0; i < _blocks; i++)
        {
            task.Describe($"changes of block {i + 1} of {_blocks}");
            using DecoderBlock block = context.Model.LoadBlock(i, context.Device);
            if (needed(i))
            {
                List<(WeightChange Change, ActivationStore Hidden)> carried = Changed(block, needs, dense, changes);
                try
                {
                    Carry(i, carried);
                    ToLogits(carried, last, seen);
                    end(i);
                }
                finally
                {
                    carried.ForEach(c => c.Hidden.Dispose());
                }
            }

            context.Forward(block, dense);
            NativeMemory.Trim();
            task.Advance();
        }
    }

    // What each change makes of the block's output.
    private List<(WeightChange, ActivationStore)> Changed(
        DecoderBlock block, Sparsity.CalibrationNeeds needs, ActivationStore dense, Func<Sparsity.LayerContext, IEnumerable<WeightChange>> changes)
    {
        using BlockPruner.Watch? watch = needs is Sparsity.CalibrationNeeds.None ? null : new BlockPruner.Watch(block, needs, context.Device);
        if (watch is not null)
        {
            using ActivationStore passing = Copy(dense, 0, sequences, 1);
            context.Forward(block, passing);
            watch.Stop();
        }

        var carried = new List<(WeightChange, ActivationStore)>();
        try
        {
            foreach (BlockLinear linear in block.Linears)
            {
                using var scope = NewDisposeScope();
                Tensor weight = linear.Linear.Matrix.detach().to(ScalarType.Float32).clone();
                Sparsity.LayerContext layer = watch is null ? new Sparsity.LayerContext { Name = linear.Name, Weight = weight } : watch.Of(linear.Stage).Context(linear.Name, weight);
                WeightChange[] all = [.. changes(layer)];
                foreach (WeightChange change in all)
                {
                    context.Cancellation.ThrowIfCancellationRequested();
                    using var step = NewDisposeScope();
                    linear.Linear.SetMatrix(change.Make(weight));
                    ActivationStore hidden = Copy(dense, change.From, change.Count, all.Length * block.Linears.Count);
                    carried.Add((change, hidden));
                    context.Forward(block, hidden);
                }

                linear.Linear.SetMatrix(weight);
            }
        }
        catch
        {
            carried.ForEach(c => c.Item2.Dispose());
            throw;
        }

        return carried;
    }

    private void Carry(int from, List<(WeightChange Change, ActivationStore Hidden)> carried)
    {
        for (int i = from + 1; i < _blocks; i++)
        {
            using var whole = NewDisposeScope();
            using DecoderBlock block = context.Model.LoadBlock(i, context.Device);
            carried.ForEach(c => context.Forward(block, c.Hidden));
        }
    }

    private void ToLogits(List<(WeightChange Change, ActivationStore Hidden)> carried, ActivationStore last, Action<WeightChange, int, Tensor, Tensor> seen)
    {
        using var whole = NewDisposeScope();
        using OutputHead head = context.Model.LoadHead(context.Device);
        for (int s = 0; s < sequences; s++)
        {
            using var scope = NewDisposeScope();
            Tensor dense = head.Forward(last.Read(s, 1))[0];
            foreach ((WeightChange change, ActivationStore hidden) in carried.Where(c => s >= c.Change.From && s < c.Change.From + c.Change.Count))
            {
                context.Cancellation.ThrowIfCancellationRequested();
                using var step = NewDisposeScope();
                seen(change, s, head.Forward(hidden.Read(s - change.From, 1))[0], dense);
            }
        }
    }

    private ActivationStore Copy(ActivationStore source, int from, int count, int stores)
    {
        ActivationStore copy = context.Room(count, stores);
        for (int i = 0; i < count; i++)
        {
            using var scope = NewDisposeScope();
            copy.Write(i, source.Read(from + i, 1));
        }

        return copy;
    }
}
