using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>The images of a recipe on vision nets: the first of a data set, or, at smoke size, drawn ones, so that it needs no file.</summary>
internal static class RecipeImages
{
    private const int DrawnImages = 48, Grain = 100, Bright = 200;

    /// <summary>Opens images.</summary>
    /// <param name="context">Says the size; a smoke run gets 48 drawn images.</param>
    /// <param name="reference">Data set and split ("uoft-cs/cifar10:train").</param>
    /// <param name="count">How many, from the first.</param>
    /// <param name="channels">Their channels.</param>
    /// <param name="side">Their side where they are drawn.</param>
    public static ImageTensors Load(RecipeContext context, string reference, int count, int channels, int side) => context.Size is RecipeSize.Smoke
        ? Draw(new Seed(0), channels, side)
        : ImageTensors.Load(
            ImageDataset.Open(DataReference.Parse(reference), id => Hub.ResolveDataset(id, context.Progress, cancellation: context.Cancellation)), channels, count, context.Progress, context.Cancellation);

    /// <summary>Noise with a bright bar at one of ten heights.</summary>
    private static ImageTensors Draw(Seed seed, int channels, int side)
    {
        const int classes = 10;
        using var scope = NewDisposeScope();
        using Generator generator = seed.Generator("drawn images");
        Tensor images = (rand([DrawnImages, channels, side, side], generator: generator) * Grain).to(ScalarType.Byte);
        long[] labels = [.. Enumerable.Range(0, DrawnImages).Select(i => (long)(i % classes))];
        for (int i = 0; i < DrawnImages; i++)
        {
            images[i].narrow(1, labels[i] * (side / classes), side / classes).fill_(Bright);
        }

        return new ImageTensors("drawn images", images, tensor(labels));
    }
}
