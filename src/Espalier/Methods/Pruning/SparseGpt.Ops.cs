using Espalier.Catalogue;
using Espalier.Sparsity;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial class SparseGpt
{
    [ParityOp("sparsegpt.hessian")]
    internal static IReadOnlyDictionary<string, Tensor> HessianOp(ParityCase c)
    {
        Tensor X = c.Input("X");
        using var statistics = new LayerStatistics(CalibrationNeeds.Hessian, X.shape[^1], X.device);
        statistics.Observe(X);
        return new Dictionary<string, Tensor> { ["H"] = statistics.Context("X", X).Hessian!.clone() };
    }

    [ParityOp("sparsegpt.prune")]
    internal static IReadOnlyDictionary<string, Tensor> PruneOp(ParityCase c)
    {
        int pruneN = c.Parameter("prune_n", 0);
        SparseGpt method = From(c);
        SparseGptResult result = pruneN > 0
            ? method.PruneGroups(c.Input("W"), c.Input("H"), pruneN, c.Parameter<int>("m"), "W")
            : method.PruneFreely(c.Input("W"), c.Input("H"), c.Parameter<double>("sparsity"), "W");
        return new Dictionary<string, Tensor> { ["W_pruned"] = result.Weight, ["keep"] = result.Keep, ["loss_rows"] = result.LossRows };
    }

    [ParityOp("sparsegpt.update_given_mask")]
    internal static IReadOnlyDictionary<string, Tensor> UpdateGivenMaskOp(ParityCase c) => new Dictionary<string, Tensor>
    {
        ["W_pruned"] = From(c).Update(c.Input("W"), c.Input("H"), c.Input("keep"), "W").Weight,
    };

    private static SparseGpt From(ParityCase c) => new() { Blocksize = c.Parameter("blocksize", 128), Percdamp = c.Parameter("percdamp", 0.01) };
}
