using System.Diagnostics;
using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>A vision net's shape with training and test images: what recipes on classes of images train and measure.</summary>
internal sealed class VisionBench : IDisposable
{
    /// <summary>Grey images of clothes, 28×28.</summary>
    public const string Fashion = "zalando-datasets/fashion_mnist";

    /// <summary>Coloured images of things, 32×32.</summary>
    public const string Cifar = "uoft-cs/cifar10";

    private const int DrawnTraining = 96, DrawnTest = 40;

    private readonly RecipeContext _context;

    private VisionBench(RecipeContext context, VisionConfig config, ImageTensors training, ImageTensors test) =>
        (_context, Config, TrainingImages, TestImages) = (context, config, training, test);

    /// <summary>The shape of the nets.</summary>
    public VisionConfig Config { get; }

    /// <summary>What is trained on.</summary>
    public ImageTensors TrainingImages { get; }

    /// <summary>What accuracy is measured on.</summary>
    public ImageTensors TestImages { get; }

    /// <summary>Loads the first images of a data set; at smoke size draws a few simple ones instead, which needs no file.</summary>
    /// <param name="context">Size, progress.</param>
    /// <param name="dataset">A hub id with a train and a test split.</param>
    /// <param name="config">The nets' config.json.</param>
    /// <param name="training">Training images.</param>
    /// <param name="test">Test images.</param>
    public static VisionBench Open(RecipeContext context, string dataset, string config, int training, int test)
    {
        VisionConfig shape = VisionConfig.Parse(config);
        return context.Size is RecipeSize.Smoke
            ? new VisionBench(context, shape, Drawn(shape, "training", DrawnTraining), Drawn(shape, "test", DrawnTest))
            : new VisionBench(context, shape, Load("train", training), Load("test", test));

        ImageTensors Load(string split, int limit) => ImageTensors.Load(
            ImageDataset.Open(DataReference.Parse($"{dataset}:{split}"), id => Hub.ResolveDataset(id, context.Progress, cancellation: context.Cancellation)),
            shape.Channels, limit, context.Progress, context.Cancellation);
    }

    /// <summary>A net with random weights.</summary>
    public VisionModel Fresh(Seed seed) => VisionModel.Random(Config, new Seed(seed.For("weights")), _context.Device);

    /// <summary>The steps of some passes over the training images; few at smoke size.</summary>
    /// <param name="epochs">Passes.</param>
    /// <param name="batch">Images per step.</param>
    public int Steps(double epochs, int batch) => _context.Size is RecipeSize.Smoke ? Math.Max(2, (int)epochs) : Math.Max(1, (int)(epochs * (TrainingImages.Count / batch)));

    /// <summary>Trains a net in place.</summary>
    /// <param name="model">The net.</param>
    /// <param name="options">Length, rate, optimiser.</param>
    /// <param name="batch">Images per step.</param>
    /// <param name="seed">Of order and augmentation; the same for arms that are compared.</param>
    /// <param name="masks">Keep masks by weight name.</param>
    /// <param name="sparse">How it is made sparse.</param>
    /// <param name="hooks">What else a method adds.</param>
    public TrainingResult Train(
        VisionModel model, TrainingOptions options, int batch, Seed seed, IReadOnlyDictionary<string, Tensor>? masks = null, ISparseTraining? sparse = null, params IReadOnlyList<ITrainingHook> hooks) =>
        new VisionTraining(options) { Batch = batch, Seed = seed, Sparse = sparse, Hooks = hooks }.Run(model, TrainingImages, masks, _context.Cancellation);

    /// <summary>The share of test images that are named rightly, in percent.</summary>
    public double Accuracy(VisionModel model) => ImageAccuracy.Evaluate(model, TestImages, cancellation: _context.Cancellation).Top1;

    /// <summary>The least time of several forward passes, in milliseconds.</summary>
    /// <param name="model">The net.</param>
    /// <param name="images">Images at once.</param>
    /// <param name="passes">How many passes are timed.</param>
    public double Milliseconds(VisionModel model, int images, int passes)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor input = zeros([images, Config.Channels, Config.ImageSize, Config.ImageSize], device: _context.Device);
        double least = double.PositiveInfinity;
        for (int pass = 0; pass <= passes; pass++)
        {
            var clock = Stopwatch.StartNew();
            using Tensor output = model.Forward(input);
            least = pass == 0 ? least : Math.Min(least, clock.Elapsed.TotalMilliseconds);
        }

        return least;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        TrainingImages.Dispose();
        TestImages.Dispose();
    }

    // Noise with a bright bar whose height says the class.
    private static ImageTensors Drawn(VisionConfig config, string purpose, int count)
    {
        using var scope = NewDisposeScope();
        using Generator generator = new Seed(0).Generator($"drawn {purpose} images");
        Tensor images = (rand([count, config.Channels, config.ImageSize, config.ImageSize], generator: generator) * 100).to(ScalarType.Byte);
        long[] labels = [.. Enumerable.Range(0, count).Select(i => (long)(i % config.Classes))];
        for (int i = 0; i < count; i++)
        {
            images[i].narrow(1, labels[i] * (config.ImageSize - 3) / config.Classes, 3).fill_(220);
        }

        return new ImageTensors($"drawn {purpose} images", images, tensor(labels));
    }
}
