using Espalier.Evaluation;
using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>FTWT: predictors that learn which filters fire beat fixed masks at the same work, which is known before training (card, quick reproduction).</summary>
[Reproduces("ftwt")]
public sealed class FtwtRecipe : Recipe
{
    private const string Dense = "dense", Gated = "ftwt", Plain = "ftwt, no softmax", Static = "filters by L1, fixed", Uniform = "ftwt, fixed number", Chance = "filters by chance, per image", Oracle = "target as mask";
    private const string Accuracy = "test accuracy, %", Saving = "saving, %", Estimate = "estimated saving, %", Agreement = "agreement, %", Spread = "savings of images apart, points";
    private const string Whole = "without gates", Masked = "gates, all computed", Skipping = "gates, closed skipped", Milliseconds = "milliseconds";
    private const int Batch = 64, Epochs = 3, GatedEpochs = 9;

    private const string Net = "{\"model_type\": \"torchvision_vgg\", \"layers\": [8, \"M\", 16, 32, \"M\", 32], \"head\": \"flatten\", " + RecipeImages.FashionFields + "}";

    private static readonly Experiment Images = new()
    {
        Name = "Fashion-MNIST",
        About = "The first 6,000 training and 5,000 test images; 3×3 convolutions of 8, 16, 32, 32 filters with batch norm, pools behind the first and third, one linear map; 3 dense epochs of SGD (64 images, rate 0.05, momentum 0.9, decay 5e-4, linear), then 9 of each arm alike. Predictors at rate 1 (without softmax 0.1), decoupled, frozen after half of the steps. The fixed filters and those by chance are as many in each layer as ftwt opens on average, moved by one common share so that the work is the same; the fixed number is the uniform target whose masks come nearest to that work. The target as mask is ftwt's net with the masks that its predictors learn, at test time. Savings are those of the whole net, predictors not counted.",
        Arms = [Dense, Gated, Plain, Static, Uniform, Chance, Oracle],
        Settings = ["r = 0.8", "r = 0.9"],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    private static readonly Experiment Alone = new()
    {
        Name = "one image at a time",
        About = "VGG of 128, 128, pool, 256, 256, pool, 512 filters on an image of 32×32 in colour, random weights, gates that open a share of each layer's filters drawn by chance; median of 40 passes, with the predictors' own time.",
        Arms = [Whole, Masked, Skipping],
        Settings = ["25 % open", "50 % open", "75 % open", "100 % open"],
        Metric = Milliseconds,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Predictors trained by self-supervision to say which filters will be most active give a net that computes fewer filters for each image; it is better than one with fixed masks at the same work, and the work is known before training (Elkerdawy et al., arXiv 2110.08232).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Images, Alone];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # ResNet-56 and VGG-16 on CIFAR-10, 200 epochs, both modes, r of 0.80 to 1; against the table of the README
        espalier train --config akamaster/cifar10-resnet56 --data uoft-cs/cifar10:train --eval-data uoft-cs/cifar10:test --augment cifar --batch 128 --optimizer sgd \
            --momentum 0.9 --weight-decay 5e-4 --lr 0.01 --schedule multistep --steps 78000 --method ftwt --set ratio=0.8 --set mode=decoupled --set fine_tune=19500 --seed 0 --out ./ftwt
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed) => [.. RunImages(context, seed), .. RunAlone(context, seed)];

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults half = results.At(Alone.Name, "50 % open");
        return
        [
            .. Images.Settings.Select(s => Check.AtLeast($"{s}: accuracy above that of fixed filters", results.At(Images.Name, s).PerSeed(m => m(Gated, Accuracy) - m(Static, Accuracy)), 1, "points")),
            .. Images.Settings.Select(s => Check.AtMost($"{s}: estimated and measured saving apart", results.At(Images.Name, s).PerSeed(m => Math.Abs(m(Gated, Saving) - m(Gated, Estimate))), 5, "points")),
            Check.AtMost("half of the filters open: time with closed ones skipped over that of the net without gates", half.PerSeed(m => m(Skipping, Milliseconds) / m(Whole, Milliseconds)), 0.8),
        ];
    }

    private static List<Measurement> RunImages(RecipeContext context, Seed seed)
    {
        using VisionBench bench = VisionBench.Open(context, RecipeImages.Fashion, Net, training: 6_000, test: 5_000);
        var measured = new List<Measurement>();
        var options = new TrainingOptions { Steps = bench.Steps(Epochs, Batch), LearningRate = 0.05, Optimizer = "sgd", Momentum = 0.9, WeightDecay = 5e-4, SaveEvery = 0 };
        using VisionModel dense = bench.Fresh(seed);
        bench.Train(dense, options, Batch, new Seed(seed.For("dense")));
        double start = bench.Accuracy(dense);
        var work = new VisionMethodContext { Model = dense, Images = bench.TrainingImages, Options = options with { Steps = bench.Steps(GatedEpochs, Batch) }, Batch = Batch, Seed = seed };
        foreach (string setting in Images.Settings)
        {
            var method = new Ftwt { PredictorRate = 1, Ratio = double.Parse(setting[4..], System.Globalization.CultureInfo.InvariantCulture) };
            Add(Dense, Accuracy, start);
            using VisionModel net = method.Gated(dense, seed);
            Add(Gated, Estimate, method.Estimate(net, bench.TrainingImages, null, context.Cancellation).Reduction);
            method.Train(net, work, context.Cancellation);
            GateWork reached = Measure(Gated, net, null);
            Add(Gated, Agreement, method.PredictorAgreement(net, bench.TestImages, context.Cancellation));
            Measure(Oracle, net, _ => method.Fires);

            IReadOnlyDictionary<string, long> counts = Counts(net, reached);
            Trained(Static, method, gate => Fixed(gate, counts));
            Trained(Chance, method, gate => ByChance(counts[gate.Convolution.Name], new Seed(seed.For($"masks by chance {gate.Name}"))));

            var uniform = new Ftwt { PredictorRate = 1, Target = FtwtTarget.Uniform, Ratio = NearestShare(net, reached.Macs) };
            Learned(Uniform, uniform);
            Learned(Plain, method with { Softmax = false, PredictorRate = 0.1 });

            void Learned(string arm, Ftwt own)
            {
                using VisionModel other = own.Gated(dense, seed);
                own.Train(other, work, context.Cancellation);
                Measure(arm, other, null);
                Add(arm, Agreement, own.PredictorAgreement(other, bench.TestImages, context.Cancellation));
            }

            // Another choice than the predictors', in training and in the test; predictors learn nothing.
            void Trained(string arm, Ftwt like, Func<GateLayer, Func<GateReading, Tensor>> decision)
            {
                using VisionModel other = like.Gated(dense, seed);
                Ftwt.Deciding(other, decision, () => (like with { Cooldown = 0 }).Train(other, work, context.Cancellation));
                Measure(arm, other, decision);
            }

            GateWork Measure(string arm, VisionModel model, Func<GateLayer, Func<GateReading, Tensor>>? decision)
            {
                (ImageAccuracyResult accuracy, GateWork done) = decision is null
                    ? GateMeter.Measure(model, bench.TestImages, cancellation: context.Cancellation)
                    : Ftwt.Deciding(model, decision, () => GateMeter.Measure(model, bench.TestImages, cancellation: context.Cancellation));
                Add(arm, Accuracy, accuracy.Top1);
                Add(arm, Saving, done.Reduction);
                Add(arm, Spread, 100 * (done.Most - done.Least) / done.Dense);
                context.Progress.Say(FormattableString.Invariant($"  {setting}, {arm}: accuracy {accuracy.Top1:F2} %, saving {done.Reduction:F1} %"));
                return done;
            }

            void Add(string arm, string metric, double value) => measured.Add(new Measurement(Images.Name, setting, arm, metric, value));
        }

        return measured;
    }

    private static List<Measurement> RunAlone(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        string net = smoke ? """{"model_type": "torchvision_vgg", "layers": [8, "M", 8], "head": "mean", "image_size": 8}"""
            : """{"model_type": "torchvision_vgg", "layers": [128, 128, "M", 256, 256, "M", 512], "head": "mean", "image_size": 32}""";
        using VisionModel wide = VisionModel.Random(VisionConfig.Parse(net), seed, context.Device);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor image = rand([1, 3, wide.Config.ImageSize, wide.Config.ImageSize], device: context.Device);
        var measured = new List<Measurement>();
        foreach (string setting in Alone.Settings)
        {
            double share = double.Parse(setting.Split(' ')[0], System.Globalization.CultureInfo.InvariantCulture) / 100;
            using VisionModel gated = wide.WithGates(new GateConfig { Layers = wide.Gateable }, seed);
            foreach (GateLayer gate in gated.Gates)
            {
                gate.Weight.zero_();
                gate.Bias.fill_(-1);
                int[] order = [.. Enumerable.Range(0, (int)gate.Shape.Channels)];
                new Seed(seed.For($"{setting} {gate.Name}")).Random("open filters").Shuffle(order);
                Array.ForEach(order[..(int)(share * order.Length)], i => gate.Bias[i] = 1);
            }

            using var runner = new SkippingRunner(gated);
            double[] times = SkippingSpeed.Times([() => wide.Forward(image), () => gated.Forward(image), () => runner.Forward(image)], smoke ? 2 : 40);
            measured.AddRange(Alone.Arms.Zip(times, (arm, time) => new Measurement(Alone.Name, setting, arm, Milliseconds, time)));
            context.Progress.Say(FormattableString.Invariant($"  {setting}: {times[0]:F2} ms, masked {times[1]:F2} ms, skipped {times[2]:F2} ms"));
        }

        return measured;
    }

    /// <summary>As many filters in each layer as were open on average, all moved by one share so that the work is as near as can be.</summary>
    private static Dictionary<string, long> Counts(VisionModel net, GateWork reached) => Enumerable.Range(-50, 101)
        .Select(shift => net.Gates.ToDictionary(g => g.Convolution.Name, g => Math.Clamp((long)Math.Round(((reached.Open[g.Convolution.Name] / 100) + (shift / 400.0)) * g.Shape.Channels), 1, g.Shape.Channels)))
        .MinBy(counts => Math.Abs(Macs(net, counts) - reached.Macs))!;

    private static double NearestShare(VisionModel net, double macs) => Enumerable.Range(0, 95).Select(p => p / 100.0)
        .MinBy(share => Math.Abs(Macs(net, net.Gates.ToDictionary(g => g.Convolution.Name, g => g.Shape.Channels - (long)(share * g.Shape.Channels))) - macs));

    private static double Macs(VisionModel net, Dictionary<string, long> open)
    {
        using VisionModel fixedNet = net.Clone();
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using var meter = new GateMeter(fixedNet);
        Tensor image = zeros([1, net.Config.Channels, net.Config.ImageSize, net.Config.ImageSize], device: net.Device);
        Ftwt.Deciding(fixedNet, gate => r => arange(gate.Shape.Channels, device: net.Device).lt(open[gate.Convolution.Name]).to(ScalarType.Float32).unsqueeze(0), () => meter.Forward(image));
        return meter.Work.Macs;
    }

    private static Func<GateReading, Tensor> Fixed(GateLayer gate, IReadOnlyDictionary<string, long> counts)
    {
        long[] strongest;
        using (var scope = NewDisposeScope())
        using (no_grad())
        {
            strongest = [.. gate.Convolution.Matrix.abs().sum([1L]).argsort(0, descending: true).narrow(0, 0, counts[gate.Convolution.Name]).cpu().data<long>()];
        }

        return reading =>
        {
            Tensor open = zeros_like(reading.Logits, requires_grad: false);
            using Tensor columns = tensor(strongest, device: open.device);
            return open.index_fill_(1, columns, 1);
        };
    }

    private static Func<GateReading, Tensor> ByChance(long count, Seed seed)
    {
        long draw = 0;
        return reading =>
        {
            using Generator generator = seed.Generator(FormattableString.Invariant($"draw {draw++}"));
            using var scope = NewDisposeScope();
            Tensor chosen = rand(reading.Logits.shape, generator: generator).argsort(1).narrow(1, 0, count).to(reading.Logits.device);
            return zeros_like(reading.Logits, requires_grad: false).scatter_(1, chosen, ones_like(chosen).to(ScalarType.Float32)).MoveToOuterDisposeScope();
        };
    }
}
