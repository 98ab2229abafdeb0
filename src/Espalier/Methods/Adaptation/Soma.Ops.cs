using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Verification;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

public sealed partial record Soma
{
    [ParityOp("soma.init")]
    internal static IReadOnlyDictionary<string, Tensor> InitOp(ParityCase c)
    {
        Tensor w = c.Input("w");
        long rank = c.Parameter<long>("r");
        double scaling = c.Parameter("lora_alpha", (double)rank) / rank;
        ThinSvd part = Part(ThinSvd.Of(w, "w"), rank, c.Parameter("first_eigen", false), "w");
        (Tensor a, Tensor b) = SomaAdapter.Factors(part, scaling);
        Tensor delta = scaling * b.mm(a);
        return new Dictionary<string, Tensor>
        {
            ["delta"] = delta,
            ["w_res"] = w.to(ScalarType.Float64) - delta,
            ["gram_a"] = a.t().mm(a),
            ["gram_b"] = b.mm(b.t()),
            ["s"] = part.S,
        };
    }

    [ParityOp("soma.linear")]
    internal static IReadOnlyDictionary<string, Tensor> LinearOp(ParityCase c)
    {
        Tensor residual = c.Input("w_res"), x = c.Input("x");
        using var adapter = new SomaAdapter(c.Input("a"), c.Input("b"), c.Parameter("scaling", 1.0), whole: false);
        using Parameter? bias = c.Optional("bias") is { } given ? Models.Parameters.Of(given.detach().clone()) : null;
        Tensor y = adapter.Forward(x, residual, bias);
        y.backward([c.Input("grad_y")]);
        var outputs = new Dictionary<string, Tensor>
        {
            ["y"] = y.detach(),
            ["grad_a"] = adapter.A.grad!.clone(),
            ["grad_b"] = adapter.B.grad!.clone(),
            ["merged"] = adapter.Merge(residual),
        };
        if (bias is not null)
        {
            outputs["grad_bias"] = bias.grad!.clone();
        }

        return outputs;
    }

    [ParityOp("soma.schedule")]
    internal static IReadOnlyDictionary<string, Tensor> ScheduleOp(ParityCase c)
    {
        long[] steps = [.. c.Input("step").to(ScalarType.Int64).flatten().data<long>()];
        long total = c.Parameter<long>("total");
        (double decay, double lastDecay) = (c.Parameter("base_wd", 0.05), c.Parameter("eta_min_wd", 1e-5));
        (double rate, double lastRate, double power) = (c.Parameter<double>("base_lr"), c.Parameter("eta_min_lr", 0.0), c.Parameter("power", 0.9));
        return new Dictionary<string, Tensor>
        {
            ["weight_decay"] = tensor([.. steps.Select(t => AnnealedDecay(t, total, decay, lastDecay))]).view(c.Input("step").shape),
            ["lr"] = tensor([.. steps.Select(t => PolynomialRate(t, total, rate, lastRate, power))]).view(c.Input("step").shape),
        };
    }

    [ParityOp("soma.rank_plan")]
    internal static IReadOnlyDictionary<string, Tensor> RankPlanOp(ParityCase c)
    {
        long[] blocks = [.. c.Input("block").to(ScalarType.Int64).flatten().data<long>()];
        IReadOnlyList<int>? ramp = c.Parameter("rank_ramp", false) ? new Soma { RampIndices = c.Parameter<int[]>("ramp_idx", [12, 16, 20]) }.RampIndices : null;
        (long rank, long start) = (c.Parameter<long>("r"), c.Parameter("start_idx", 8L));
        return new Dictionary<string, Tensor> { ["rank"] = tensor([.. blocks.Select(b => RankOf(b, rank, start, ramp))], ScalarType.Int64).view(c.Input("block").shape) };
    }
}
