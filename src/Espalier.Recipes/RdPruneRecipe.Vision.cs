using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Merging;
using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

public sealed partial class RdPruneRecipe
{
    private const string Accuracy = "test accuracy, %", Repaired = "after repair, %";

    private static readonly Experiment Vision = new()
    {
        Name = "ResNet-20",
        About = "akamaster/cifar10-resnet20 on CIFAR-10 (a copy that went through JPEG), magnitude, one-shot, no retraining; curves of 20 levels on 96 training images, capped at 95 %, the budget in units of 64 weights; the first 1,000 test images. At 80 %, worst-case RD-Prune, global and uniform also after 100 steps of 64 images (AdamW, 3e-4, constant). Only the calibration images depend on the seed before that.",
        Arms = ["dense", Worst, Mean, Lamp, Global, Erk, UniformPlus, Uniform],
        Settings = ["50 %", "60 %", "70 %", "80 %"],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    private static readonly Experiment VisionAdditivity = new()
    {
        Name = "additivity, ResNet-20",
        About = "The mean distortion of the logits on the 96 images when all layers are pruned together at random shares of at most 50 %, against the sum of what the curves say of each layer alone, over 30 random vectors of shares.",
        Arms = ["summed against joint"],
        Metric = "correlation",
        LowerIsBetter = false,
    };

    private static List<Measurement> RunVision(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        int levels = smoke ? 10 : 20;
        using ImageTensors train = RecipeImages.Cifar.Load(context, "train", 5_000), test = RecipeImages.Cifar.Load(context, "test", 1_000);
        using VisionModel dense = RecipeImages.CifarNet(context, seed);
        using var scope = NewDisposeScope();
        var work = new VisionMethodContext { Model = dense, Images = train, Options = new TrainingOptions { Steps = smoke ? 2 : 100, LearningRate = 3e-4, Schedule = "constant", SaveEvery = 0 }, Batch = smoke ? 8 : 64, Seed = seed };
        Tensor images = new ImageBatches(train, smoke ? 8 : 96) { Mean = dense.Config.Mean, Deviation = dense.Config.Deviation, Seed = seed }.Shuffled(0, context.Device).Images;
        (IReadOnlyList<RdCurve> worst, IReadOnlyList<RdCurve> mean) = RdPrune.MeasureBoth(dense, images, levels, context.Progress, context.Cancellation);
        Tensor[] weights = [.. dense.Weights.Select(w => (Tensor)w.Weight)];
        IReadOnlyList<AllocatedLayer> layers = RdPrune.Layers(dense);
        double start = ImageAccuracy.Evaluate(dense, test).Top1;
        var measured = new List<Measurement>();
        foreach (string setting in Vision.Settings)
        {
            double sparsity = double.Parse(setting[..^2], System.Globalization.CultureInfo.InvariantCulture) / 100;
            measured.Add(new Measurement(Vision.Name, setting, "dense", Accuracy, start));
            Arm(Worst, By(worst));
            Arm(Mean, By(mean));
            Arm(Lamp, RdPrune.LampAmounts(weights, sparsity));
            Arm(Global, null);
            Arm(Erk, RdPrune.ErkAmounts(weights, sparsity));
            Arm(UniformPlus, RdPrune.UniformPlusAmounts(weights, sparsity));
            Arm(Uniform, [.. layers.Select(_ => sparsity)]);

            IReadOnlyList<double> By(IReadOnlyList<RdCurve> curves) => new RdPrune { MaxAmount = 0.95, Unit = 64 }.WithCurves(RdPrune.Named(dense, curves)).Allocate(layers, sparsity);

            void Arm(string arm, IReadOnlyList<double>? shares)
            {
                using var inner = NewDisposeScope();
                using VisionModel net = dense.Clone();
                Dictionary<string, Tensor> masks = MagnitudePruning.All(net);
                if (shares is null)
                {
                    MagnitudePruning.Prune(net, masks, sparsity, MagnitudeSelector.Global, seed);
                }
                else
                {
                    RdPrune.Prune(net, masks, shares);
                }

                Add(Accuracy);
                if (sparsity == 0.8 && arm is (Worst or Global or Uniform))
                {
                    work.Train(net, seed, masks, cancellation: context.Cancellation);
                    Add(Repaired);
                }

                void Add(string metric)
                {
                    measured.Add(new Measurement(Vision.Name, setting, arm, metric, ImageAccuracy.Evaluate(net, test, cancellation: context.Cancellation).Top1));
                    context.Progress.Say(FormattableString.Invariant($"  ResNet-20, {setting}, {arm}: {metric} {measured[^1].Value:F2}"));
                }
            }
        }

        measured.Add(new Measurement(VisionAdditivity.Name, Experiment.Only, VisionAdditivity.Arms[0], VisionAdditivity.Metric, Added(dense, images, mean, seed, smoke ? 3 : Vectors)));
        return measured;
    }

    // Prunes all layers at random levels of at most one half and compares with the sum of what the curves say of each alone.
    private static double Added(VisionModel dense, Tensor images, IReadOnlyList<RdCurve> curves, Seed seed, int vectors)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor reference = dense.Forward(images);
        Random random = seed.Random("shares");
        var (summed, joint) = (new List<double>(), new List<double>());
        for (int v = 0; v < vectors; v++)
        {
            using var step = NewDisposeScope();
            using VisionModel net = dense.Clone();
            int[] levels = [.. curves.Select(c => random.Next(((c.Phi.Count - 1) / 2) + 1))];
            RdPrune.Prune(net, MagnitudePruning.All(net), [.. curves.Zip(levels, (c, level) => (double)c.Phi[level])]);
            summed.Add(curves.Zip(levels, (c, level) => (double)c.Distortion[level]).Sum());
            joint.Add((net.Forward(images) - reference).square().mean().item<float>());
        }

        return Correlation.Pearson(summed, joint);
    }
}
