using Espalier.Catalogue;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

public sealed partial record Sst
{
    [ParityOp("sst.partition")]
    internal static IReadOnlyDictionary<string, Tensor> PartitionOp(ParityCase c)
    {
        double[] p = Probabilities(Numbers(c.Input("s")));
        int rank = c.Parameter<int>("r");
        long[] groups = [.. Partition(p, Numbers(c.Input("u")), rank).SelectMany(g => g.Concat(Enumerable.Repeat(-1L, rank - g.Length)))];
        return new Dictionary<string, Tensor> { ["p"] = tensor(p), ["groups"] = tensor(groups, ScalarType.Int64).view(-1, rank) };
    }

    [ParityOp("sst.enhanced_grads")]
    internal static IReadOnlyDictionary<string, Tensor> EnhancedGradsOp(ParityCase c)
    {
        (Tensor y, Tensor s, Tensor u, Tensor v) = Gradients(c, enhanced: true, (map, x) => map.Forward(x, x, null));
        (_, _, Tensor defaultU, Tensor defaultV) = Gradients(c, enhanced: false, (map, x) => map.Forward(x, x, null));
        return new Dictionary<string, Tensor>
        {
            ["y"] = y,
            ["grad_s"] = s,
            ["grad_u_enhanced"] = u,
            ["grad_v_enhanced"] = v,
            ["grad_u_default"] = defaultU,
            ["grad_v_default"] = defaultV,
        };
    }

    [ParityOp("sst.step")]
    internal static IReadOnlyDictionary<string, Tensor> StepOp(ParityCase c)
    {
        long[] active = [.. c.Input("active").to(ScalarType.Int64).data<long>()];
        // Without an active column s alone is trained: one column stands in and gets no gradient.
        using var map = new SpectralAdapter(c.Input("u"), c.Input("s"), c.Input("v"), Math.Max(1, active.Length));
        map.Activate(active.Length > 0 ? active : [0]);
        int moving = Math.Sign(active.Length);
        OptimizedParameter[] trained = [.. ((ILinearAdapter)map).Parameters.Select(p => new OptimizedParameter(p.Name, p.Value))];
        string word = c.Parameter("optimizer", "adam");
        EspalierException.Require(word is "sgd" or "adam", $"'{word}' is no optimizer of sst.step; it is sgd or adam.");
        using IOptimizer optimizer = word == "sgd" ? new Sgd(trained) : new AdamW(trained, c.Parameter("beta1", 0.9), c.Parameter("beta2", 0.999), c.Parameter("eps", 1e-8));
        for (long step = 0; step < c.Parameter("steps", c.Input("grads_w").shape[0]); step++)
        {
            Tensor g = c.Input("grads_w")[step].to(ScalarType.Float32), u = map.ActiveU.detach(), v = map.ActiveV.detach();
            map.S.grad = map.U.t().mm(g).mm(map.V).diag();
            map.ActiveU.grad = moving * g.mm(v);
            map.ActiveV.grad = moving * g.t().mm(u);
            if (c.Parameter("tangent", false))
            {
                map.ProjectGradients();
            }

            optimizer.Step(c.Parameter<double>("lr"));
            map.Constrain();
        }

        return new Dictionary<string, Tensor> { ["u"] = map.U.clone(), ["s"] = map.S.detach().clone(), ["v"] = map.V.clone(), ["w"] = map.Product() };
    }

    [ParityOp("sst.resvd")]
    internal static IReadOnlyDictionary<string, Tensor> ResvdOp(ParityCase c)
    {
        Tensor u = c.Input("u").to(ScalarType.Float64);
        using var map = new SpectralAdapter(u, c.Input("s"), c.Input("v"), 1);
        Tensor error = (u.t().mm(u) - eye(u.shape[1], dtype: ScalarType.Float64)).norm();
        map.Redecompose();
        return new Dictionary<string, Tensor> { ["w"] = map.Product(), ["s_new"] = map.S.detach().clone(), ["orth_error_before"] = error };
    }

    [ParityOp("sst.lorentz_points")]
    internal static IReadOnlyDictionary<string, Tensor> LorentzPointsOp(ParityCase c)
    {
        Tensor x = c.Input("x").to(ScalarType.Float64), distance = Lorentz.SquaredDistance(x, x.flip(0));
        return new Dictionary<string, Tensor>
        {
            ["exp0"] = Lorentz.Exp0(c.Input("tangent").to(ScalarType.Float64)),
            ["log0"] = Lorentz.Log0(x),
            ["sqdist_flip"] = distance,
            ["fermi_dirac_flip"] = Lorentz.LinkProbability(distance, c.Parameter("fd_r", 2.0), c.Parameter("fd_t", 1.0)),
        };
    }

    [ParityOp("sst.lorentz_linear")]
    internal static IReadOnlyDictionary<string, Tensor> LorentzLinearOp(ParityCase c)
    {
        Tensor logScale = tensor([c.Parameter("log_scale", Math.Log(10))], ScalarType.Float32);
        (Tensor y, Tensor s, Tensor u, Tensor v) = Gradients(c, enhanced: true, (map, x) => Lorentz.Lift(map.Forward(x, x, c.Optional("bias")), logScale));
        return new Dictionary<string, Tensor>
        {
            ["y"] = y,
            ["grad_s"] = s,
            ["grad_u_enhanced"] = u,
            ["grad_v_enhanced"] = v,
            ["centroid"] = Lorentz.Centroid(c.Input("agg_weights"), y),
        };
    }

    /// <summary>Output and gradients with all columns active.</summary>
    private static (Tensor Y, Tensor S, Tensor U, Tensor V) Gradients(ParityCase c, bool enhanced, Func<SpectralAdapter, Tensor, Tensor> forward)
    {
        using var map = new SpectralAdapter(c.Input("u"), c.Input("s"), c.Input("v"), c.Input("s").shape[0], enhanced);
        Tensor y = forward(map, c.Input("x"));
        y.backward([c.Input("grad_y")]);
        return (y.detach(), map.S.grad!.clone(), map.ActiveU.grad!.clone(), map.ActiveV.grad!.clone());
    }

    private static double[] Numbers(Tensor values) => [.. values.to(ScalarType.Float64).flatten().data<double>()];
}
