using Espalier.Catalogue;
using Espalier.Models;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;
using Parameter = TorchSharp.Modules.Parameter;

namespace Espalier.Methods.Pruning;

public sealed partial record Mfac
{
    [ParityOp("mfac.static_ihvp")]
    internal static IReadOnlyDictionary<string, Tensor> StaticOp(ParityCase c)
    {
        using var fisher = new InverseFisher(c.Input("grads"), c.Parameter<double>("damp"));
        return new Dictionary<string, Tensor> { ["ihvp"] = fisher.Multiply(c.Input("x")), ["diag"] = fisher.Diagonal(), ["denom"] = fisher.Denominators[0].clone() };
    }

    [ParityOp("mfac.blocked_ihvp")]
    internal static IReadOnlyDictionary<string, Tensor> BlockedOp(ParityCase c)
    {
        using var fisher = new InverseFisher(c.Input("grads"), c.Parameter<double>("damp"), c.Parameter("blocksize", -1L));
        return new Dictionary<string, Tensor> { ["ihvp"] = fisher.Multiply(c.Input("x")), ["diag"] = fisher.Diagonal() };
    }

    [ParityOp("mfac.obs_prune")]
    internal static IReadOnlyDictionary<string, Tensor> PruneOp(ParityCase c)
    {
        ObsStep step = Step(c.Input("w"), c.Input("mask"), c.Input("grads"), c.Parameter<double>("sparsity"), c.Parameter<double>("damp"), c.Parameter("blocksize", -1L));
        return new Dictionary<string, Tensor>
        {
            ["w_new"] = step.Weight, ["mask_new"] = step.Keep.to(ScalarType.Float32), ["score"] = step.Score, ["ndrop"] = tensor(step.Dropped),
        };
    }

    [ParityOp("mfac.recomputation_ladder")]
    internal static IReadOnlyDictionary<string, Tensor> LadderOp(ParityCase c) =>
        new Dictionary<string, Tensor> { ["sparsity"] = tensor(Ladder(c.Parameter<double>("from"), c.Parameter<double>("to"), c.Parameter<int>("nrecomps")).ToArray()) };

    [ParityOp("mfac.dynamic_update_mul")]
    internal static IReadOnlyDictionary<string, Tensor> DynamicOp(ParityCase c)
    {
        Tensor stream = c.Input("grad_stream");
        using var window = new InverseFisherWindow(c.Parameter<long>("m"), stream.shape[1], c.Parameter<double>("damp"));
        var products = new List<Tensor>();
        foreach (Tensor gradient in stream.unbind())
        {
            window.Add(gradient);
            products.Add(window.Multiply(gradient));
        }

        return new Dictionary<string, Tensor>
        {
            ["ihvp"] = stack(products), ["ihvp_x"] = window.Multiply(c.Input("x")), ["D"] = window.Differences.clone(), ["B"] = window.Basis.clone(),
        };
    }

    [ParityOp("mfac.optimizer_steps")]
    internal static IReadOnlyDictionary<string, Tensor> OptimizerOp(ParityCase c)
    {
        Tensor A = c.Input("A").to(ScalarType.Float64), y = c.Input("y").to(ScalarType.Float64);
        using Parameter w = Parameters.Of(c.Input("w0").to(ScalarType.Float64).clone());
        using var optimizer = new MfacOptimizer(
            [new OptimizedParameter("w", w)], c.Parameter<int>("ngrads"), c.Parameter<double>("damp"), c.Parameter("momentum", 0.0), c.Parameter("weight_decay", 0.0), c.Parameter("sparse", false));
        var steps = new List<Tensor>();
        foreach (Tensor rows in c.Input("batches").unbind())
        {
            w.grad = null;
            (A.index_select(0, rows).mv(w) - y.index_select(0, rows)).square().mean().backward();
            optimizer.Step(c.Parameter<double>("lr"));
            steps.Add(w.detach().clone());
        }

        return new Dictionary<string, Tensor> { ["w"] = stack(steps) };
    }
}
