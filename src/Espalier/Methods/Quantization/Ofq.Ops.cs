using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

public sealed partial record Ofq
{
    [ParityOp("ofq.statsq")]
    internal static IReadOnlyDictionary<string, Tensor> StatsQOp(ParityCase c)
    {
        int bits = c.Parameter<int>("bits");
        StatsQWeight rounded = StatsQ.Quantise(c.Input("w"), bits, asPublished: true);
        Tensor w = c.Input("w").detach().clone().requires_grad_();
        StatsQ.StraightThrough(w, bits).backward([c.Input("grad_y")]);
        return new Dictionary<string, Tensor> { ["y"] = rounded.Value, ["scale"] = rounded.Scale, ["level"] = rounded.Level.to(ScalarType.Int64), ["grad_w"] = w.grad!.clone() };
    }

    [ParityOp("ofq.cga_mask")]
    internal static IReadOnlyDictionary<string, Tensor> CgaMaskOp(ParityCase c)
    {
        Tensor frozen = Frozen(c.Input("w"), c);
        return new Dictionary<string, Tensor> { ["frozen"] = frozen.to(ScalarType.Byte), ["grad_masked"] = c.Input("grad").masked_fill(frozen, 0) };
    }

    [ParityOp("ofq.cga_train")]
    internal static IReadOnlyDictionary<string, Tensor> CgaTrainOp(ParityCase c)
    {
        string kind = c.Parameter<string>("optimizer");
        EspalierException.Require(kind is "adamw" or "sgd", $"'{kind}' is no optimizer of this operation; use adamw or sgd.");
        using var w = Models.Parameters.Of(c.Input("w").clone());
        var parameter = new OptimizedParameter("w", w, new ParameterGroup());
        double decay = c.Parameter("weight_decay", 0.0);
        using IOptimizer optimizer = kind == "sgd"
            ? new Sgd([parameter], c.Parameter("momentum", 0.0), decay)
            : new AdamW([parameter], c.Parameter("beta1", 0.9), c.Parameter("beta2", 0.999), c.Parameter("eps", 1e-8), decay);
        var masks = new List<Tensor>();
        for (int t = 0; t < Math.Min(c.Parameter("steps", (int)c.Input("grads").shape[0]), c.Input("grads").shape[0]); t++)
        {
            using var frozenGraph = no_grad();
            Tensor frozen = Frozen(w, c), before = w.detach().clone();
            w.grad = c.Input("grads").select(0, t).masked_fill(frozen, 0);
            optimizer.Step(c.Parameter<double>("lr"));
            w.copy_(where(frozen, before, w));
            masks.Add(frozen.to(ScalarType.Byte));
        }

        w.grad = null;
        return new Dictionary<string, Tensor> { ["w"] = w.detach().clone(), ["frozen"] = stack([.. masks]) };
    }

    [ParityOp("ofq.qkr")]
    internal static IReadOnlyDictionary<string, Tensor> QkrOp(ParityCase c)
    {
        Tensor product = QueryKeyProduct.Of(c.Input("wq"), c.Input("wk"), c.Parameter<int>("heads"));
        Tensor rounded = StatsQ.Quantise(product.flatten(0, 1), c.Parameter<int>("bits"), asPublished: true).Value.view(product.shape);
        return new Dictionary<string, Tensor>
        {
            ["w_qk"] = product,
            ["w_qk_quantized"] = rounded,
            ["scores"] = QueryKeyProduct.Scores(c.Input("x"), rounded),
            ["scores_float"] = QueryKeyProduct.Scores(c.Input("x"), product),
        };
    }

    [ParityOp("ofq.lsq")]
    internal static IReadOnlyDictionary<string, Tensor> LsqOp(ParityCase c)
    {
        string axis = c.Parameter<string>("axis");
        EspalierException.Require(axis is "token" or "channel", $"'{axis}' is no axis of step sizes; use token or channel.");
        var lsq = new Lsq(c.Parameter<int>("bits"), c.Parameter<bool>("all_positive"), axis == "token" ? LsqAxis.Token : LsqAxis.Channel);
        Tensor x = c.Input("x").detach().clone().requires_grad_(), s = c.Input("s").detach().clone().requires_grad_();
        Tensor y = lsq.Quantise(x, s);
        y.backward([c.Input("grad_y")]);
        return new Dictionary<string, Tensor> { ["init_s"] = lsq.Start(x), ["y"] = y.detach(), ["grad_x"] = x.grad!.clone(), ["grad_s"] = s.grad!.clone() };
    }

    [ParityOp("ofq.track_oscillation")]
    internal static IReadOnlyDictionary<string, Tensor> TrackOscillationOp(ParityCase c)
    {
        double threshold = c.Parameter("freeze_threshold", 0.0);
        using var tracker = new OscillationTracker(c.Parameter<double>("momentum"), threshold, c.Parameter("use_ema_x_int", true));
        var outputs = new List<Tensor>();
        var rates = new List<Tensor>();
        for (long t = 0; t < c.Input("x_int").shape[0]; t++)
        {
            outputs.Add(tracker.Observe(c.Input("x_int").select(0, t)));
            rates.Add(tracker.Rate!.clone());
        }

        var result = new Dictionary<string, Tensor> { ["output"] = stack([.. outputs]), ["ema"] = stack([.. rates]), ["total"] = tracker.Total!.clone() };
        if (threshold > 0)
        {
            result["frozen"] = tracker.Frozen!.to(ScalarType.Byte);
        }

        return result;
    }

    private static Tensor Frozen(Tensor w, ParityCase c)
    {
        StatsQWeight rounded = StatsQ.Quantise(w, c.Parameter<int>("bits"), asPublished: true);
        return ConfidentWeights.Frozen(rounded.Position, rounded.Level, c.Parameter<double>("boundary_range"));
    }
}
