using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Data;

/// <summary>Images without classes, each of a size of its own: what nets for super-resolution are trained on and measured with.</summary>
public static class Originals
{
    /// <summary>Opens images as <see cref="ImageDataset.Open"/> does, but for their classes: a folder may hold them at any depth, parquet needs no column of classes.</summary>
    /// <inheritdoc cref="ImageDataset.Open"/>
    public static ImageDataset Open(DataReference reference, Func<string, string>? resolveHubDataset = null) => ImageDataset.Open(reference, resolveHubDataset, labelColumn: null);

    /// <summary>Whole images one after the other, cut at the right and below to multiples of the scale.</summary>
    /// <param name="dataset">The images.</param>
    /// <param name="channels">1 turns colours to grey, 3 repeats grey.</param>
    /// <param name="scale">What height and width are multiples of.</param>
    /// <param name="limit">The most images, from the first on; null takes all.</param>
    /// <returns>[1, channels, height, width], uint8, which the caller disposes.</returns>
    /// <exception cref="EspalierException">While enumerating, when an image is damaged or smaller than the scale.</exception>
    public static IEnumerable<Tensor> Whole(ImageDataset dataset, int channels, int scale, int? limit = null)
    {
        foreach ((int number, LabelledImage image) in dataset.Images.Take(limit ?? int.MaxValue).Index())
        {
            string name = Name(dataset, number);
            (byte[] planes, int height, int width) = ImageTensors.Decode(image, channels, name);
            EspalierException.Require(height >= scale && width >= scale, $"{name} is {width}×{height} pixels, smaller than the scale of {scale}.");
            yield return Cropped(planes, channels, height, width, scale);
        }
    }

    /// <summary>Squares of one size, as many as fit into each image side by side.</summary>
    /// <param name="dataset">The images.</param>
    /// <param name="channels">1 turns colours to grey, 3 repeats grey.</param>
    /// <param name="side">Height and width of a square.</param>
    /// <param name="limit">The most images, from the first on; null takes all.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <exception cref="EspalierException">When an image is damaged or smaller than a square, there is none, or the squares do not fit into 2 GiB.</exception>
    public static ImageTensors Tiles(ImageDataset dataset, int channels, int side, int? limit = null, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        int count = (int)Math.Min(dataset.Count, limit ?? int.MaxValue), size = channels * side * side;
        EspalierException.Require(count > 0, $"The data set \"{dataset.Name}\" has no images.");
        using IProgressTask? task = progress?.Begin("decoding images", count, "image");
        var tiles = new List<byte[]>();
        foreach ((int number, LabelledImage image) in dataset.Images.Take(count).Index())
        {
            cancellation.ThrowIfCancellationRequested();
            string name = Name(dataset, number);
            (byte[] planes, int height, int width) = ImageTensors.Decode(image, channels, name);
            EspalierException.Require(height >= side && width >= side, $"{name} is {width}×{height} pixels, and the net is trained on originals of {side}×{side}; leave it out, or give the net a smaller image_size.");
            for (int top = 0; top + side <= height; top += side)
            {
                for (int left = 0; left + side <= width; left += side)
                {
                    tiles.Add(Cut(planes, channels, height, width, top, left, side));
                }
            }

            EspalierException.Require((long)tiles.Count * size <= Array.MaxLength, $"The squares of the first {number + 1} images of \"{dataset.Name}\" do not fit into the 2 GiB that a data set may take in memory; set a limit.");
            task?.Advance(1);
        }

        Tensor all = empty([tiles.Count, channels, side, side], ScalarType.Byte);
        for (int i = 0; i < tiles.Count; i++)
        {
            tiles[i].CopyTo(all.bytes.Slice(i * size, size));
        }

        return new ImageTensors(dataset.Name, all, zeros([tiles.Count], ScalarType.Int64));
    }

    // By itself: a scope that an iterator holds open would take the tensors of whoever enumerates.
    private static Tensor Cropped(byte[] planes, int channels, int height, int width, int scale)
    {
        using var scope = NewDisposeScope();
        return tensor(planes, [1, channels, height, width]).narrow(2, 0, height / scale * scale).narrow(3, 0, width / scale * scale).contiguous().DetachFromDisposeScope();
    }

    private static string Name(ImageDataset dataset, int number) => $"Image {number} of \"{dataset.Name}\"";

    private static byte[] Cut(byte[] planes, int channels, int height, int width, int top, int left, int side)
    {
        var tile = new byte[channels * side * side];
        for (int c = 0; c < channels; c++)
        {
            for (int y = 0; y < side; y++)
            {
                planes.AsSpan((((c * height) + top + y) * width) + left, side).CopyTo(tile.AsSpan(((c * side) + y) * side));
            }
        }

        return tile;
    }
}
