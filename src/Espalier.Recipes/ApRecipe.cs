using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Recipes;

/// <summary>AP: dropping negative weights that hardly moved wakes ReLU nodes of a pruned net (card, quick reproduction).</summary>
[Reproduces("ap")]
public sealed class ApRecipe : Recipe
{
    private const string Accuracy = "accuracy, %", Before = "accuracy one cycle before, %", Dynamic = "dynamic dead neurons, %", Static = "static dead neurons, %", Density = "density, %";
    private const string Magnitude = "magnitude", Two = "magnitude, q = 2", Four = "magnitude, q = 4", Gradient = "gradient", GradientTwo = "gradient, q = 2", GradientFour = "gradient, q = 4";
    private const string RandomNegative = "magnitude, 4 % random negative", StillPositive = "magnitude, 4 % still positive";
    private const int Batch = 100, Cycles = 6, Epochs = 9;

    private const string Net = """{"model_type": "mlp", "hidden": [256, 128], "image_size": 28, "num_classes": 10, "num_channels": 1, "image_mean": [0.2860], "image_std": [0.3530]}""";

    private static readonly (string Arm, Ap Method)[] arms =
    [
        (Magnitude, new Ap { Percent = 40, Rate = 0, Cycles = Cycles }),
        (Two, new Ap { Percent = 40, Rate = 2, Cycles = Cycles }),
        (Four, new Ap { Percent = 40, Rate = 4, Cycles = Cycles }),
        (Gradient, new Ap { Percent = 40, Rate = 0, Cycles = Cycles, Pruner = ApPruner.Gradient }),
        (GradientTwo, new Ap { Percent = 40, Rate = 2, Cycles = Cycles, Pruner = ApPruner.Gradient }),
        (GradientFour, new Ap { Percent = 40, Rate = 4, Cycles = Cycles, Pruner = ApPruner.Gradient }),
        (RandomNegative, new Ap { Percent = 40, Rate = 4, Cycles = Cycles, Choice = ApChoice.NegativeRandom }),
        (StillPositive, new Ap { Percent = 40, Rate = 4, Cycles = Cycles, Choice = ApChoice.PositiveStill }),
    ];

    private static readonly Experiment Images = new()
    {
        Name = "Fashion-MNIST",
        About = "A ReLU net 784-256-128-10 on 10,000 images, a dense cycle and 6 that each remove 40 % of the weights left, from the first weights again; 9 epochs a cycle, SGD at 0.05 to 0, momentum 0.9, batch 100. q is the part of the 40 % that AP takes. Accuracy and dead ReLU outputs on 5,000 test images after the last cycle.",
        Arms = [.. arms.Select(a => a.Arm)],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Giving a small share of each pruning step to negative weights that hardly moved lowers the dynamic dead neuron rate of the pruned net and raises its accuracy at high sparsity (Liu et al., TMLR 2023).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Images];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        espalier train --config resnet20.json --data uoft-cs/cifar10:train --eval-data uoft-cs/cifar10:test --augment cifar --batch 128 \
            --optimizer sgd --momentum 0.9 --weight-decay 5e-4 --lr 0.1 --schedule multistep --steps 171600 \
            --sparse-training ap --set cycles=10 --set percent=20 --set rate=2 --seed 0 --out ./resnet20-ap    # also rate=0, pruner=gradient, seeds 1 and 2
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        var measured = new List<Measurement>();
        using VisionBench bench = VisionBench.Open(context, RecipeImages.Fashion, Net, training: 10_000, test: 5_000);
        int steps = context.Size is RecipeSize.Smoke ? 3 * (Cycles + 1) : bench.Steps(Epochs * (Cycles + 1), Batch);
        foreach ((string arm, Ap method) in arms)
        {
            using VisionModel model = bench.Fresh(seed);
            var watch = new CycleEnd(method.Start(Cycles, steps) - 1, () => bench.Accuracy(model));
            var options = new TrainingOptions { Steps = steps, LearningRate = 0.05, Optimizer = "sgd", Momentum = 0.9 };
            TrainingResult result = bench.Train(model, options, Batch, new Seed(seed.For("order")), sparse: method, hooks: [watch]);
            double accuracy = bench.Accuracy(model);
            var batches = new ImageBatches(bench.TestImages, 500) { Mean = model.Config.Mean, Deviation = model.Config.Deviation };
            DeadNeuronRate dead = DeadNeurons.Measure(model, batches.InOrder().Select(b =>
            {
                b.Labels.Dispose();
                return b.Images;
            }))[^1];
            Add(Accuracy, accuracy);
            Add(Before, watch.Accuracy);
            Add(Dynamic, dead.Dynamic);
            Add(Static, dead.Static);
            Add(Density, 100 * (1 - result.Sparse!.Sparsity));
            context.Progress.Say(FormattableString.Invariant($"  {arm}: {accuracy:F1} %, {dead.Dynamic:F1} % dead"));

            void Add(string metric, double value) => measured.Add(new Measurement(Images.Name, Experiment.Only, arm, metric, value));
        }

        return measured;
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults images = results.At(Images.Name);
        return
        [
            Check.AtMost("dynamic dead neurons with AP (q = 4) over those without, magnitude", images.PerSeed(m => m(Four, Dynamic) - m(Magnitude, Dynamic)), 0, "points", everySeed: true),
            Check.AtMost("dynamic dead neurons with AP (q = 4) over those without, gradient", images.PerSeed(m => m(GradientFour, Dynamic) - m(Gradient, Dynamic)), 0, "points", everySeed: true),
            Check.AtLeast("accuracy with AP (q = 4) over that without, magnitude, sparsest cycle", images.PerSeed(m => m(Four, Accuracy) - m(Magnitude, Accuracy)), 0.5, "points"),
            Check.AtLeast("dynamic dead neurons when random negative weights go instead, over AP's", images.PerSeed(m => m(RandomNegative, Dynamic) - m(Four, Dynamic)), 0, "points"),
            Check.AtLeast("dynamic dead neurons when positive weights go instead, over AP's", images.PerSeed(m => m(StillPositive, Dynamic) - m(Four, Dynamic)), 0, "points"),
        ];
    }

    /// <summary>Measures at the last step of the cycle before the last, ahead of its update and of the pruning.</summary>
    private sealed class CycleEnd(long step, Func<double> measure) : ITrainingHook
    {
        public double Accuracy { get; private set; }

        public void AfterBackward(TrainingStep current)
        {
            if (current.Index == step)
            {
                Accuracy = measure();
            }
        }
    }
}
