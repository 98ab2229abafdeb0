using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Pruning.Measuring;

/// <summary>
/// One backward pass of the dense model over calibration text that never holds more than one block: a forward pass keeps
/// what enters each block, then the blocks are gone through from the last to the first, each with the gradient that
/// the one behind it handed down.
/// </summary>
/// <param name="context">Model, text and where hidden states are kept.</param>
/// <param name="sequencesAtOnce">How many sequences share one loss, the mean cross-entropy over their predicted tokens; 1 gives gradients per sample.</param>
/// <param name="sequences">How many calibration sequences take part.</param>
public sealed class GradientPass(MeasuringContext context, int sequencesAtOnce, int sequences)
{
    private readonly int _blocks = context.Model.Config.LayerCount;

    /// <summary>Goes back through the model.</summary>
    /// <param name="needed">Whether a block's gradients are wanted (it may be done already); the gradient is handed through it all the same.</param>
    /// <param name="begin">A block's turn begins: its linear maps, whose weights are dense.</param>
    /// <param name="seen">The gradient [out, in], float32, of one linear map's weight for one loss (number, from 0).</param>
    /// <param name="end">A block's turn ends: all losses were seen.</param>
    /// <exception cref="EspalierException">When a loss or a gradient is not finite.</exception>
    public void Run(Func<int, bool> needed, Action<DecoderBlock> begin, Action<BlockLinear, Tensor, int> seen, Action<DecoderBlock> end)
    {
        var inputs = new ActivationStore?[_blocks + 1];
        using ActivationStore gradients = context.Room(sequences, _blocks + 2);
        using IProgressTask task = context.Progress.Begin("measuring gradients", 2L * _blocks, "block");
        try
        {
            KeepInputs(inputs, task);
            FromHead(inputs[_blocks]!, gradients);
            for (int i = _blocks - 1; i >= 0; i--)
            {
                task.Describe($"block {i + 1} of {_blocks}");
                inputs[i + 1]!.Dispose();
                inputs[i + 1] = null;
                using var whole = NewDisposeScope();
                using DecoderBlock block = context.Model.LoadBlock(i, context.Device);
                bool wanted = needed(i);
                if (wanted)
                {
                    begin(block);
                }

                for (int from = 0, loss = 0; from < sequences; from += sequencesAtOnce, loss++)
                {
                    context.Cancellation.ThrowIfCancellationRequested();
                    ThroughBlock(block, inputs[i]!, gradients, from, loss, wanted ? seen : null);
                }

                if (wanted)
                {
                    end(block);
                }

                NativeMemory.Trim();
                task.Advance();
            }
        }
        finally
        {
            Array.ForEach(inputs, s => s?.Dispose());
        }
    }

    private void KeepInputs(ActivationStore?[] inputs, IProgressTask task)
    {
        inputs[0] = context.Room(sequences, _blocks + 2);
        context.Embed(inputs[0]!, sequences);
        using var _ = no_grad();
        for (int i = 0; i < _blocks; i++)
        {
            inputs[i + 1] = context.Room(sequences, _blocks + 2);
            using var whole = NewDisposeScope();
            using DecoderBlock block = context.Model.LoadBlock(i, context.Device);
            for (int from = 0; from < sequences; from += sequencesAtOnce)
            {
                context.Cancellation.ThrowIfCancellationRequested();
                using var scope = NewDisposeScope();
                inputs[i + 1]!.Write(from, block.Forward(inputs[i]!.Read(from, Count(from))));
            }

            task.Advance();
        }
    }

    // The loss, and its gradient with respect to what leaves the last block.
    private void FromHead(ActivationStore hidden, ActivationStore gradients)
    {
        using var whole = NewDisposeScope();
        using OutputHead head = context.Model.LoadHead(context.Device);
        for (int from = 0; from < sequences; from += sequencesAtOnce)
        {
            context.Cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            using var _ = enable_grad();
            Tensor x = hidden.Read(from, Count(from)).detach().clone().requires_grad_();
            Tensor loss = context.Loss(head.Forward(x), from);
            EspalierException.Require(double.IsFinite(loss.item<float>()), $"The loss of calibration sequence {from} is not a finite number; the model itself overflows or holds NaN.");
            gradients.Write(from, autograd.grad([loss], [x])[0]);
        }
    }

    private void ThroughBlock(DecoderBlock block, ActivationStore inputs, ActivationStore gradients, int from, int loss, Action<BlockLinear, Tensor, int>? seen)
    {
        using var scope = NewDisposeScope();
        using var _ = enable_grad();
        Tensor x = inputs.Read(from, Count(from)).detach().clone().requires_grad_();
        Tensor y = block.Forward(x);
        IReadOnlyList<BlockLinear> linears = seen is null ? [] : block.Linears;
        IList<Tensor> found = autograd.grad([y], [x, .. linears.Select(l => (Tensor)l.Linear.weight)], [gradients.Read(from, Count(from))]);
        gradients.Write(from, found[0]);
        using var __ = no_grad();
        for (int i = 0; i < linears.Count; i++)
        {
            Tensor gradient = linears[i].Linear.Layout is WeightLayout.OutIn ? found[i + 1] : found[i + 1].t();
            seen!(linears[i], gradient, loss);
        }
    }

    private int Count(int from) => Math.Min(sequencesAtOnce, sequences - from);
}
