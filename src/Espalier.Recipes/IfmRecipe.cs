using System.Globalization;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>IFM: merging close channels keeps what removing or merging others loses, without data (card, quick reproduction).</summary>
[Reproduces("ifm")]
public sealed class IfmRecipe : Recipe
{
    private const string Accuracy = "accuracy, %", Left = "parameters left, %", Complexity = "feature complexity, %", Change = "largest change of an output", Found = "planted pairs merged, %";
    private const string Dense = "dense", Std = "ifm, deviations added", Sum = "ifm, variances added", Norm = "smallest filters removed", RandomMerge = "random channels merged", RandomRemoval = "random channels removed", Merged = "merged";
    private const double SmallestShare = 0.6;
    private const string Config = "{\"model_type\": \"torchvision_vgg\", \"layers\": [16, \"M\", 32, 32, \"M\", 64, 64], \"head\": \"mean\", " + RecipeImages.FashionFields + "}";

    private static readonly string[] betas = ["0.1", "0.2", "0.25", "0.3", "0.35", "0.4", "0.5"];

    private static readonly Experiment Widths = new()
    {
        Name = "equal widths",
        About = "A net of five 3×3 convolutions (16, 32, 32, 64, 64) with batch norms, trained for 5 epochs (625 steps of 64 images) on 8,000 images of Fashion-MNIST by SGD from 0.1 to 0; then narrowed without data or tuning. All arms have the widths that IFM gives at the largest β that leaves at least 60 % of the parameters; accuracy on 2,000 test images.",
        Arms = [Dense, Std, Sum, Norm, RandomMerge, RandomRemoval],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    private static readonly Experiment Curve = new()
    {
        Name = "merging curve",
        About = "The same net merged at several β, deviations added.",
        Arms = [Merged],
        Settings = betas,
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    private static readonly Experiment Profile = new()
    {
        Name = "feature complexity",
        About = "The share of each layer's channels that is left at the widths of the first experiment.",
        Arms = ["features.0", "features.4", "features.7", "features.11", "features.14"],
        Metric = Complexity,
        LowerIsBetter = null,
    };

    private static readonly Experiment Planted = new()
    {
        Name = "planted duplicates",
        About = "In every layer of the trained net the second channel is made a copy of the first, and both feed the next layer by half; then β = 0.000001.",
        Arms = [Merged],
        Metric = Change,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Many channels of a trained net do nearly the same; merging the closest pairs one by one, without data or training, narrows it at a small loss, where removing small filters or merging any does not (Chen et al., arXiv 2310.06756).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Widths, Curve, Profile, Planted];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # VGG-16 on CIFAR-10, 160 epochs, then β to 0.3; seeds 0 to 2
        espalier train --config vgg16.json --data uoft-cs/cifar10:train --augment cifar --batch 128 --optimizer sgd --momentum 0.9 \
            --weight-decay 1e-4 --lr 0.1 --schedule multistep --steps 62400 --seed 0 --out ./vgg16
        espalier complexity ./vgg16 --curve 0.05,0.1,0.15,0.2,0.25,0.3 --set beta=0.3 --data uoft-cs/cifar10:test --out ./vgg16-merged
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using VisionBench images = VisionBench.Open(context, RecipeImages.Fashion, Config, training: 8_000, test: 2_000);
        int steps = context.Size is RecipeSize.Smoke ? 20 : 625;
        using VisionModel net = VisionModel.Random(VisionConfig.Parse(Config), seed);
        var options = new TrainingOptions { Steps = steps, LearningRate = 0.1, Optimizer = "sgd", Momentum = 0.9, WeightDecay = 5e-4, Schedule = "cosine" };
        new VisionTraining(options) { Batch = 64, Seed = seed }.Run(net, images.TrainingImages, cancellation: context.Cancellation);
        var measured = new List<Measurement>();
        foreach (string beta in betas)
        {
            using IfmResult at = new Ifm { Beta = double.Parse(beta, CultureInfo.InvariantCulture) }.Merge(net, context.Cancellation);
            Add(Curve, Merged, at.Net, beta);
        }

        using IfmResult std = Smallest(net, context);
        Dictionary<string, IReadOnlyList<int[]>> sets = std.Layers.Zip(std.GroupOf).ToDictionary(p => p.First.Layer, p => Sets(p.Second));
        Dictionary<string, IReadOnlyList<int[]>> random = sets.ToDictionary(s => s.Key, s => Shuffled(s.Value, seed, s.Key));
        using IfmResult sum = new Ifm { BatchNorm = BatchNormMerge.Sum }.MergeSets(net, sets);
        using IfmResult anyMerged = new Ifm().MergeSets(net, random);
        using VisionModel bySize = net.Cut(std.Layers.ToDictionary(l => l.Layer, l => Weakest(net, l)));
        using VisionModel anyRemoved = net.Cut(random.ToDictionary(s => s.Key, s => (IReadOnlyCollection<int>)[.. s.Value.SelectMany(set => set.Skip(1))]));
        Add(Widths, Dense, net);
        Add(Widths, Std, std.Net);
        Add(Widths, Sum, sum.Net);
        Add(Widths, Norm, bySize);
        Add(Widths, RandomMerge, anyMerged.Net);
        Add(Widths, RandomRemoval, anyRemoved);
        measured.AddRange(std.Layers.Select(l => new Measurement(Profile.Name, Experiment.Only, l.Layer, Complexity, 100 * l.Complexity)));
        measured.AddRange(Plant(net, images));
        return measured;

        void Add(Experiment experiment, string arm, VisionModel narrow, string setting = Experiment.Only)
        {
            double accuracy = images.Accuracy(narrow);
            measured.Add(new Measurement(experiment.Name, setting, arm, Accuracy, accuracy));
            measured.Add(new Measurement(experiment.Name, setting, arm, Left, 100.0 * narrow.ParameterCount / net.ParameterCount));
            context.Progress.Say(FormattableString.Invariant($"  {setting} {arm}: {accuracy:F2} %, {100.0 * narrow.ParameterCount / net.ParameterCount:F1} % of the parameters"));
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults equal = results.At(Widths.Name), planted = results.At(Planted.Name);
        return
        [
            Check.AtLeast("accuracy of IFM (deviations added) over that of removing the smallest filters", equal.PerSeed(m => m(Std, Accuracy) - m(Norm, Accuracy)), 2, "points"),
            Check.AtLeast("… over that of merging random channels", equal.PerSeed(m => m(Std, Accuracy) - m(RandomMerge, Accuracy)), 5, "points"),
            Check.AtLeast("… over that of removing random channels", equal.PerSeed(m => m(Std, Accuracy) - m(RandomRemoval, Accuracy)), 5, "points"),
            Check.AtLeast("planted duplicates that are merged, and nothing else", planted.PerSeed(m => m(Merged, Found)), 100, "%", everySeed: true),
            Check.AtMost("… and the largest change of an output", planted.PerSeed(m => m(Merged, Change)), 1e-4, everySeed: true),
        ];
    }

    // The largest β, in steps of 0.025, that leaves enough.
    private static IfmResult Smallest(VisionModel net, RecipeContext context)
    {
        IfmResult best = new Ifm { Beta = 0.1 }.Merge(net, context.Cancellation);
        for (double beta = 0.125; beta < 0.8; beta += 0.025)
        {
            IfmResult next = new Ifm { Beta = beta }.Merge(net, context.Cancellation);
            if (next.Net.ParameterCount < SmallestShare * net.ParameterCount)
            {
                next.Dispose();
                break;
            }

            best.Dispose();
            best = next;
        }

        return best;
    }

    private static IReadOnlyList<int[]> Sets(long[] groupOf) => [.. groupOf.Index().GroupBy(g => g.Item).Select(g => g.Select(i => i.Index).ToArray())];

    private static IReadOnlyList<int[]> Shuffled(IReadOnlyList<int[]> sets, Seed seed, string layer)
    {
        int[] order = [.. Enumerable.Range(0, sets.Sum(s => s.Length))];
        seed.Random($"random channels of {layer}").Shuffle(order);
        int done = 0;
        return [.. sets.Select(s => order[done..(done += s.Length)])];
    }

    private static IReadOnlyCollection<int> Weakest(VisionModel net, LayerComplexity layer)
    {
        using var scope = NewDisposeScope();
        float[] sizes = [.. ((WeightLayer)net.Layer(layer.Layer)).Matrix.detach().norm(1).data<float>()];
        return [.. Enumerable.Range(0, layer.Original).OrderBy(i => sizes[i]).Take(layer.Original - layer.Left)];
    }

    private static IEnumerable<Measurement> Plant(VisionModel net, VisionBench images)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using VisionModel planted = net.Clone();
        Dictionary<string, Tensor> values = planted.Tensors.ToDictionary(t => t.Name, t => t.Value);
        foreach (SlicePattern slice in planted.Groups.SelectMany(g => g.Patterns))
        {
            Tensor value = values[slice.Tensor];
            if (slice.Axis == 0)
            {
                value[1].copy_(value[0]);
            }
            else
            {
                value.select(1, 0).mul_(0.5);
                value.select(1, 1).copy_(value.select(1, 0));
            }
        }

        using IfmResult merged = new Ifm { Beta = 1e-6 }.Merge(planted);
        Tensor batch = images.TestImages.Images.narrow(0, 0, 64).to(ScalarType.Float32) / 255;
        double change = (planted.Forward(batch) - merged.Net.Forward(batch)).abs().max().item<float>();
        bool exactly = merged.Layers.Zip(merged.GroupOf).All(p => p.First.Left == p.First.Original - 1 && p.Second[0] == p.Second[1]);
        return [new Measurement(Planted.Name, Experiment.Only, Merged, Change, change), new Measurement(Planted.Name, Experiment.Only, Merged, Found, exactly ? 100 : 0)];
    }
}
