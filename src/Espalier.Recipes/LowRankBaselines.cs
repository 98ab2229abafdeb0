using Espalier.Methods.Retraining;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>GaLore (Zhao et al., arXiv 2403.03507), a baseline: Adam on gradients projected to r directions, which are the leading singular vectors of the gradient and renewed every so many steps.</summary>
/// <param name="parameters">All parameters.</param>
/// <param name="projected">The names of the matrices whose gradients are projected; the others get plain Adam.</param>
/// <param name="rank">r.</param>
/// <param name="every">Steps between two decompositions.</param>
/// <param name="scale">Multiplies the projected update; the paper's is 0.25.</param>
internal sealed class GaloreOptimizer(IReadOnlyList<OptimizedParameter> parameters, IReadOnlySet<string> projected, int rank, int every, double scale = 0.25) : IOptimizer
{
    private const double Beta1 = 0.9, Beta2 = 0.999, Epsilon = 1e-8;

    private readonly AdamW _others = new([.. parameters.Where(p => !projected.Contains(p.Name))]);
    private readonly List<(OptimizedParameter Parameter, Tensor[] State)> _low = [.. parameters.Where(p => projected.Contains(p.Name)).Select(p => (p, new Tensor[3]))];
    private long _steps;

    /// <inheritdoc/>
    public string Description => $"galore rank={rank} every={every} scale={scale}";

    /// <inheritdoc/>
    public void Step(double learningRate)
    {
        using var frozen = no_grad();
        _others.Step(learningRate);
        foreach ((OptimizedParameter parameter, Tensor[] state) in _low)
        {
            using var scope = NewDisposeScope();
            Tensor gradient = parameter.Value.grad!;
            bool wide = gradient.shape[0] <= gradient.shape[1];
            if (_steps % every == 0)
            {
                ThinSvd svd = ThinSvd.Of(gradient, parameter.Name);
                Keep(ref state[0], wide ? svd.U.narrow(1, 0, rank).to(gradient.dtype).contiguous() : svd.Vt.narrow(0, 0, rank).to(gradient.dtype).contiguous());
            }

            Tensor low = wide ? state[0].t().mm(gradient) : gradient.mm(state[0].t());
            for (int i = 1; i < 3 && state[i] is null; i++)
            {
                state[i] = zeros_like(low).DetachFromDisposeScope();
            }

            state[1].mul_(Beta1).add_(low, 1 - Beta1);
            state[2].mul_(Beta2).addcmul_(low, low, 1 - Beta2);
            long t = _steps + 1;
            Tensor step = state[1] / (1 - Math.Pow(Beta1, t)) / ((state[2] / (1 - Math.Pow(Beta2, t))).sqrt() + Epsilon);
            parameter.Value.add_(wide ? state[0].mm(step) : step.mm(state[0]), -learningRate * scale);
        }

        _steps++;
    }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> SaveState() =>
        [.. _others.SaveState(), .. _low.SelectMany(l => l.State.OfType<Tensor>().Select((s, i) => ($"galore{i}.{l.Parameter.Name}", s)))];

    /// <inheritdoc/>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state) => throw new EspalierException("A recipe's baseline is not resumed.");

    /// <inheritdoc/>
    public void Dispose()
    {
        _others.Dispose();
        _low.ForEach(l => l.State.OfType<Tensor>().ToList().ForEach(s => s.Dispose()));
    }

    private static void Keep(ref Tensor held, Tensor next)
    {
        held?.Dispose();
        held = next.DetachFromDisposeScope();
    }
}

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
