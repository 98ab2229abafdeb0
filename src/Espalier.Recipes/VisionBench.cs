using System.Diagnostics;
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
    private readonly RecipeContext _context;

    private VisionBench(RecipeContext context, VisionConfig config, ImageTensors training, ImageTensors test) =>
        (_context, Config, TrainingImages, TestImages) = (context, config, training, test);

    /// <summary>The shape of the nets.</summary>
    public VisionConfig Config { get; }

    /// <summary>What is trained on.</summary>
    public ImageTensors TrainingImages { get; }

    /// <summary>What accuracy is measured on.</summary>
    public ImageTensors TestImages { get; }

    /// <summary>Loads the first images of a data set.</summary>
    /// <param name="context">Size, progress; a model of the user's own has no place here.</param>
    /// <param name="images">The data set.</param>
    /// <param name="config">The nets' config.json.</param>
    /// <param name="training">Training images.</param>
    /// <param name="test">Test images.</param>
    /// <exception cref="EspalierException">When a model was named.</exception>
    public static VisionBench Open(RecipeContext context, RecipeImages images, string config, int training, int test)
    {
        EspalierException.Require(context.Model is null, "This reproduction trains nets of its own from random weights; leave --model out.");
        return new VisionBench(context, VisionConfig.Parse(config), images.Load(context, "train", training), images.Load(context, "test", test));
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

    /// <summary>The gradient of the loss on one training batch, by weight name, in the caller's scope; the net's own gradients are cleared.</summary>
    /// <param name="model">The net.</param>
    /// <param name="images">Images in the batch.</param>
    /// <param name="seed">Chooses them.</param>
    public IReadOnlyDictionary<string, Tensor> Gradients(VisionModel model, int images, Seed seed)
    {
        using var scope = NewDisposeScope();
        var batches = new ImageBatches(TrainingImages, Math.Min(images, TrainingImages.Count)) { Mean = Config.Mean, Deviation = Config.Deviation, Seed = seed };
        new ImageClassificationObjective(model, batches, 1).Loss(0, 0).backward();
        var gradients = model.Weights.ToDictionary(w => w.WeightName, w => w.Weight.grad!.clone().MoveToOuterDisposeScope());
        foreach ((_, TorchSharp.Modules.Parameter value) in model.Parameters)
        {
            value.grad = null;
        }

        return gradients;
    }

    /// <summary>Sets what masks prune to zero.</summary>
    public static void Apply(VisionModel model, IReadOnlyDictionary<string, Tensor> masks)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        foreach (WeightLayer layer in model.Weights)
        {
            layer.Weight.masked_fill_(masks[layer.WeightName].logical_not(), 0);
        }
    }

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
}
