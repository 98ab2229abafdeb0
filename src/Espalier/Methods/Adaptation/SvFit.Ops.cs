using Espalier.Catalogue;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

public sealed partial record SvFit
{
    [ParityOp("svfit.init")]
    internal static IReadOnlyDictionary<string, Tensor> InitOp(ParityCase c)
    {
        Tensor w = c.Input("w");
        ThinSvd svd = ThinSvd.Of(w, "w");
        ThinSvd leading = svd.Part(0, new SvFit { Rank = c.Parameter<int>("r") }.RankOf(svd, "w"));
        Tensor kept = leading.Product();
        return Single(new()
        {
            ["s"] = leading.S,
            ["w_r"] = kept,
            ["w_e"] = w.to(ScalarType.Float64) - kept,
            ["left_projector"] = leading.U.mm(leading.U.t()),
            ["right_projector"] = leading.Vt.t().mm(leading.Vt),
        });
    }

    [ParityOp("svfit.rank_for_fraction")]
    internal static IReadOnlyDictionary<string, Tensor> RankForFractionOp(ParityCase c)
    {
        double[] values = [.. c.Input("s").to(ScalarType.Float64).data<double>()];
        return new Dictionary<string, Tensor> { ["r"] = tensor((long)RankFor(values, c.Parameter<double>("fraction"), c.Parameter("power", 2.0))) };
    }

    [ParityOp("svfit.linear")]
    internal static IReadOnlyDictionary<string, Tensor> LinearOp(ParityCase c)
    {
        Tensor residual = c.Input("w_e"), x = c.Input("x").detach().clone().requires_grad_();
        using var adapter = new SvFitAdapter(c.Input("u"), c.Input("s"), c.Input("vt"));
        Tensor y = adapter.Forward(x, residual, c.Optional("bias"));
        y.backward([c.Input("grad_y")]);
        return new Dictionary<string, Tensor> { ["y"] = y.detach(), ["grad_s"] = adapter.S.grad!.clone(), ["grad_x"] = x.grad!, ["merged"] = adapter.Merge(residual) };
    }

    [ParityOp("svfit.train")]
    internal static IReadOnlyDictionary<string, Tensor> TrainOp(ParityCase c)
    {
        (Tensor w, Tensor x, Tensor y) = (c.Input("w"), c.Input("x"), c.Input("y"));
        using SvFitAdapter adapter = SvFitAdapter.Of(ThinSvd.Of(w, "w"), c.Parameter<long>("r"));
        var options = new TrainingOptions
        {
            Steps = c.Parameter<int>("steps"),
            LearningRate = c.Parameter<double>("lr"),
            Schedule = "constant",
            Beta1 = c.Parameter("beta1", 0.9),
            Beta2 = c.Parameter("beta2", 0.999),
            Epsilon = c.Parameter("eps", 1e-8),
            WeightDecay = c.Parameter("weight_decay", 0.0),
        };
        using var loop = new TrainingLoop(options, ((ILinearAdapter)adapter).Parameters, (_, _) => nn.functional.mse_loss(adapter.Forward(x, w, null), y));
        IReadOnlyList<double> losses = loop.Run().Losses;
        return Single(new() { ["s"] = adapter.Values().detach(), ["losses"] = tensor([.. losses]), ["merged"] = adapter.Merge(w) });
    }

    private static Dictionary<string, Tensor> Single(Dictionary<string, Tensor> outputs) => outputs.ToDictionary(o => o.Key, o => o.Value.to(ScalarType.Float32));
}
