using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>The images of a vision recipe: the first of Fashion-MNIST's training and test images; at smoke size, drawn patterns that need no file.</summary>
/// <param name="Training">What nets are trained on.</param>
/// <param name="Test">What accuracy is measured on.</param>
internal sealed record FashionImages(ImageTensors Training, ImageTensors Test) : IDisposable
{
    /// <summary>The fields of config.json that fit the images: grey, 28 × 28, normalised by Fashion-MNIST's mean and deviation.</summary>
    public const string ConfigFields = "\"num_channels\": 1, \"image_size\": 28, \"image_mean\": [0.286], \"image_std\": [0.353]";

    private const string DataSet = "zalando-datasets/fashion_mnist";

    /// <summary>Finds the images.</summary>
    /// <param name="context">The recipe's; a model of the user's own has no place here.</param>
    /// <param name="training">How many training images.</param>
    /// <param name="test">How many test images.</param>
    /// <exception cref="EspalierException">When a model was named.</exception>
    public static FashionImages For(RecipeContext context, int training, int test)
    {
        EspalierException.Require(context.Model is null, "This reproduction trains nets of its own from random weights; leave --model out.");
        return context.Size is RecipeSize.Smoke
            ? new FashionImages(Patterns("training patterns", 320), Patterns("test patterns", 100))
            : new FashionImages(Load("train", training), Load("test", test));

        ImageTensors Load(string split, int limit) => ImageTensors.Load(
            ImageDataset.Open(DataReference.Parse($"{DataSet}:{split}"), id => Hub.ResolveDataset(id, context.Progress, cancellation: context.Cancellation)), channels: 1, limit, context.Progress, context.Cancellation);
    }

    /// <summary>The accuracy of a net on the test images, in percent.</summary>
    public double Accuracy(VisionModel net) => ImageAccuracy.Evaluate(net, Test).Top1;

    /// <summary>The gradient of the loss on one training batch, by weight name, in the caller's scope; the net's own gradients are cleared.</summary>
    /// <param name="net">The net.</param>
    /// <param name="images">Images in the batch.</param>
    /// <param name="seed">Chooses them.</param>
    public IReadOnlyDictionary<string, Tensor> Gradients(VisionModel net, int images, Seed seed)
    {
        using var scope = NewDisposeScope();
        var batches = new ImageBatches(Training, Math.Min(images, Training.Count)) { Mean = net.Config.Mean, Deviation = net.Config.Deviation, Seed = seed };
        new ImageClassificationObjective(net, batches, 1).Loss(0, 0).backward();
        var gradients = net.Weights.ToDictionary(w => w.WeightName, w => w.Weight.grad!.clone().MoveToOuterDisposeScope());
        foreach ((_, TorchSharp.Modules.Parameter value) in net.Parameters)
        {
            value.grad = null;
        }

        return gradients;
    }

    /// <summary>Sets what masks prune to zero.</summary>
    public static void Apply(VisionModel net, IReadOnlyDictionary<string, Tensor> masks)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        foreach (WeightLayer layer in net.Weights)
        {
            layer.Weight.masked_fill_(masks[layer.WeightName].logical_not(), 0);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Training.Dispose();
        Test.Dispose();
    }

    // Ten gratings under noise.
    private static ImageTensors Patterns(string purpose, int count)
    {
        Random random = new Seed(0).Random(purpose);
        var pixels = new byte[count * 28 * 28];
        long[] labels = [.. Enumerable.Range(0, count).Select(i => (long)(i % 10))];
        for (int i = 0; i < pixels.Length; i++)
        {
            int label = i / 784 % 10, x = i % 28, y = i / 28 % 28;
            double wave = Math.Sin((label < 5 ? x : y) * (0.3 + (0.25 * (label % 5))));
            pixels[i] = (byte)Math.Clamp(110 + (70 * wave) + (60 * (random.NextDouble() - 0.5)), 0, 255);
        }

        return new ImageTensors(purpose, tensor(pixels, [count, 1, 28, 28]), tensor(labels));
    }
}
