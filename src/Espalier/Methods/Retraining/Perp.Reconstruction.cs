using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;
using Linear = Espalier.Models.Linear;

namespace Espalier.Methods.Retraining;

public sealed partial class Perp
{
    /// <summary>
    /// Rebuilds one pruned block: trains the subset so that the block answers as the dense one did, by the mean squared error
    /// over one sequence at a time, in cyclic order. Where the error did not fall, the block is left as it was.
    /// </summary>
    /// <inheritdoc/>
    public BlockRepairResult Repair(BlockRepairContext context)
    {
        RequireMergeable();
        using TrainableSubset subset = TrainableSubset.Select([context.Block], this, context.Masks, context.Seed, context.Progress);
        using var scope = NewDisposeScope();
        var task = new Reconstruction(x => context.Block.Forward(x), i => context.Inputs.Read(i, 1), i => context.Targets.Read(i, 1), context.Inputs.Count);
        Tensor[] before = [.. subset.Parameters.Select(p => p.Value.detach().clone())];
        double errorBefore = task.Error();
        using var loop = new TrainingLoop(ReconstructionOptions, subset.Parameters, task) { Masks = MasksOf([context.Block], context.Masks), Progress = context.Progress };
        loop.Run(context.Cancellation);

        foreach (LoraPruneAdapter adapter in subset.Adapters.Select(a => a.Adapter).OfType<LoraPruneAdapter>())
        {
            adapter.AsMerged = true; // what counts is the block as it will be written
        }

        double errorAfter = task.Error();
        bool kept = errorAfter < errorBefore;
        if (kept)
        {
            subset.Merge(context.Progress);
            KeptZeros.Require([context.Block], context.Masks, "perp");
        }
        else
        {
            using var _ = no_grad();
            for (int i = 0; i < before.Length; i++)
            {
                subset.Parameters[i].Value.copy_(before[i]);
            }

            context.Progress.Warn($"Reconstructing block {context.Block.Index} did not lower its error ({errorBefore:G4} before, {errorAfter:G4} after {Steps} steps); it is left as it was. A smaller learning rate may help.");
        }

        return new BlockRepairResult(errorBefore, errorAfter, subset.Count, kept);
    }

    /// <summary>The run over one block: linear decay after ⌊0.1·T⌋ steps of warm-up.</summary>
    private TrainingOptions ReconstructionOptions => new()
    {
        Steps = Steps,
        LearningRate = PeakLearningRate,
        WeightDecay = WeightDecay,
        WarmupSteps = PerpSchedule.Warmup(PerpMode.Reconstruct, Steps),
        SaveEvery = 0,
    };

    /// <summary>Rebuilds one pruned linear map from what the dense one put out, with MaskLoRA and, if asked, its bias.</summary>
    /// <param name="inputs">X [sequences, tokens, in].</param>
    /// <param name="targets">Y [sequences, tokens, out], the dense map's outputs.</param>
    /// <param name="linear">The pruned map; its weight stays as it is, its bias is trained in place when asked.</param>
    /// <param name="adapter">The adapter, trained in place; merge it to get the result.</param>
    /// <param name="trainBias">Whether the bias is trained too.</param>
    /// <param name="options">The run; its warm-up belongs to <see cref="PerpSchedule"/>.</param>
    /// <returns>The loss before each step, and the mean squared error over all sequences before and after.</returns>
    public static (IReadOnlyList<double> Losses, double ErrorBefore, double ErrorAfter) Reconstruct(
        Tensor inputs, Tensor targets, Linear linear, MaskLoraAdapter adapter, bool trainBias, TrainingOptions options)
    {
        EspalierException.Require(inputs.dim() == 3 && targets.dim() == 3 && inputs.shape[0] == targets.shape[0] && inputs.shape[0] > 0 && inputs.shape[1] == targets.shape[1],
            $"Inputs [{string.Join(", ", inputs.shape)}] and targets [{string.Join(", ", targets.shape)}] do not belong together; both are [sequences, tokens, width].");
        EspalierException.Require(!trainBias || linear.bias is not null, $"The bias of {adapter.Name} cannot be trained: it has none.");
        using var scope = NewDisposeScope();
        List<(string, Parameter)> trainable = [.. ((ILinearAdapter)adapter).Parameters];
        linear.weight.requires_grad = false;
        if (linear.bias is not null)
        {
            linear.bias.requires_grad = trainBias;
        }

        if (trainBias)
        {
            trainable.Add(("bias", linear.bias!));
        }

        linear.Adapter = adapter;
        try
        {
            var task = new Reconstruction(linear.call, i => inputs.narrow(0, i, 1), i => targets.narrow(0, i, 1), (int)inputs.shape[0]);
            double before = task.Error();
            using var loop = new TrainingLoop(options, trainable, task);
            TrainingResult result = loop.Run();
            return (result.Losses, before, task.Error());
        }
        finally
        {
            linear.Adapter = null;
        }
    }

    /// <summary>Mean squared error between what a part of the model puts out and what it should, one sequence at a time.</summary>
    private sealed class Reconstruction(Func<Tensor, Tensor> forward, Func<int, Tensor> input, Func<int, Tensor> target, int count) : ITrainingObjective
    {
        /// <summary>Step k looks at sequence k mod N.</summary>
        public Tensor Loss(long step, int microBatch) => Of((int)(step % count));

        /// <summary>The mean over all sequences.</summary>
        public double Error()
        {
            using var _ = no_grad();
            double sum = 0;
            for (int i = 0; i < count; i++)
            {
                using var scope = NewDisposeScope();
                sum += Of(i).to(ScalarType.Float64).item<double>();
            }

            return sum / count;
        }

        private Tensor Of(int i)
        {
            using var scope = NewDisposeScope();
            return nn.functional.mse_loss(forward(input(i)), target(i)).MoveToOuterDisposeScope();
        }
    }
}
