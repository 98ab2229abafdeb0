using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>ISS-P: shrinking weights softly finds a better sparse net for super-resolution than zeroing them at once (card, quick reproduction on CIFAR-10's images).</summary>
[Reproduces("issp")]
public sealed class IsspRecipe : Recipe
{
    private const string Psnr = "PSNR of luma, dB", Churn = "change of the set per 100 steps, %", Gradient = "mean gradient norm", Zeros = "zeros, %";
    private const string Soft = "iss-p", Hard = "iht", OneShot = "magnitude, one-shot", ScratchRandom = "from scratch, random mask", ScratchMagnitude = "from scratch, magnitude at start", Dense = "dense", Bicubic = "bicubic";
    private const double Sparsity = 0.95;
    private const int Scale = 2, Batch = 8;

    private const string Net = """{"model_type": "edsr", "scale": 2, "features": 16, "blocks": 3, "image_size": 16}""";

    private static readonly Experiment Images = new()
    {
        Name = "super-resolution ×2",
        About = "EDSR of 16 features and 3 blocks on 2,000 images of CIFAR-10 (32×32, bicubic 16×16 in), L1 loss, 3,600 steps of Adam at 1e-3 with batches of 8 and flips; 95 % of every weight go. Shrinking stage 60 % of the steps, then cut and tuned; one-shot is dense for 60 %, then cut by magnitude and tuned. PSNR of the luma of 200 test images, 2 pixels of border left out.",
        Arms = [Soft, Hard, OneShot, ScratchRandom, ScratchMagnitude, Dense, Bicubic],
        Metric = Psnr,
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Multiplying the smallest weights by a factor a little below 1 after each step, instead of zeroing them, trains better sparse nets for super-resolution from random weights than hard thresholding and fixed masks (Wang et al., ICCV 2023).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Images];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        EDSR-baseline (64 features, 16 blocks), ×2 and ×4, 50,000 steps of Adam at 1e-4 with 32×32 crops of DIV2K; sparsity 0.9, 0.95 and 0.99; seeds 0, 1 and 2:
        espalier train --config edsr-baseline.json --data ./div2k --eval-data ./set5 --batch 16 --augment flip --lr 1e-4 --steps 50000 --sparse-training issp --set sparsity=0.95 --seed 0 --out ./edsr-95
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        var measured = new List<Measurement>();
        using VisionBench bench = VisionBench.Open(context, RecipeImages.Cifar, Net, training: 2_000, test: 200);
        Arm(Soft, new Issp { Sparsity = Sparsity });
        Arm(Hard, new Issp { Sparsity = Sparsity, Ratio = 0 });
        Arm(OneShot, new Issp { Sparsity = Sparsity, Ratio = 1 });
        Arm(ScratchRandom, null, (weight, generator) => rand(weight.shape, generator: generator));
        Arm(ScratchMagnitude, null, (weight, _) => weight);
        Arm(Dense, null);
        Add(Bicubic, Psnr, SuperResolutionQuality.Bicubic([bench.TestImages.Images.clone()], Scale).Psnr);
        return measured;

        void Arm(string name, Issp? method, Func<Tensor, Generator, Tensor>? scores = null)
        {
            using var scope = NewDisposeScope();
            using VisionModel model = bench.Fresh(seed);
            Dictionary<string, Tensor>? masks = scores is null ? null : FixedMasks(model, scores, seed);
            var options = new TrainingOptions { Steps = smoke ? 4 : 3600, LearningRate = 1e-3, Beta2 = 0.99, Schedule = "constant" };
            var watch = new Watch(model, smoke ? 1 : 100, (int)(0.6 * options.Steps));
            new VisionTraining(options)
            {
                Batch = Batch, Seed = new Seed(seed.For("order")), Augmentation = new ImageAugmentation(0, true), Sparse = method, Hooks = [watch],
            }.Run(model, bench.TrainingImages, masks, context.Cancellation);
            double psnr = Quality(bench.TestImages, model.Forward);
            Add(name, Psnr, psnr);
            Add(name, Gradient, watch.MeanGradient);
            Add(name, Zeros, 100.0 * model.Weights.Sum(w => w.Weight.numel() - w.Weight.count_nonzero().item<long>()) / model.Weights.Sum(w => w.Weight.numel()));
            if (method is not null)
            {
                Add(name, Churn, 100 * watch.MeanChange);
            }

            context.Progress.Say(FormattableString.Invariant($"  {name}: {psnr:F2} dB"));
        }

        void Add(string arm, string metric, double value) => measured.Add(new Measurement(Images.Name, Experiment.Only, arm, metric, value));
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults images = results.At(Images.Name);
        return
        [
            Check.AtLeast("PSNR of ISS-P over that of hard thresholding", images.PerSeed(m => m(Soft, Psnr) - m(Hard, Psnr)), 0.05, "dB"),
            Check.AtLeast("PSNR of ISS-P over the better of the two fixed masks", images.PerSeed(m => m(Soft, Psnr) - Math.Max(m(ScratchRandom, Psnr), m(ScratchMagnitude, Psnr))), 0.1, "dB"),
            Check.AtLeast("PSNR of the worst of ISS-P, hard thresholding and one-shot over bicubic", images.PerSeed(m => Math.Min(m(Soft, Psnr), Math.Min(m(Hard, Psnr), m(OneShot, Psnr))) - m(Bicubic, Psnr)), 0, "dB"),
            Check.AtLeast("change of the set under ISS-P over that under hard thresholding", images.PerSeed(m => m(Soft, Churn) - m(Hard, Churn)), 0, "points"),
        ];
    }

    private static Dictionary<string, Tensor> FixedMasks(VisionModel model, Func<Tensor, Generator, Tensor> scores, Seed seed)
    {
        using var frozen = no_grad();
        using Generator generator = seed.Generator("random mask");
        var masks = new Dictionary<string, Tensor>();
        foreach (WeightLayer layer in model.Weights)
        {
            masks[layer.WeightName] = Issp.Select(scores(layer.Weight, generator), Sparsity, layer.Name);
            layer.Weight.mul_(masks[layer.WeightName]);
        }

        return masks;
    }

    private static double Quality(ImageTensors images, Func<Tensor, Tensor> refine) => SuperResolutionQuality.Measure(refine, [images.Images.clone()], Scale).Psnr;

    /// <summary>The set of smallest weights every so often during the stage, and the gradients' norm.</summary>
    private sealed class Watch(VisionModel model, int every, int until) : ITrainingHook
    {
        private readonly List<double> _changes = [], _norms = [];
        private byte[][]? _last;

        public double MeanChange => _changes.Count == 0 ? 0 : _changes.Average();

        public double MeanGradient => _norms.Average();

        public void AfterStep(TrainingStep step)
        {
            _norms.Add(step.GradientNorm);
            if (step.Index % every != 0 || step.Index >= until)
            {
                return;
            }

            byte[][] now = [.. model.Weights.Select(w => { using Tensor keep = Issp.Select(w.Weight, Sparsity, w.Name); return keep.bytes.ToArray(); })];
            if (_last is not null)
            {
                long pruned = now.Sum(k => k.LongCount(b => b == 0));
                _changes.Add((double)now.Zip(_last).Sum(p => p.First.Zip(p.Second).LongCount(b => b.First == 0 && b.Second != 0)) / pruned);
            }

            _last = now;
        }
    }
}
