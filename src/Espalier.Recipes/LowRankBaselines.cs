using Espalier.Methods.Retraining;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>ReLoRA without the full-rank start (Lialin et al., arXiv 2307.05695), a baseline: every so many steps the LoRA of each weight is folded in, begins anew, and its optimiser state too.</summary>
/// <param name="weights">The weights that carry LoRA.</param>
/// <param name="every">Steps between two merges.</param>
/// <param name="warmup">Steps after a merge over which the rate rises again.</param>
/// <param name="seed">Of the new factors.</param>
internal sealed class ReLora(IReadOnlyList<NetWeight> weights, int every, int warmup, Seed seed) : ITrainingHook
{
    /// <inheritdoc/>
    public void BeforeStep(TrainingStep step)
    {
        long place = step.Index % every;
        if (step.Index < every)
        {
            return;
        }

        if (place < warmup)
        {
            step.LearningRate *= (place + 1.0) / (warmup + 1.0);
        }

        using var frozen = no_grad();
        foreach (NetWeight weight in place == 0 ? weights : [])
        {
            using var scope = NewDisposeScope();
            var lora = (LowRankAdapter)weight.Adapter!;
            weight.SetMatrix(lora.Merge(weight.Matrix()));
            using Generator generator = seed.Generator($"ReLoRA {weight.Name} {step.Index}");
            lora.A.copy_(((2 * rand(lora.A.shape, generator: generator)) - 1) / Math.Sqrt(lora.A.shape[1]));
            lora.B.zero_();
            step.Loop.Optimizer.Restart($"{weight.Module}.lora_A");
            step.Loop.Optimizer.Restart($"{weight.Module}.lora_B");
        }
    }
}
