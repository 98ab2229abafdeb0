using System.Globalization;
using Espalier.Data;
using Espalier.Methods.Adaptation;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>SNNK: kernels are estimated at the promised rate, dense layers bundle into one small matrix, and adapters need few numbers (card, quick reproduction a).</summary>
[Reproduces("snnk")]
public sealed class SnnkRecipe : Recipe
{
    private const string Gaussian = "relu, normal rows", Orthogonal = "relu, orthogonal rows", Sine = "sine";
    private const string Dense = "dense", Trained = "SNNK, trained", Closed = "SNNK, closed form", LowRank = "truncated SVD, same size", Narrow = "narrow hidden layer, trained, same size";
    private const string HeadOnly = "classifier alone", Full = "full fine-tuning", Lora = "LoRA", Bottleneck = "bottleneck adapter", Equal = "SNNK adapter, same size", Fifth = "SNNK adapter, a fifth";
    private const string Error = "relative error", Slope = "slope of log error over log m", Accuracy = "test accuracy, %", Size = "trained numbers of these layers", Parameters = "trained parameters", State = "optimiser state, kB";
    private const string Net = """{"model_type": "mlp", "hidden": [256, 256], "num_channels": 1, "image_size": 28, "image_mean": [0.286], "image_std": [0.353]}""";
    private const int Batch = 128, Width = 256;
    private const string Largest = "m = 512";

    private static readonly Experiment Estimating = new()
    {
        Name = "estimator",
        About = "The arc-cosine kernel and sin(w·x + 0.5) of 20 pairs of unit vectors in 8 dimensions from m random features, 200 draws of the projection; the root of the mean squared error over that of the exact values.",
        Arms = [Gaussian, Orthogonal, Sine],
        Settings = ["16", "64", "256", "1024"],
        Metric = Error,
    };

    private static readonly Experiment Bundling = new()
    {
        Name = "bundling",
        About = "Fashion-MNIST, the first 20,000 training and all test images, an MLP 784-256-256-10 trained for 5 epochs of 128 images, AdamW 1e-3 with a linear schedule. Its last two maps become a bundle of m features; the first stays. Trained: 3 epochs of the one matrix from its closed form. The closed form fits classes as 0 and 1. Same size: a rank for the hidden map so that its factors and the last map have as many numbers, not trained; and a narrower hidden layer, trained for 3 epochs.",
        Arms = [Dense, Trained, Closed, LowRank, Narrow],
        Settings = ["m = 64", "m = 128", "m = 256", Largest],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    private static readonly Experiment Adapting = new()
    {
        Name = "adapters",
        About = "The same trained MLP, frozen, on images turned by transposing: 2 epochs of 10,000 training images, AdamW 3e-3 (full fine-tuning 1e-3) with a linear schedule. Adapters behind both hidden maps, and the classifier is trained in every arm. Bottleneck of 8; SNNK of the same size: bottleneck 14, m = 32; a fifth: bottleneck 3, m = 16; LoRA of rank 4.",
        Arms = [HeadOnly, Full, Lora, Bottleneck, Equal, Fifth],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    /// <inheritdoc/>
    public override string Claim =>
        "Random features in place of dense layers estimate their kernels with an error that falls like 1/√m, bundle dense layers into one small matrix that has a closed form, and make adapters with up to five times fewer trained parameters at competitive accuracy (Sehanobish et al., arXiv 2310.13225).";

    /// <inheritdoc/>
    public override IReadOnlyList<Experiment> Experiments => [Estimating, Bundling, Adapting];

    /// <inheritdoc/>
    public override string FullPlan =>
        """
        # ViT-B/16 on CIFAR-100, adapters of m = 16, 32 and 64 behind attention and feed-forward outputs; against --method lora and full training, three seeds
        espalier adapt timm/vit_base_patch16_224 --data uoft-cs/cifar100:train --eval-data uoft-cs/cifar100:test --batch 64 --steps 15600 --lr 1e-3 \
            --method snnk --set targets=proj,fc2 --set features=16 --set bottleneck=16 --set train=head --seed 0 --out ./adapter
        """;

    /// <inheritdoc/>
    public override IReadOnlyList<Measurement> Run(RecipeContext context, Seed seed)
    {
        using VisionBench bench = VisionBench.Open(context, RecipeImages.Fashion, Net, 20_000, 10_000);
        using VisionModel dense = bench.Fresh(seed);
        bench.Train(dense, Options(bench, 5, 1e-3), BatchOf(context), seed);
        return [.. Estimate(context, seed), .. Bundle(context, bench, dense, seed), .. Adapt(context, bench, dense, seed)];
    }

    /// <inheritdoc/>
    public override IReadOnlyList<Check> Judge(RecipeResults results)
    {
        SettingResults last = results.At(Estimating.Name, "1024"), bundle = results.At(Bundling.Name, Largest), adapters = results.At(Adapting.Name);
        return
        [
            .. from arm in Estimating.Arms select Check.AtMost($"{arm}: how far the slope is from -0.5", [.. last.Values(arm, Slope).Select(s => Math.Abs(s + 0.5))], 0.1),
            Check.AtMost("orthogonal over normal rows: error, mean over m", [.. results.Seeds.Select((_, i) => Estimating.Settings.Average(m => results.At(Estimating.Name, m).Ratio(Error, Orthogonal, Gaussian)[i]))], 0.98),
            Check.AtLeast("dense layers over bundle: trained numbers", bundle.PerSeed(m => m(Dense, Size) / m(Trained, Size)), 5, "times"),
            Check.AtLeast("bundle, trained: accuracy above dense", bundle.PerSeed(m => m(Trained, Accuracy) - m(Dense, Accuracy)), -1.5, "points"),
            Check.AtLeast("bundle, closed form: accuracy above dense", bundle.PerSeed(m => m(Closed, Accuracy) - m(Dense, Accuracy)), -3, "points"),
            Check.AtLeast("adapter of the same size: accuracy above the bottleneck's", adapters.PerSeed(m => m(Equal, Accuracy) - m(Bottleneck, Accuracy)), -0.3, "points"),
            Check.AtLeast("adapter of a fifth: accuracy above the bottleneck's", adapters.PerSeed(m => m(Fifth, Accuracy) - m(Bottleneck, Accuracy)), -1.5, "points"),
        ];
    }

    private static TrainingOptions Options(VisionBench bench, double epochs, double rate) => new() { Steps = bench.Steps(epochs, Batch), LearningRate = rate, SaveEvery = 0 };

    private static int BatchOf(RecipeContext context) => context.Size is RecipeSize.Smoke ? 16 : Batch;

    private static List<Measurement> Estimate(RecipeContext context, Seed seed)
    {
        const int inputs = 8, pairs = 20;
        int draws = context.Size is RecipeSize.Smoke ? 3 : 200;
        var measured = new List<Measurement>();
        using var scope = NewDisposeScope();
        using Generator generator = seed.Generator("pairs");
        Tensor x = nn.functional.normalize(randn([pairs, inputs], generator: generator)), w = nn.functional.normalize(randn([pairs, inputs], generator: generator)), bias = full([pairs], 0.5f);
        foreach (string arm in Estimating.Arms)
        {
            Tensor exact = arm == Sine ? ((x * w).sum([1]) + 0.5).sin() : RandomFeatures.ArcCosine(x, w).diagonal();
            var points = new List<(double M, double Error)>();
            foreach (string setting in Estimating.Settings)
            {
                int m = int.Parse(setting, CultureInfo.InvariantCulture);
                double squares = 0;
                for (int draw = 0; draw < draws; draw++)
                {
                    using var inner = NewDisposeScope();
                    Tensor g = RandomFeatures.Projection(m, inputs, arm == Orthogonal, seed, FormattableString.Invariant($"{arm} {m} {draw}"));
                    Tensor estimate;
                    if (arm == Sine)
                    {
                        Tensor xi = (rand([m], generator: generator).ge(0.5).to(ScalarType.Float32) * 2 - 1) / (2 * Math.PI);
                        estimate = (RandomFeatures.Universal(x, g, xi) * RandomFeatures.UniversalWeights(UniversalFunction.Sin, w, bias, g, xi)).sum([1]).real;
                    }
                    else
                    {
                        estimate = (RandomFeatures.Relu(x, g) * RandomFeatures.Relu(w, g)).sum([1]);
                    }

                    squares += (estimate - exact).square().mean().to(ScalarType.Float64).item<double>();
                }

                points.Add((m, Math.Sqrt(squares / draws / exact.square().mean().to(ScalarType.Float64).item<double>())));
                measured.Add(new Measurement(Estimating.Name, setting, arm, Error, points[^1].Error));
            }

            measured.Add(new Measurement(Estimating.Name, Estimating.Settings[^1], arm, Slope, SlopeOf(points)));
            context.Progress.Say(FormattableString.Invariant($"  {arm}: {string.Join(", ", points.Select(p => p.Error.ToString("G3", CultureInfo.InvariantCulture)))}, slope {measured[^1].Value:F3}"));
        }

        return measured;
    }

    private static double SlopeOf(List<(double M, double Error)> points)
    {
        double[] x = [.. points.Select(p => Math.Log(p.M))], y = [.. points.Select(p => Math.Log(p.Error))];
        return x.Zip(y).Sum(p => (p.First - x.Average()) * (p.Second - y.Average())) / x.Sum(v => (v - x.Average()) * (v - x.Average()));
    }

    private static List<Measurement> Bundle(RecipeContext context, VisionBench bench, VisionModel dense, Seed seed)
    {
        var measured = new List<Measurement>();
        int batch = BatchOf(context);
        long before = dense.Weights.Skip(1).Sum(l => l.Weight.numel() + l.Bias!.numel());
        var work = new VisionMethodContext { Model = dense, Images = bench.TrainingImages, Options = Options(bench, 3, 1e-3), Batch = batch, Seed = seed };
        double denseAccuracy = bench.Accuracy(dense);
        foreach (string setting in Bundling.Settings)
        {
            int m = int.Parse(setting.Split(' ')[^1], CultureInfo.InvariantCulture);
            long size = (m + 1) * dense.Config.Classes;
            Add(Dense, denseAccuracy, before);
            foreach ((string arm, bool tune) in new[] { (Closed, false), (Trained, true) })
            {
                using VisionMethodResult bundled = new Snnk { Features = m, Tune = tune }.Run(work, context.Cancellation);
                Add(arm, bench.Accuracy(bundled.Net), size);
            }

            long rank = Math.Max(1, (size - (dense.Config.Classes * (Width + 1)) - Width) / (2 * Width));
            using (VisionModel cut = dense.Clone())
            {
                Truncate(cut.Weights[1], rank);
                Add(LowRank, bench.Accuracy(cut), (rank * 2 * Width) + Width + (dense.Config.Classes * (Width + 1)));
            }

            int narrow = (int)Math.Max(1, size / (Width + 1 + dense.Config.Classes));
            using VisionModel small = VisionModel.Random(VisionConfig.Parse(Net.Replace("[256, 256]", FormattableString.Invariant($"[256, {narrow}]"), StringComparison.Ordinal)), seed, context.Device);
            TrainNarrow(bench, dense, small, work, context);
            Add(Narrow, bench.Accuracy(small), (narrow * (Width + 1 + dense.Config.Classes)) + dense.Config.Classes);

            void Add(string arm, double accuracy, double numbers)
            {
                measured.Add(new Measurement(Bundling.Name, setting, arm, Accuracy, accuracy));
                measured.Add(new Measurement(Bundling.Name, setting, arm, Size, numbers));
                context.Progress.Say(FormattableString.Invariant($"  {setting} {arm}: {accuracy:F2} %, {numbers} numbers"));
            }
        }

        return measured;
    }

    private static void Truncate(WeightLayer layer, long rank)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        (Tensor u, Tensor s, Tensor vt) = linalg.svd(layer.Matrix, fullMatrices: false);
        layer.SetMatrix((u.narrow(1, 0, rank) * s.narrow(0, 0, rank)).mm(vt.narrow(0, 0, rank)));
    }

    // The first map is the trained one and stays; the others start at random.
    private static void TrainNarrow(VisionBench bench, VisionModel dense, VisionModel small, VisionMethodContext work, RecipeContext context)
    {
        using (no_grad())
        {
            small.Weights[0].Weight.copy_(dense.Weights[0].Weight);
            small.Weights[0].Bias!.copy_(dense.Weights[0].Bias!);
        }

        small.Weights[0].Weight.requires_grad = false;
        small.Weights[0].Bias!.requires_grad = false;
        new VisionTraining(work.Options) { Batch = work.Batch, Seed = work.Seed }.Run(small, bench.TrainingImages, null, context.Cancellation);
    }

    private static List<Measurement> Adapt(RecipeContext context, VisionBench bench, VisionModel dense, Seed seed)
    {
        var measured = new List<Measurement>();
        using ImageTensors training = Turned(bench.TrainingImages, 10_000), test = Turned(bench.TestImages, int.MaxValue);
        int batch = BatchOf(context), steps = context.Size is RecipeSize.Smoke ? 2 : 2 * training.Count / batch;
        Snnk snnk = new() { Train = ["head"] };
        foreach (string arm in Adapting.Arms)
        {
            using VisionModel net = dense.Clone();
            var options = new TrainingOptions { Steps = steps, LearningRate = arm == Full ? 1e-3 : 3e-3, SaveEvery = 0 };
            IAdaptation? method = arm switch
            {
                Lora => new Lora { Rank = 4, Alpha = 8, Train = ["head"] },
                Bottleneck => snnk with { Kind = KernelFeatures.Plain, Bottleneck = 8 },
                Equal => snnk with { Features = 32, Bottleneck = 14 },
                Fifth => snnk with { Features = 16, Bottleneck = 3 },
                _ => null,
            };
            long trained = net.ParameterCount, state = 8 * trained;
            if (arm is Full or HeadOnly)
            {
                foreach ((string name, TorchSharp.Modules.Parameter value) in net.Parameters)
                {
                    value.requires_grad = arm == Full || name.StartsWith(net.Weights[^1].Name + ".", StringComparison.Ordinal);
                }

                trained = net.Parameters.Where(p => p.Value.requires_grad).Sum(p => p.Value.numel());
                state = 8 * trained;
                new VisionTraining(options) { Batch = batch, Seed = seed }.Run(net, training, null, context.Cancellation);
                Add(Evaluation.ImageAccuracy.Evaluate(net, test, cancellation: context.Cancellation).Top1);
            }
            else
            {
                using AdaptationResult result = new AdaptationTraining(options) { Batch = batch, Seed = seed }.Run(method!, net, training, cancellation: context.Cancellation);
                (trained, state) = (result.TrainedParameters, result.OptimizerBytes);
                Add(Evaluation.ImageAccuracy.Evaluate(net, test, cancellation: context.Cancellation).Top1);
            }

            void Add(double accuracy)
            {
                measured.Add(new Measurement(Adapting.Name, Experiment.Only, arm, Accuracy, accuracy));
                measured.Add(new Measurement(Adapting.Name, Experiment.Only, arm, Parameters, trained));
                measured.Add(new Measurement(Adapting.Name, Experiment.Only, arm, State, state / 1e3));
                context.Progress.Say(FormattableString.Invariant($"  {arm}: {accuracy:F2} %, {trained} trained"));
            }
        }

        return measured;
    }

    private static ImageTensors Turned(ImageTensors images, int most)
    {
        using var scope = NewDisposeScope();
        long count = Math.Min(most, images.Count);
        return new ImageTensors($"{images.Name}, transposed", images.Images.narrow(0, 0, count).transpose(2, 3).contiguous().DetachFromDisposeScope(), images.Labels.narrow(0, 0, count).clone().DetachFromDisposeScope());
    }
}
