using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial class DSnoT
{
    [ParityOp("dsnot.stats")]
    internal static IReadOnlyDictionary<string, Tensor> StatsOp(ParityCase c)
    {
        DSnoTStatistics stats = Stats(c.Input("X"));
        return new Dictionary<string, Tensor> { ["sum_row"] = stats.SumRow, ["scaler_row"] = stats.ScalerRow, ["var"] = stats.Var, ["mean"] = stats.Mean };
    }

    [ParityOp("dsnot.reorder")]
    internal static IReadOnlyDictionary<string, Tensor> ReorderOp(ParityCase c)
    {
        (Tensor index, Tensor reordered) = Reorder(c.Input("D"));
        return new Dictionary<string, Tensor> { ["index"] = index, ["reordered"] = reordered };
    }

    [ParityOp("dsnot.refine")]
    internal static IReadOnlyDictionary<string, Tensor> RefineOp(ParityCase c)
    {
        Tensor keep = StartMask(c.Input("W"), c.Input("scaler_row"), StartMetric(c), c.Parameter<double>("sparsity"));
        return Refined(c, keep, Rules(c) with { RequireSameSign = c.Parameter("require_same_sign", false) });
    }

    [ParityOp("dsnot.refine_nm")]
    internal static IReadOnlyDictionary<string, Tensor> RefineNMOp(ParityCase c)
    {
        int m = c.Parameter<int>("m");
        Tensor keep = StartMaskNM(c.Input("W"), c.Input("scaler_row"), StartMetric(c), c.Parameter<int>("prune_n"), m);
        return Refined(c, keep, Rules(c) with { GroupSize = m, GroupMetric = StartMetric(c) });
    }

    private static Dictionary<string, Tensor> Refined(ParityCase c, Tensor keep, DSnoTRules rules)
    {
        DSnoTRefinement refined = Refine(c.Input("W"), keep, c.Input("sum_row"), c.Input("scaler_row"), c.Input("var"), rules, "W");
        return new Dictionary<string, Tensor>
        {
            ["keep"] = refined.Keep, ["swaps"] = refined.Swaps, ["error_start"] = refined.ErrorStart, ["error_end"] = refined.ErrorEnd,
        };
    }

    private static DSnoTRules Rules(ParityCase c) => new()
    {
        MaxCycle = c.Parameter("max_cycle", 50), Threshold = c.Parameter("threshold", 0.1), PowVar = c.Parameter("pow_var", 1.0),
    };

    private static DSnoTMetric StartMetric(ParityCase c) => c.Parameter("initial", "wanda") switch
    {
        "wanda" => DSnoTMetric.Wanda,
        "magnitude" => DSnoTMetric.Magnitude,
        string other => throw new EspalierException($"'{other}' is no start of DSnoT; it begins with wanda or magnitude."),
    };
}
