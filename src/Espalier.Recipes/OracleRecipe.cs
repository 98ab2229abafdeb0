using Espalier.Data;
using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>Oracle pruning: the loss right after pruning tells less the harder the task and the longer the retraining (card, quick reproduction a).</summary>
[Reproduces("oracle")]
public sealed class OracleRecipe : Recipe
{
    private const string Loss = "pruned loss (oracle)", Norm = "L1 norm", Chance = "random";
    private const string Tau = "Kendall's τ with final loss", P = "p", Anomaly = "choices that end lower, %", Accuracy = "accuracy of its choice, %";
    private const string Easy = "two classes", Hard = "ten classes", Short = "1 epoch", Long = "4 epochs";
    private const int Batch = 64;

    private static readonly Experiment Study = new()
    {
        Name = "twenty choices of filters",
        About = "Fashion-MNIST, either T-shirts against boots (2,000 training images, 2,000 test) or all ten classes (4,000, 5,000); two 3×3 convolutions of 4 and 6 filters with batch norm and pooling, a linear map; 3 dense epochs of SGD (64 images, rate 0.05, momentum 0.9, linear). 3 of the 6 filters are removed in all 20 ways; each is retrained 3 times at rate 0.01 with the same orders of images. τ-b, p and anomalies of the mean final test loss.",
        Arms = [Loss, Norm, Chance],
        Settings = [$"{Easy}, {Short}", $"{Easy}, {Long}", $"{Hard}, {Short}", $"{Hard}, {Long}"],
        Metric = Tau,
        LowerIsBetter = null,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "The choice of units with the lowest training loss right after pruning need not be the best after retraining: the correlation fades as the task gets harder, and choosing by L1 norm ends no worse (Feng, Tao, Wang, arXiv 2412.00143).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Study];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # ResNet-56 on CIFAR-10, one first convolution of each stage, half of its filters, 200 choices, 3 repeats, 12 epochs; |τ| of at most 0.2 is the claim
        espalier train --config akamaster/cifar10-resnet56 --data uoft-cs/cifar10:train --eval-data uoft-cs/cifar10:test --augment cifar --batch 256 --optimizer sgd \
            --momentum 0.9 --weight-decay 5e-4 --lr 0.01 --schedule multistep --steps 2340 --method oracle --set layers=layer1.0.conv1,layer2.0.conv1,layer3.0.conv1 \
            --set samples=200 --seed 0 --out ./oracle
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        using ImageTensors allTrain = RecipeImages.Fashion.Load(context, "train", 15_000), allTest = RecipeImages.Fashion.Load(context, "test", 10_000);
        var measured = new List<Measurement>();
        foreach ((string task, int classes, int images, int tests) in new[] { (Easy, 2, 2_000, 2_000), (Hard, 10, 4_000, 5_000) })
        {
            using ImageTensors train = Some(allTrain, classes, images), test = Some(allTest, classes, tests);
            using VisionModel net = VisionModel.Random(VisionConfig.Parse(
                $$"""{"model_type": "torchvision_vgg", "layers": [4, "M", 6, "M"], "head": "flatten", "num_channels": 1, "image_size": 28, "num_classes": {{classes}}, "image_mean": [0.286], "image_std": [0.353]}"""), seed, context.Device);
            int epoch = Math.Max(1, train.Count / Batch);
            var options = new TrainingOptions { Steps = 3 * epoch, LearningRate = 0.05, Optimizer = "sgd", Momentum = 0.9, WeightDecay = 1e-4, SaveEvery = 0 };
            var work = new VisionMethodContext { Model = net, Images = train, Test = test, Options = options, Batch = Batch, Seed = seed };
            work.Train(net, seed, cancellation: context.Cancellation);
            var oracle = new Oracle { Layers = ["features.4"], Repeats = smoke ? 1 : 3 };
            UnitCombinations choices = oracle.Choices(net, seed);
            foreach ((string length, int epochs) in new[] { (Short, 1), (Long, 4) })
            {
                IReadOnlyList<OracleRun> runs = oracle.Measure(work with { Options = options with { Steps = epochs * epoch, LearningRate = 0.01 } }, context.Cancellation);
                Random random = seed.Random("random scores");
                double[] chance = [.. choices.Choices.Select(_ => random.NextDouble())];
                Add(Loss, OracleVerdict.Of(runs));
                Add(Norm, Oracle.Judge(runs, i => oracle.NormOf(net, choices.Choices[(int)i])));
                Add(Chance, Oracle.Judge(runs, i => chance[i]));

                void Add(string arm, OracleVerdict verdict)
                {
                    foreach ((string metric, double value) in new[] { (Tau, verdict.Loss.Tau), (P, verdict.Loss.P), (Anomaly, 100 * verdict.AnomalyLoss), (Accuracy, verdict.Best.FinalAccuracy) })
                    {
                        measured.Add(new Measurement(Study.Name, $"{task}, {length}", arm, metric, value));
                    }

                    context.Progress.Say(FormattableString.Invariant($"  {task}, {length}, {arm}: τ {verdict.Loss.Tau:F2}, accuracy of its choice {verdict.Best.FinalAccuracy:F2} %"));
                }
            }
        }

        return measured;
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        IReadOnlyList<double> Taus(string task, string length) => results.At(Study.Name, $"{task}, {length}").Values(Loss, Tau);
        SettingResults hard = results.At(Study.Name, $"{Hard}, {Long}");
        return
        [
            Check.AtLeast($"{Hard}, {Long}: share of seeds with |τ| below 0.3", [.. Taus(Hard, Long).Select(t => Math.Abs(t) < 0.3 ? 1.0 : 0)], 0.5),
            Check.AtLeast($"{Long}: τ of two classes above that of ten", [.. Taus(Easy, Long).Zip(Taus(Hard, Long), (e, h) => e - h)], 0),
            Check.AtLeast($"{Hard}: fall of τ from {Short} to {Long}", [.. Taus(Hard, Short).Zip(Taus(Hard, Long), (s, l) => s - l)], 0),
            Check.AtLeast($"{Hard}, {Long}: accuracy of the L1 choice above the oracle's", hard.PerSeed(m => m(Norm, Accuracy) - m(Loss, Accuracy)), -0.5, "points"),
        ];
    }

    /// <summary>The first images of the first and last class, as classes 0 and 1, or of all ten.</summary>
    private static ImageTensors Some(ImageTensors all, int classes, int count)
    {
        long[] labels = all.Labels.data<long>().ToArray();
        int[] places = [.. Enumerable.Range(0, all.Count).Where(i => classes > 2 || labels[i] is 0 or 9).Take(count)];
        ImageTensors some = all.Take(places);
        if (classes == 2)
        {
            using var scope = NewDisposeScope();
            some.Labels.copy_(some.Labels.ne(0).to(ScalarType.Int64));
        }

        return some;
    }
}
