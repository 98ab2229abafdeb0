using System.Diagnostics;
using System.Globalization;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>M-FAC: pruning by the inverse Fisher matrix beats magnitude, and as an optimiser it keeps up with Adam (card, quick reproduction a).</summary>
[Reproduces("mfac")]
public sealed class MfacRecipe : Recipe
{
    private const string Dense = "dense", Magnitude = "magnitude", Diagonal = "diagonal Fisher", Still = "mfac, weights not updated", OneShot = "mfac", FourTimes = "mfac, gradients anew 4 times";
    private const string Plain = "SGD", Momentum = "SGD with momentum", Adam = "Adam", Optimiser = "M-FAC";
    private const string Setup = "static, working in 64 gradients", Product = "static, a product", Update = "dynamic, a gradient and a product";
    private const string Accuracy = "test accuracy, %", Recalibrated = "after recalibration, %", Loss = "training loss", Rate = "learning rate", Seconds = "processor seconds";
    private const string Classifier = """{"model_type": "mlp", "hidden": [64], "num_channels": 1, "image_size": 28, "image_mean": [0.286], "image_std": [0.353]}""";
    private const int Window = 64;

    private static readonly Experiment Pruning = new()
    {
        Name = "one-shot pruning",
        About = "ResNet-20 (akamaster/cifar10-resnet20) on CIFAR-10, no retraining: its convolutions pruned in one ranking. 64 gradients of 16 training images, damping 1e-5, blocks of 128; one set of gradients of the dense net serves all targets but the last arm's, which goes to 75 % in four steps with new gradients each. The first 1,000 test images; batch norms as they are, at 75 % also recalibrated on 512 training images.",
        Arms = [Dense, Magnitude, Diagonal, Still, OneShot, FourTimes],
        Settings = ["50 %", "60 %", "70 %", "75 %"],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    private static readonly Experiment Optimising = new()
    {
        Name = "as an optimiser",
        About = "Fashion-MNIST, the first 10,000 training and 10,000 test images, an MLP 784-64-10, 4 epochs of 128 images, linear schedule; M-FAC with 64 gradients, damping 1e-5. The rate of each is the best of three by the loss on 2,000 further training images.",
        Arms = [Plain, Momentum, Adam, Optimiser],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    private static readonly Experiment Scaling = new()
    {
        Name = "cost",
        About = "64 random gradients of so many parameters, one block, float64; the processor time of this process.",
        Arms = [Setup, Product, Update],
        Settings = ["20000", "40000", "80000", "160000"],
        Metric = Seconds,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Products with the inverse of the empirical Fisher matrix of a few stored gradients make one-shot pruning far better than magnitude, the more so with new gradients on the way, and a competitive optimiser (Frantar, Kurtic, Alistarh, arXiv 2107.03356).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Pruning, Optimising, Scaling];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # gradual pruning of ResNet-20 and ResNet-56 to 90, 95, 98 % in 10 rounds over 30 epochs, three seeds
        espalier train --config akamaster/cifar10-resnet20 --data uoft-cs/cifar10:train --eval-data uoft-cs/cifar10:test --augment cifar --batch 128 --optimizer sgd \
            --momentum 0.9 --lr 0.005 --schedule constant --steps 11700 --method mfac --set sparsity=0.95 --set rounds=10 --seed 0 --out ./sparse
        # ResNet-20 from scratch by M-FAC, 164 epochs; against sgd and adamw
        espalier train --config resnet20.json --data uoft-cs/cifar10:train --eval-data uoft-cs/cifar10:test --augment cifar --batch 128 --optimizer mfac \
            --weight-decay 3e-3 --lr 1e-3 --schedule multistep --steps 63960 --seed 0 --out ./net
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed) =>
        [.. Prune(context, seed), .. Optimise(context, seed), .. Scale(seed, context.Size is RecipeSize.Smoke)];

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults optimising = results.At(Optimising.Name);
        return
        [
            .. from s in new[] { "70 %", "75 %" } select Check.AtLeast($"one-shot, {s}: accuracy above magnitude's", results.At(Pruning.Name, s).PerSeed(m => m(OneShot, Accuracy) - m(Magnitude, Accuracy)), 3, "points"),
            Check.AtLeast("one-shot, 75 %: new gradients four times above one set", results.At(Pruning.Name, "75 %").PerSeed(m => m(FourTimes, Accuracy) - m(OneShot, Accuracy)), 0, "points"),
            Check.AtLeast("optimiser: test accuracy above Adam's", optimising.PerSeed(m => m(Optimiser, Accuracy) - m(Adam, Accuracy)), -0.3, "points"),
            Check.AtMost("optimiser: training loss over that of SGD without momentum", optimising.Ratio(Loss, Optimiser, Plain), 1),
        ];
    }

    private static List<Measurement> Prune(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        using ImageTensors train = RecipeImages.Cifar.Load(context, "train", 5_000), test = RecipeImages.Cifar.Load(context, "test", 1_000);
        using VisionModel dense = RecipeImages.CifarNet(context, seed);
        using var scope = NewDisposeScope();
        var measured = new List<Measurement>();
        var mfac = new Mfac { Gradients = smoke ? 4 : Window, GradientBatch = 16, Recomputations = 1 };
        var work = new VisionMethodContext { Model = dense, Images = train, Options = new TrainingOptions(), Seed = seed };
        Tensor gradients = mfac.Collect(dense, work, 0, context.Cancellation);
        Tensor weight = cat([.. mfac.Prunable(dense).Select(l => l.Weight.detach().flatten())]);
        Tensor fisher = gradients.square().mean([0L]) * weight.square();
        double denseAccuracy = ImageAccuracy.Evaluate(dense, test).Top1;
        foreach (string setting in Pruning.Settings)
        {
            double target = double.Parse(setting[..^2], CultureInfo.InvariantCulture) / 100;
            measured.Add(new Measurement(Pruning.Name, setting, Dense, Accuracy, denseAccuracy));
            Arm(Magnitude, (net, _) => ByScore(mfac, net, weight.abs(), target));
            Arm(Diagonal, (net, _) => ByScore(mfac, net, fisher, target));
            Arm(Still, (net, masks) => (mfac with { UpdateWeights = false }).Apply(net, masks, gradients, target));
            Arm(OneShot, (net, masks) => mfac.Apply(net, masks, gradients, target));
            if (setting == Pruning.Settings[^1])
            {
                Arm(FourTimes, (net, masks) =>
                {
                    foreach ((int step, double sparsity) in Mfac.Ladder(0, target, 4).Index())
                    {
                        mfac.Prune(net, masks, sparsity, work, step, context.Cancellation);
                    }
                });
            }

            void Arm(string arm, Action<VisionModel, Dictionary<string, Tensor>> prune)
            {
                using var inner = NewDisposeScope();
                using VisionModel net = dense.Clone();
                prune(net, mfac.Prunable(net).ToDictionary(l => l.WeightName, l => ones(l.Weight.shape, ScalarType.Bool)));
                Add(arm, Accuracy, ImageAccuracy.Evaluate(net, test).Top1);
                if (setting == Pruning.Settings[^1])
                {
                    BatchNormRecalibration.Run(net, work.Batches().InOrder(512, context.Device).Select(b =>
                    {
                        b.Labels.Dispose();
                        return b.Images;
                    }));
                    Add(arm, Recalibrated, ImageAccuracy.Evaluate(net, test).Top1);
                }
            }

            void Add(string arm, string metric, double value)
            {
                measured.Add(new Measurement(Pruning.Name, setting, arm, metric, value));
                context.Progress.Say(FormattableString.Invariant($"  {setting}, {arm}: {metric} {value:F2}"));
            }
        }

        return measured;
    }

    /// <summary>Prunes the smallest scores of all prunable weights together.</summary>
    private static void ByScore(Mfac mfac, VisionModel net, Tensor scores, double target)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        Tensor prune = Sparsity.MaskSelection.KeepLargestPerLayer(scores, target, "all layers").logical_not();
        long from = 0;
        foreach (WeightLayer layer in mfac.Prunable(net))
        {
            layer.Weight.masked_fill_(prune.narrow(0, from, layer.Weight.numel()).reshape(layer.Weight.shape), 0);
            from += layer.Weight.numel();
        }
    }

    private static List<Measurement> Optimise(RecipeContext context, Seed seed)
    {
        using ImageTensors all = RecipeImages.Fashion.Load(context, "train", 12_000), test = RecipeImages.Fashion.Load(context, "test", 10_000);
        int held = all.Count / 6, batch = context.Size is RecipeSize.Smoke ? 8 : 128;
        using ImageTensors train = all.Take([.. Enumerable.Range(0, all.Count - held)]), heldOut = all.Take([.. Enumerable.Range(all.Count - held, held)]);
        var options = new TrainingOptions { Steps = 4 * Math.Max(1, train.Count / batch), SaveEvery = 0, FisherGradients = Window };
        var measured = new List<Measurement>();
        Arm(Plain, options with { Optimizer = "sgd" }, [0.03, 0.1, 0.3]);
        Arm(Momentum, options with { Optimizer = "sgd", Momentum = 0.9 }, [0.01, 0.03, 0.1]);
        Arm(Adam, options, [5e-4, 1e-3, 3e-3]);
        Arm(Optimiser, options with { Optimizer = "mfac" }, [3e-3, 1e-2, 3e-2]);
        return measured;

        void Arm(string arm, TrainingOptions own, double[] rates)
        {
            var tried = rates.Select(rate =>
            {
                using VisionModel net = VisionModel.Random(VisionConfig.Parse(Classifier), seed, context.Device);
                new VisionTraining(own with { LearningRate = rate }) { Batch = batch, Seed = seed }.Run(net, train, cancellation: context.Cancellation);
                return (Rate: rate, HeldOut: ImageAccuracy.Evaluate(net, heldOut).Loss, Train: ImageAccuracy.Evaluate(net, train).Loss, Test: ImageAccuracy.Evaluate(net, test).Top1);
            }).ToArray();
            var best = tried.MinBy(t => t.HeldOut);
            foreach ((string metric, double value) in new[] { (Accuracy, best.Test), (Loss, best.Train), (Rate, best.Rate) })
            {
                measured.Add(new Measurement(Optimising.Name, Experiment.Only, arm, metric, value));
            }

            context.Progress.Say(FormattableString.Invariant($"  {arm}: accuracy {best.Test:F2} %, training loss {best.Train:F4} at {best.Rate}"));
        }
    }

    private static List<Measurement> Scale(Seed seed, bool smoke)
    {
        var measured = new List<Measurement>();
        using Generator generator = seed.Generator("gradients of the cost experiment");
        foreach (string setting in Scaling.Settings)
        {
            using var scope = NewDisposeScope();
            long length = long.Parse(setting, CultureInfo.InvariantCulture) / (smoke ? 1000 : 1);
            Tensor gradients = randn([Window, length], generator: generator);
            using var window = new InverseFisherWindow(Window, length, 1e-5);
            InverseFisher? fisher = null;
            Time(Setup, () => fisher = new InverseFisher(gradients, 1e-5));
            Time(Product, () => fisher!.Multiply(gradients[0]).Dispose());
            Time(Update, () =>
            {
                window.Add(gradients[0]);
                window.Multiply(gradients[0]).Dispose();
            });
            fisher!.Dispose();

            void Time(string arm, Action work)
            {
                using var process = Process.GetCurrentProcess();
                TimeSpan before = process.TotalProcessorTime;
                work();
                process.Refresh();
                measured.Add(new Measurement(Scaling.Name, setting, arm, Seconds, (process.TotalProcessorTime - before).TotalSeconds));
            }
        }

        return measured;
    }
}
