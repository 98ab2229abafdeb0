using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Merging;
using Espalier.Methods.Retraining;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

public sealed partial class PerpRecipe
{
    private const string VisionDense = "dense", Statistics = "statistics of batch norms alone", Small = "norms, biases, head", SmallLora = "norms, biases, head + MaskLoRA";
    private const string Accuracy = "test accuracy, %", Trained = "parameters trained, %", Revived = "revived zeros";

    private static readonly Experiment Vision = new()
    {
        Name = "retraining a pruned image classifier",
        About = "ResNet-20 (akamaster/cifar10-resnet20) on CIFAR-10 (a copy that went through JPEG), all convolutions and the linear map pruned by |w| in one ranking to 80 %; 60 steps of 128 of the first 10,000 training images, cropped and flipped, AdamW without decay, linear schedule with 10 % warm-up, rate 1e-2 (all: 1e-3), MaskLoRA with r 4, alpha 8; the first 1,000 test images. Statistics alone: 30 training batches in training mode.",
        Arms = [VisionDense, None, Statistics, Small, SmallLora, Full],
        Metric = Accuracy,
        LowerIsBetter = false,
    };

    private static List<Measurement> RunVision(RecipeContext context, Seed seed)
    {
        bool smoke = context.Size is RecipeSize.Smoke;
        using ImageTensors train = RecipeImages.Cifar.Load(context, "train", 10_000), test = RecipeImages.Cifar.Load(context, "test", 1_000);
        using VisionModel dense = RecipeImages.CifarNet(context, seed);
        using var scope = NewDisposeScope();
        var measured = new List<Measurement>();
        var work = new VisionMethodContext
        {
            Model = dense,
            Images = train,
            Options = new TrainingOptions { Steps = smoke ? 3 : 60, LearningRate = 1e-2, WarmupFraction = 0.1, SaveEvery = 0 },
            Batch = smoke ? 8 : 128,
            Augmentation = ImageAugmentation.Cifar,
            Seed = seed,
        };
        Add(VisionDense, dense);
        Arm(None, (_, _) => 0);
        Arm(Statistics, (net, _) =>
        {
            ImageBatches batches = work.Batches();
            BatchNormRecalibration.Run(net, Enumerable.Range(0, smoke ? 3 : 30).Select(i =>
            {
                (Tensor images, Tensor labels) = batches.Shuffled(i, context.Device);
                labels.Dispose();
                return images;
            }));
            return 0;
        });
        Arm(Small, Retrain(Subset.Norms | Subset.Biases | Subset.Head, 1e-2));
        Arm(SmallLora, Retrain(Subset.Norms | Subset.Biases | Subset.Head | Subset.MaskLora, 1e-2));
        Arm(Full, Retrain(Subset.Full, 1e-3));
        return measured;

        Func<VisionModel, Dictionary<string, Tensor>, long> Retrain(Subset subset, double rate) => (net, masks) =>
            new Perp { Subset = subset, Rank = 4, Alpha = 8 }.Retrain(net, masks, work with { Options = work.Options with { LearningRate = rate } }, context.Cancellation);

        void Arm(string arm, Func<VisionModel, Dictionary<string, Tensor>, long> retrain)
        {
            using var inner = NewDisposeScope();
            using VisionModel net = dense.Clone();
            Dictionary<string, Tensor> masks = MagnitudePruning.All(net);
            MagnitudePruning.Prune(net, masks, Sparsity, MagnitudeSelector.Global, seed);
            long trained = retrain(net, masks);
            Add(arm, net);
            measured.Add(new Measurement(Vision.Name, Experiment.Only, arm, Trained, 100.0 * trained / net.ParameterCount));
            measured.Add(new Measurement(Vision.Name, Experiment.Only, arm, Revived, net.Weights.Sum(w => w.Weight.ne(0).logical_and(masks[w.WeightName].logical_not()).sum().item<long>())));
        }

        void Add(string arm, VisionModel net)
        {
            measured.Add(new Measurement(Vision.Name, Experiment.Only, arm, Accuracy, ImageAccuracy.Evaluate(net, test, cancellation: context.Cancellation).Top1));
            context.Progress.Say(FormattableString.Invariant($"  {arm}: accuracy {measured[^1].Value:F2} %"));
        }
    }

    private static Check[] JudgeVision(SettingResults vision) =>
    [
        Check.AtLeast("images: norms, biases and head regain of the accuracy lost", vision.PerSeed(m => 100 * (m(Small, Accuracy) - m(None, Accuracy)) / (m(VisionDense, Accuracy) - m(None, Accuracy))), 75, "%"),
        Check.AtLeast("… and are above the statistics alone by", vision.PerSeed(m => m(Small, Accuracy) - m(Statistics, Accuracy)), 5, "points"),
        Check.AtMost("… with so many of all parameters", vision.Values(Small, Trained), 2, "%"),
        Check.AtMost("images: zeros revived by any arm", vision.PerSeed(m => m(Small, Revived) + m(SmallLora, Revived) + m(Full, Revived)), 0, everySeed: true),
    ];
}
