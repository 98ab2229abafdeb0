using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Training;
using Espalier.Verification;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

public sealed partial record Sara
{
    [ParityOp("sara.select")]
    internal static IReadOnlyDictionary<string, Tensor> SelectOp(ParityCase c)
    {
        Tensor w = c.Input("w");
        double threshold = c.Parameter<double>("threshold");
        if (c.HasParameter("default_lr"))
        {
            (double ours, double theirs) = (LearningRateFor(threshold), c.Parameter<double>("default_lr"));
            EspalierException.Require(Math.Abs(ours - theirs) <= 1e-9 * Math.Abs(theirs), FormattableString.Invariant($"The learning rate of the threshold {threshold} is {ours:G12} here and {theirs:G12} in the case."));
        }

        Tensor mask = Select(w, threshold);
        long count = mask.sum().item<long>();
        var outputs = new Dictionary<string, Tensor> { ["mask"] = mask.to(ScalarType.Byte), ["count"] = tensor(count) };
        if (count > 0)
        {
            outputs["values"] = w.masked_select(mask);
        }

        return outputs;
    }

    [ParityOp("sara.threshold_for_ratio")]
    internal static IReadOnlyDictionary<string, Tensor> ThresholdForRatioOp(ParityCase c)
    {
        Tensor[] pool = [c.Input("w1"), c.Input("w2")];
        double threshold = ThresholdFor(pool, c.Parameter<double>("ratio"));
        return new Dictionary<string, Tensor> { ["threshold"] = tensor((float)threshold), ["count"] = tensor(pool.Sum(w => Select(w, threshold).sum().item<long>())) };
    }

    [ParityOp("sara.nuclear_grad")]
    internal static IReadOnlyDictionary<string, Tensor> NuclearGradOp(ParityCase c)
    {
        (double loss, Tensor gradient) = NuclearNorm(c.Input("p"), c.Input("mask"), c.Parameter<double>("lambda_rank"));
        return new Dictionary<string, Tensor> { ["loss"] = tensor(loss), ["grad"] = gradient };
    }

    [ParityOp("sara.packed_linear")]
    internal static IReadOnlyDictionary<string, Tensor> PackedLinearOp(ParityCase c)
    {
        Tensor theta = c.Input("theta").detach().clone().requires_grad_(), x = c.Input("x").detach().clone().requires_grad_();
        Tensor y = PackedLinear(x, c.Input("w"), c.Input("mask").to(ScalarType.Bool), theta);
        y.backward([c.Input("grad_y")]);
        return new Dictionary<string, Tensor> { ["y"] = y.detach(), ["grad_theta"] = theta.grad!, ["grad_x"] = x.grad! };
    }

    /// <summary>Step 6: y = x·Wᵀ with θ scattered into W's selected entries; its backward gathers the gradient of θ [|M|], and the dense one is freed at once.</summary>
    /// <param name="x">[..., in].</param>
    /// <param name="weight">W [out, in].</param>
    /// <param name="mask">M [out, in], bool.</param>
    /// <param name="theta">θ [|M|], in memory order.</param>
    /// <exception cref="EspalierException">When θ is of another length.</exception>
    public static Tensor PackedLinear(Tensor x, Tensor weight, Tensor mask, Tensor theta)
    {
        using var scope = NewDisposeScope();
        long selected = mask.sum().item<long>();
        EspalierException.Require(theta.numel() == selected, $"The mask selects {selected} entries, but {theta.numel()} values were given; the base weights are not those the adapter was made from.");
        return nn.functional.linear(x, weight.detach().masked_scatter(mask, theta)).MoveToOuterDisposeScope();
    }

    [ParityOp("sara.train")]
    internal static IReadOnlyDictionary<string, Tensor> TrainOp(ParityCase c)
    {
        double threshold = c.Parameter<double>("threshold"), lambda = c.Parameter("lambda_rank", 0.0);
        long progressive = c.Parameter("progressive_iter", -1L), steps = c.Parameter("steps", c.Input("grads").shape[0]);
        using Parameter w = Models.Parameters.Of(c.Input("w").detach().clone());
        using Tensor mask0 = Select(w, threshold);
        using var optimizer = new SaraOptimizer(
            [new OptimizedParameter("w", w)], new Dictionary<string, Tensor> { ["w"] = mask0 }, c.Parameter("beta1", 0.9), c.Parameter("beta2", 0.999), c.Parameter("eps", 1e-8), c.Parameter("weight_decay", 1e-2), packed: false);
        for (long step = 0; step < steps; step++)
        {
            if (step == progressive)
            {
                optimizer.Shrink(threshold);
            }

            Tensor gradient = c.Input("grads")[step].clone();
            Tensor mask = optimizer.MaskOf("w");
            if (lambda > 0 && w.dim() == 2 && mask.sum().item<long>() > FewestForRank)
            {
                gradient.add_(NuclearNorm(w, mask, lambda).Gradient);
            }

            w.grad = gradient;
            optimizer.Step(c.Parameter<double>("lr"));
        }

        (Tensor first, Tensor second) = optimizer.MomentsOf("w");
        return new Dictionary<string, Tensor>
        {
            ["w"] = w.detach().clone(),
            ["mask0"] = mask0.to(ScalarType.Byte),
            ["mask_final"] = optimizer.MaskOf("w").to(ScalarType.Byte),
            ["exp_avg"] = first.clone(),
            ["exp_avg_sq"] = second.clone(),
        };
    }
}
