using System.Globalization;
using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>Progressive gradient flow: fading masks or tightening patterns beat SR-STE at 1:16, less so at 2:4 (card, quick reproduction).</summary>
[Reproduces("pgfnm")]
public sealed class PgfnmRecipe : Recipe
{
    private const string Accuracy = "accuracy, %", Variance = "variance of normalised gradients";
    private const string Dense = "dense", Ste = "STE", SrSte = "SR-STE", Linear = "fading, linear", Exp = "fading, exponential", ExpChain = "fading, exponential, chain", Stepwise = "pattern, stepwise", Geometric = "pattern, geometric";
    private const string High = "1:16", Low = "2:4";
    private const string Config = "{\"model_type\": \"timm_vit\", \"patch_size\": 7, \"embed_dim\": 48, \"depth\": 2, \"num_heads\": 4, \"mlp_dim\": 192, " + RecipeImages.FashionFields + "}";

    private static readonly string[] own = [Linear, Exp, ExpChain, Stepwise, Geometric];

    private static readonly Experiment Training = new()
    {
        Name = "vision transformer",
        About = "ViT with 16 patches, width 48, 2 blocks, 4 heads and 192 neurons from random weights on 6,000 images of Fashion-MNIST, 6 epochs (558 steps of 64 images), AdamW at 1e-3 with a cosine; the maps of the feed-forward parts become N:M; fading and patterns run over the first 70 % of the steps (β at 0, or 0.001), then the binary mask. Accuracy of the folded, exactly N:M net on 5,000 test images. Chain: the gradient of pruned weights fades too (our reading of the text; the others are straight through as in the code). The variance is that of the gradients of pruned weights over the root of AdamW's second moment, from 50 % to 70 % of the steps.",
        Arms = [Dense, Ste, SrSte, .. own],
        Settings = [High, Low],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "At high N:M sparsity, fading the mask or tightening the pattern step by step trains better than SR-STE, and more so the higher the sparsity; the gradients of pruned weights vary less (Bambhaniya et al., arXiv 2402.04744).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Training];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # a ViT on CIFAR-10, 100 epochs; 1:8, 1:16 and 1:32, decays exp, linear, sparsify, fine, srste and step, seeds 0 to 2
        espalier train --config vit.json --data uoft-cs/cifar10:train --eval-data uoft-cs/cifar10:test --augment cifar --batch 128 \
            --lr 1e-3 --schedule cosine --warmup 400 --weight-decay 0.05 --steps 39000 \
            --sparse-training pgfnm --set n=1 --set m=16 --set decay=exp --seed 0 --out ./vit-1-16
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using VisionBench images = VisionBench.Open(context, RecipeImages.Fashion, Config, training: 6_000, test: 5_000);
        int steps = context.Size is RecipeSize.Smoke ? 20 : 558;
        VisionConfig config = VisionConfig.Parse(Config);
        var measured = new List<Measurement>();
        (double Accuracy, double? Variance) dense = Train(null);
        foreach (string setting in Training.Settings)
        {
            int[] pattern = [.. setting.Split(':').Select(n => int.Parse(n, CultureInfo.InvariantCulture))];
            var basis = new Pgfnm { N = pattern[0], M = pattern[1], Dense = 0, FineTune = 0.3 };
            Add(setting, Dense, dense);
            Add(setting, Ste, Train(basis with { Decay = NmDecay.Step }));
            Add(setting, SrSte, Train(basis with { Decay = NmDecay.SrSte }));
            Add(setting, Linear, Train(basis with { Decay = NmDecay.Linear }));
            Add(setting, Exp, Train(basis));
            Add(setting, ExpChain, Train(basis with { Flow = GradientFlow.Chain }));
            Add(setting, Stepwise, Train(basis with { Decay = NmDecay.Sparsify }));
            // 48 inputs hold no group of 128: the larger groups run over the ends of rows, the last ones do not.
            Add(setting, Geometric, Train(basis with { Decay = NmDecay.Fine, Straddle = true }));
        }

        return measured;

        (double Accuracy, double? Variance) Train(Pgfnm? method)
        {
            using var scope = NewDisposeScope();
            using VisionModel net = VisionModel.Random(config, seed);
            var watch = method is null ? null : new GradientVariance(net, method, (long)(0.5 * steps), (long)(0.7 * steps));
            var options = new TrainingOptions { Steps = steps, LearningRate = 1e-3, Schedule = "cosine" };
            new VisionTraining(options) { Batch = 64, Seed = seed, Sparse = method, Hooks = watch is null ? [] : [watch] }.Run(net, images.TrainingImages, cancellation: context.Cancellation);
            return (images.Accuracy(net), watch?.Mean);
        }

        void Add(string setting, string arm, (double Accuracy, double? Variance) figures)
        {
            measured.Add(new Measurement(Training.Name, setting, arm, Accuracy, figures.Accuracy));
            if (figures.Variance is { } variance)
            {
                measured.Add(new Measurement(Training.Name, setting, arm, Variance, variance));
            }

            context.Progress.Say(FormattableString.Invariant($"  {setting}, {arm}: {figures.Accuracy:F2} %"));
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults high = results.At(Training.Name, High), low = results.At(Training.Name, Low);
        IReadOnlyList<double> gapHigh = Gap(high, out string best), gapLow = Gap(low, out _);
        string fading = ((string[])[Linear, Exp]).MinBy(a => high.Values(a, Variance).Average())!;
        return
        [
            Check.AtLeast($"1:16: accuracy of the best of the method's arms ({best}) over SR-STE's", gapHigh, 0.5, "points"),
            Check.AtLeast("that gap at 1:16 over that of the best arm at 2:4", [.. gapHigh.Zip(gapLow, (h, l) => h - l)], 0, "points"),
            Check.AtMost($"1:16: variance of pruned weights' normalised gradients, {fading}, over SR-STE's", high.Ratio(Variance, fading, SrSte), 1),
        ];

        // The arm with the best mean, against the baseline seed by seed.
        IReadOnlyList<double> Gap(SettingResults at, out string arm)
        {
            string found = own.MaxBy(a => at.Values(a, Accuracy).Average())!;
            arm = found;
            return at.PerSeed(m => m(found, Accuracy) - m(SrSte, Accuracy));
        }
    }

    // Gradients of what the final pattern prunes, as AdamW scales them.
    private sealed class GradientVariance(VisionModel net, Pgfnm method, long from, long to) : ITrainingHook
    {
        private readonly WeightLayer[] _layers = [.. net.Weights.Where(w => w.Name.Contains(".mlp.", StringComparison.Ordinal))];
        private readonly List<double> _seen = [];

        public double Mean => _seen.Average();

        public void AfterBackward(TrainingStep step)
        {
            if (step.Index < Math.Max(1, from) || step.Index > to)
            {
                return;
            }

            var state = step.Loop.Optimizer.SaveState().ToDictionary(t => t.Name, t => t.Value);
            double correction = 1 - Math.Pow(0.999, step.Index);
            foreach (WeightLayer layer in _layers)
            {
                Tensor pruned = Pgfnm.Mask(layer.Weight, method.N, method.M, NmLayout.Row).logical_not();
                Tensor scaled = layer.Weight.grad! / ((state[$"exp_avg_sq.{layer.WeightName}"] / correction).sqrt() + 1e-8);
                _seen.Add(scaled.masked_select(pruned).var().item<float>());
            }
        }
    }
}
