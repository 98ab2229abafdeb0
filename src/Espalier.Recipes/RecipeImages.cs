using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>The images of recipes on vision nets: the first of a data set, or, at smoke size, a few drawn ones, which need no file.</summary>
/// <param name="Dataset">A hub id with a train and a test split.</param>
/// <param name="Channels">Channels of an image.</param>
/// <param name="Side">Its height and width.</param>
internal sealed record RecipeImages(string Dataset, int Channels, int Side)
{
    private const int Classes = 10, Drawn = 96, Noise = 100, Bright = 220, Bar = 3;

    /// <summary>Grey images of clothes.</summary>
    public static RecipeImages Fashion { get; } = new("zalando-datasets/fashion_mnist", 1, 28);

    /// <summary>Coloured images of things.</summary>
    public static RecipeImages Cifar { get; } = new("uoft-cs/cifar10", 3, 32);

    /// <summary>The fields of config.json that fit <see cref="Fashion"/>, its mean and deviation included.</summary>
    public const string FashionFields = "\"num_channels\": 1, \"image_size\": 28, \"image_mean\": [0.286], \"image_std\": [0.353]";

    /// <summary>Loads the first images of a split.</summary>
    /// <param name="context">Says the size.</param>
    /// <param name="split">train or test.</param>
    /// <param name="count">How many.</param>
    public ImageTensors Load(RecipeContext context, string split, int count) => context.Size is RecipeSize.Smoke
        ? Draw(split, Math.Min(count, Drawn))
        : ImageTensors.Load(
            ImageDataset.Open(DataReference.Parse($"{Dataset}:{split}"), id => Hub.ResolveDataset(id, context.Progress, cancellation: context.Cancellation)), Channels, count, context.Progress, context.Cancellation);

    /// <summary>A pretrained ResNet for <see cref="Cifar"/>; at smoke size a small random one.</summary>
    /// <param name="context">Says the size.</param>
    /// <param name="seed">The seed of the random one.</param>
    /// <param name="depth">20, 32, 44 or 56.</param>
    public static VisionModel CifarNet(RecipeContext context, Seed seed, int depth = 20) => context.Size is RecipeSize.Smoke
        ? VisionModel.Random(VisionConfig.Parse("""{"model_type": "cifar_resnet", "depth": 8, "channels": [4, 8, 16], "image_size": 32}"""), seed, context.Device)
        : VisionModel.Load(Hub.Resolve($"akamaster/cifar10-resnet{depth}", context.Progress, context.Cancellation), context.Device);

    // Noise with a bright bar whose height says the class.
    private ImageTensors Draw(string split, int count)
    {
        using var scope = NewDisposeScope();
        using Generator generator = new Seed(0).Generator($"drawn {split} images");
        Tensor images = (rand([count, Channels, Side, Side], generator: generator) * Noise).to(ScalarType.Byte);
        long[] labels = [.. Enumerable.Range(0, count).Select(i => (long)(i % Classes))];
        for (int i = 0; i < count; i++)
        {
            images[i].narrow(1, labels[i] * (Side - Bar) / Classes, Bar).fill_(Bright);
        }

        return new ImageTensors($"drawn {split} images", images, tensor(labels));
    }
}
