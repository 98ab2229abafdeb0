using Espalier.Catalogue;
using Espalier.Evaluation;
using Espalier.Sparsity;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial class Wanda
{
    [ParityOp("wanda.input_norms")]
    internal static IReadOnlyDictionary<string, Tensor> InputNormsOp(ParityCase c)
    {
        Tensor X = c.Input("X");
        using var statistics = new LayerStatistics(CalibrationNeeds.InputNorms, X.shape[^1], X.device);
        statistics.Observe(X);
        return new Dictionary<string, Tensor> { ["scaler_row"] = statistics.Context("X", X).InputNorms! };
    }

    [ParityOp("wanda.mask")]
    internal static IReadOnlyDictionary<string, Tensor> MaskOp(ParityCase c) =>
        Outputs(c, score => MaskSelection.KeepLargestPerRow(score, c.Parameter<double>("sparsity"), "W"));

    [ParityOp("wanda.mask_nm")]
    internal static IReadOnlyDictionary<string, Tensor> MaskNMOp(ParityCase c) =>
        Outputs(c, score => MaskSelection.KeepLargestPerGroup(score, c.Parameter<int>("prune_n"), c.Parameter<int>("m"), "W"));

    [ParityOp("wanda.mask_variant")]
    internal static IReadOnlyDictionary<string, Tensor> MaskVariantOp(ParityCase c)
    {
        (Tensor keep, double alpha, double sparsity) = MaskVariant(Score(c.Input("W"), c.Input("scaler_row")), c.Parameter<double>("sparsity"));
        return new Dictionary<string, Tensor> { ["keep"] = keep, ["alpha"] = tensor(alpha), ["sparsity"] = tensor(sparsity) };
    }

    [ParityOp("wanda.perplexity")]
    internal static IReadOnlyDictionary<string, Tensor> PerplexityOp(ParityCase c)
    {
        long length = c.Parameter<long>("seqlen");
        PerplexityResult result = Perplexity.FromLogits(c.Input("logits"), c.Input("tokens"), length);
        return new Dictionary<string, Tensor> { ["ppl"] = tensor(result.Value), ["segments"] = tensor((long)result.Segments) };
    }

    private static Dictionary<string, Tensor> Outputs(ParityCase c, Func<Tensor, Tensor> choose)
    {
        Tensor score = Score(c.Input("W"), c.Input("scaler_row"));
        Tensor keep = choose(score);
        return new() { ["keep"] = keep, ["score"] = score, ["W_pruned"] = MaskSelection.Apply(c.Input("W"), keep) };
    }
}
