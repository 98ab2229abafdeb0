using Espalier.Catalogue;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using Espalier.Verification;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Issp
{
    private const string PrunedPrefix = "min_";

    [ParityOp("issp.select")]
    internal static IReadOnlyDictionary<string, Tensor> SelectOp(ParityCase c)
    {
        Tensor keep = SelectBy(c, c.Input("weight"));
        return new Dictionary<string, Tensor> { ["mask"] = keep.to(ScalarType.Float32), ["n_pruned"] = keep.logical_not().sum() };
    }

    [ParityOp("issp.nm_adjust")]
    internal static IReadOnlyDictionary<string, Tensor> AdjustOp(ParityCase c)
    {
        (long divisor, int n, int m) = Adjust([.. c.Input("numel").data<long>()], c.Parameter<int>("N"), c.Parameter<int>("M"));
        return new Dictionary<string, Tensor> { ["gcd"] = tensor(divisor), ["N"] = tensor((long)n), ["M"] = tensor((long)m) };
    }

    [ParityOp("issp.threshold_select")]
    internal static IReadOnlyDictionary<string, Tensor> ThresholdOp(ParityCase c)
    {
        (double threshold, Tensor keep) = ThresholdSelect(c.Input("weight"), c.Parameter<double>("pr"), c.Optional("sample_idx"));
        return new Dictionary<string, Tensor> { ["threshold"] = tensor(threshold), ["mask"] = keep.to(ScalarType.Float32) };
    }

    [ParityOp("issp.shrink_trajectory")]
    internal static IReadOnlyDictionary<string, Tensor> TrajectoryOp(ParityCase c)
    {
        using var frozen = no_grad();
        using Parameter weight = Parameters.Of(c.Input("w0").to(ScalarType.Float64).clone());
        double[] betas = c.Parameter("betas", new[] { 0.9, 0.999 });
        string word = c.Parameter("optimizer", "sgd");
        EspalierException.Require(word is "sgd" or "adam", $"The optimiser '{word}' is not known here; use sgd or adam.");
        OptimizedParameter[] trained = [new("w", weight)];
        using IOptimizer optimizer = word == "adam" ? new Training.AdamW(trained, betas[0], betas[1], c.Parameter("eps", 1e-8)) : new Sgd(trained);
        var (path, masks) = (new List<Tensor>(), new List<Tensor>());
        Tensor gradients = c.Input("grads").to(ScalarType.Float64);
        for (long step = 0; step < gradients.shape[0]; step++)
        {
            weight.grad = gradients[step].clone();
            optimizer.Step(c.Parameter<double>("lr"));
            Tensor keep = SelectBy(c, weight);
            Shrink(weight, keep, c.Parameter<double>("ratio"));
            path.Add(weight.detach().clone());
            masks.Add(keep.to(ScalarType.Float32));
        }

        weight.grad = null;
        return new Dictionary<string, Tensor> { ["w"] = stack([.. path]), ["mask"] = stack([.. masks]), ["w_final"] = path[^1] * masks[^1] };
    }

    [ParityOp("issp.psnr")]
    internal static IReadOnlyDictionary<string, Tensor> PsnrOp(ParityCase c)
    {
        Tensor Image(string name)
        {
            Tensor image = c.Input(name).permute(2, 0, 1).unsqueeze(0).to(ScalarType.Float64);
            return c.Parameter("y_channel", false) ? ImageQuality.Luma(image, 255) : image;
        }

        return new Dictionary<string, Tensor> { ["psnr"] = tensor(ImageQuality.Psnr(Image("a"), Image("b"), 255, c.Parameter("crop_border", 0))) };
    }

    private static Tensor SelectBy(ParityCase c, Tensor weight)
    {
        string mode = c.Parameter("mode", "min");
        if (mode == "min")
        {
            return Select(weight, c.Parameter<double>("pr"), "weight");
        }

        EspalierException.Require(mode.StartsWith(PrunedPrefix, StringComparison.Ordinal), $"The mode '{mode}' is not known; it is min or min_n:m.");
        (int n, int m) = ParseGroups(mode[PrunedPrefix.Length..]);
        (n, m) = AdjustTo(c.Parameter("gcd_numel", weight.numel()), n, m);
        return SelectGroups(weight, n, m, "weight");
    }
}
