using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial class Flap
{
    [ParityOp("flap.stats")]
    internal static IReadOnlyDictionary<string, Tensor> StatsOp(ParityCase c)
    {
        Tensor X = c.Input("X"), W = c.Input("W");
        using var accumulator = new FlapAccumulator(X.shape[^1], X.device);
        accumulator.Observe(X);
        FlapStatistics seen = accumulator.Figures();
        return new Dictionary<string, Tensor>
        {
            ["baseline"] = seen.Baseline, ["fluctuation"] = seen.Fluctuation, ["scaler"] = seen.Scaler,
            ["IFV"] = Metric(seen.Fluctuation, W, FlapMetric.Ifv, attention: false, "W"),
            ["WIFV"] = Metric(seen.Fluctuation, W, FlapMetric.Wifv, attention: false, "W"),
            ["WIFN"] = Metric(seen.Scaler, W, FlapMetric.Wifn, attention: false, "W"),
        };
    }

    [ParityOp("flap.search")]
    internal static IReadOnlyDictionary<string, Tensor> SearchOp(ParityCase c)
    {
        Tensor mlp = c.Input("mlp_metric");
        var asked = new FlapSearch
        {
            Structure = c.Parameter("structure", "AL-AM") switch
            {
                "AL-AM" => FlapStructure.AlAm,
                "AL-MM" => FlapStructure.AlMm,
                "UL-UM" => FlapStructure.UlUm,
                "UL-MM" => FlapStructure.UlMm,
                string other => throw new EspalierException($"'{other}' is no structure of FLAP; it has AL-AM, AL-MM, UL-UM and UL-MM."),
            },
            Ratio = c.Parameter<double>("ratio"), Units = new FlapUnits(c.Parameter<int>("head_dim")),
            RemoveHeads = c.Parameter("remove_heads", -1), Hidden = c.Parameter("hidden", 0L),
            Intermediate = c.Parameter("intermediate", mlp.shape[1]),
        };
        long promised = c.Parameter("remove_neurons", -1L);
        if (asked.Structure is FlapStructure.AlMm && promised >= 0)
        {
            long count = NeuronsToRemove(mlp.shape[0], asked.Intermediate.Value, asked, asked.RemoveHeads);
            EspalierException.Require(count == promised, $"{count} neurons are to be removed by the formula, the case says {promised}.");
        }

        FlapChoice found = Search(c.Input("attn_metric"), mlp, asked);
        return new Dictionary<string, Tensor>
        {
            ["attn_keep"] = found.KeepHeads, ["mlp_keep"] = found.KeepNeurons, ["attn_score"] = found.HeadScore, ["mlp_score"] = found.NeuronScore,
            ["kept_fraction"] = tensor(found.KeptFraction),
        };
    }

    [ParityOp("flap.compensate")]
    internal static IReadOnlyDictionary<string, Tensor> CompensateOp(ParityCase c)
    {
        (Tensor bias, Tensor pruned) = Compensate(c.Input("W"), c.Input("baseline"), c.Input("keep"), c.Parameter("head_dim", 1), layer: "W");
        return new Dictionary<string, Tensor> { ["bias"] = bias, ["W_pruned"] = pruned };
    }
}
