using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial class Gblm
{
    [ParityOp("gblm.grad_norms")]
    internal static IReadOnlyDictionary<string, Tensor> GradNormsOp(ParityCase c)
    {
        (Tensor l1, Tensor l2) = GradientNorms(c.Input("grads"), c.Parameter<double>("scale"));
        return new Dictionary<string, Tensor> { ["l1"] = l1, ["l2"] = l2 };
    }

    [ParityOp("gblm.mask")]
    internal static IReadOnlyDictionary<string, Tensor> MaskOp(ParityCase c)
    {
        string word = c.Parameter("mode", "sum");
        GblmMode mode = word switch
        {
            "sum" => GblmMode.Sum,
            "gradient" => GblmMode.Gradient,
            "inverse" or "gradient_inv" => GblmMode.Inverse,
            _ => throw new EspalierException($"'{word}' is no mode of GBLM; use sum, gradient or inverse."),
        };
        Tensor score = Score(c.Input("W"), c.Optional("scaler_row"), c.Input("grad_norm"), mode, "W");
        int pruneN = c.Parameter("prune_n", 0);
        Tensor keep = pruneN > 0
            ? MaskSelection.KeepLargestPerGroup(score, pruneN, c.Parameter<int>("m"), "W")
            : MaskSelection.KeepLargestPerRow(score, c.Parameter<double>("sparsity"), "W");
        return new Dictionary<string, Tensor> { ["score"] = score, ["keep"] = keep };
    }
}
