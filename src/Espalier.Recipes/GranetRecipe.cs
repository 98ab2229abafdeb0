using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>GraNet: pruning and regenerating while training beats pruning alone and regenerating alone at high sparsity (card, quick reproduction).</summary>
[Reproduces("granet")]
public sealed class GranetRecipe : Recipe
{
    private const string Accuracy = "accuracy, %", Share = "training multiply-accumulates, % of dense", Change = "change of accuracy, points";
    private const string Dense = "dense", DenseStart = "granet, from dense", SparseStart = "granet, from 50 %", Gmp = "GMP", RigL = "RigL", Snip = "SNIP at the start", Random = "random, static";
    private const string Without = "without regeneration", With = "with regeneration", Little = "with regeneration of a twentieth";
    private const string Config = "{\"model_type\": \"mlp\", " + RecipeImages.FashionFields + "}";
    private const int Batch = 128;

    private static readonly Experiment Training = new()
    {
        Name = "sparse training",
        About = "LeNet-300-100 from random weights on 10,000 images of Fashion-MNIST, 8 epochs (624 steps of 128 images), SGD 0.1 with Nesterov momentum 0.9, weight decay 5e-4, a tenth of the rate after 50 % and 75 %; masks change every 40 steps, pruning ends at 70 %, and all arms end on the same number of weights; accuracy on 5,000 test images. SNIP: |w · gradient| of one batch of 1,024 images at the start, ranked over all layers.",
        Arms = [Dense, DenseStart, SparseStart, Gmp, RigL, Snip, Random],
        Settings = ["95 %", "98 %"],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    private static readonly Experiment Plasticity = new()
    {
        Name = "pruning plasticity",
        About = "The same net trained dense for 4 epochs at 0.1, pruned once over all layers, with or without swapping half (or a twentieth) of what is left for the connections with the largest gradient of one batch of 1,024 images, and trained on for one epoch at the same rate: accuracy afterwards less that before pruning.",
        Arms = [Without, With, Little],
        Settings = ["50 %", "90 %"],
        Metric = Change,
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Regenerating connections after each step of gradual pruning makes sparse training better than gradual pruning alone, and starting at 50 % better than swapping connections at a fixed density (Liu et al., arXiv 2106.10404).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Training, Plasticity];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # ResNet-20 and VGG-19 on CIFAR-10, 160 epochs; sparsity 0.9, 0.95 and 0.98, variants granet, gmp and rigl, seeds 0 to 2
        espalier train --config resnet20.json --data uoft-cs/cifar10:train --eval-data uoft-cs/cifar10:test --augment cifar --batch 128 \
            --optimizer sgd --momentum 0.9 --nesterov --weight-decay 5e-4 --lr 0.1 --schedule multistep --steps 62400 \
            --sparse-training granet --set sparsity=0.95 --set update_every=1000 --seed 0 --out ./resnet20-granet-95
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using VisionBench images = VisionBench.Open(context, RecipeImages.Fashion, Config, training: 10_000, test: 5_000);
        int steps = context.Size is RecipeSize.Smoke ? 20 : 624, every = context.Size is RecipeSize.Smoke ? 2 : 40;
        VisionConfig config = VisionConfig.Parse(Config);
        var measured = new List<Measurement>();
        (double accuracy, double share) = Train(null, null);
        foreach (string setting in Training.Settings)
        {
            double sparsity = Share100(setting);
            var granet = new Granet { Sparsity = sparsity, UpdateEvery = every, Until = 0.7, ExactFinal = true };
            Add(setting, Dense, (accuracy, share));
            Add(setting, DenseStart, Train(granet with { InitialSparsity = 0 }, null));
            Add(setting, SparseStart, Train(granet, null));
            Add(setting, Gmp, Train(granet with { Variant = GranetVariant.Gmp }, null));
            Add(setting, RigL, Train(granet with { Variant = GranetVariant.RigL }, null));
            Add(setting, Snip, Train(null, sparsity));
            Add(setting, Random, Train(granet with { Variant = GranetVariant.Static }, null));
        }

        measured.AddRange(RunPlasticity(config, images, seed, steps / 2, context));
        return measured;

        (double Accuracy, double Share) Train(Granet? method, double? snip)
        {
            using var scope = NewDisposeScope();
            using VisionModel net = VisionModel.Random(config, seed);
            IReadOnlyDictionary<string, Tensor>? masks = snip is { } share ? SnipMasks(net, images, share, seed) : null;
            var options = new TrainingOptions { Steps = steps, LearningRate = 0.1, Optimizer = "sgd", Momentum = 0.9, Nesterov = true, WeightDecay = 5e-4, Schedule = "multistep" };
            TrainingResult result = new VisionTraining(options) { Batch = Batch, Seed = seed, Sparse = method }.Run(net, images.TrainingImages, masks, context.Cancellation);
            return (images.Accuracy(net), 100 * (result.Sparse?.TrainingShare ?? (snip is { } pruned ? 1 - pruned : 1)));
        }

        void Add(string setting, string arm, (double Accuracy, double Share) figures)
        {
            measured.Add(new Measurement(Training.Name, setting, arm, Accuracy, figures.Accuracy));
            measured.Add(new Measurement(Training.Name, setting, arm, Share, figures.Share));
            context.Progress.Say(FormattableString.Invariant($"  {setting}, {arm}: {figures.Accuracy:F2} %"));
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults sparsest = results.At(Training.Name, Training.Settings[^1]);
        return
        [
            Check.AtLeast("98 %: accuracy of GraNet from a dense start over GMP's", sparsest.PerSeed(m => m(DenseStart, Accuracy) - m(Gmp, Accuracy)), 0.3, "points"),
            Check.AtLeast("98 %: accuracy of GraNet from 50 % over RigL's", sparsest.PerSeed(m => m(SparseStart, Accuracy) - m(RigL, Accuracy)), 0.3, "points"),
            .. Plasticity.Settings.Select(s => Check.AtLeast($"{s} pruned once: change of accuracy with regeneration over that without", results.At(Plasticity.Name, s).PerSeed(m => m(With, Change) - m(Without, Change)), 0, "points")),
        ];
    }

    private static double Share100(string setting) => double.Parse(setting.TrimEnd('%', ' '), System.Globalization.CultureInfo.InvariantCulture) / 100;

    private static Dictionary<string, Tensor> SnipMasks(VisionModel net, VisionBench images, double sparsity, Seed seed)
    {
        IReadOnlyDictionary<string, Tensor> gradients = images.Gradients(net, 1024, seed);
        Dictionary<string, Tensor> masks = Masks(net, Granet.GradualPrune([.. net.Weights.Select(w => w.Weight.detach() * gradients[w.WeightName])], sparsity));
        VisionBench.Apply(net, masks);
        return masks;
    }

    private static IEnumerable<Measurement> RunPlasticity(VisionConfig config, VisionBench images, Seed seed, int steps, RecipeContext context)
    {
        using var scope = NewDisposeScope();
        using VisionModel dense = VisionModel.Random(config, seed);
        Train(dense, null, steps);
        double before = images.Accuracy(dense);
        IReadOnlyDictionary<string, Tensor> gradients = images.Gradients(dense, 1024, seed);
        var measured = new List<Measurement>();
        foreach (string setting in Plasticity.Settings)
        {
            foreach (string arm in Plasticity.Arms)
            {
                using VisionModel net = dense.Clone();
                Dictionary<string, Tensor> masks = Masks(net, Granet.GradualPrune([.. net.Weights.Select(w => (Tensor)w.Weight)], Share100(setting)));
                VisionBench.Apply(net, masks);
                if (arm != Without)
                {
                    double swapped = arm == With ? 0.5 : 0.05;
                    masks = Masks(net, [.. net.Weights.Select(w => Granet.Regenerate(w.Weight, masks[w.WeightName], gradients[w.WeightName], swapped).Keep)]);
                    VisionBench.Apply(net, masks);
                }

                Train(net, masks, Math.Max(1, steps / 4));
                measured.Add(new Measurement(Plasticity.Name, setting, arm, Change, images.Accuracy(net) - before));
            }
        }

        return measured;

        void Train(VisionModel net, Dictionary<string, Tensor>? masks, int length)
        {
            var options = new TrainingOptions { Steps = length, LearningRate = 0.1, Optimizer = "sgd", Momentum = 0.9, Nesterov = true, WeightDecay = 5e-4, Schedule = "constant" };
            new VisionTraining(options) { Batch = Batch, Seed = seed }.Run(net, images.TrainingImages, masks, context.Cancellation);
        }
    }

    private static Dictionary<string, Tensor> Masks(VisionModel net, IReadOnlyList<Tensor> keep) => net.Weights.Zip(keep).ToDictionary(p => p.First.WeightName, p => p.Second);
}
