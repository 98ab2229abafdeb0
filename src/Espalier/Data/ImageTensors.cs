using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Data;

/// <summary>Decoded images with their classes, wholly in memory.</summary>
public sealed class ImageTensors : IDisposable
{
    private const int DecodedAtOnce = 2048;

    /// <summary>Takes over images and classes.</summary>
    /// <param name="name">What the data set is called.</param>
    /// <param name="images">[count, channels, height, width], uint8, contiguous, on the CPU.</param>
    /// <param name="labels">[count], int64.</param>
    /// <exception cref="EspalierException">When shapes or types are others.</exception>
    public ImageTensors(string name, Tensor images, Tensor labels)
    {
        EspalierException.Require(images.dim() == 4 && images.dtype == ScalarType.Byte && labels.dim() == 1 && labels.dtype == ScalarType.Int64 && labels.shape[0] == images.shape[0] && images.shape[0] > 0,
            $"Images are needed as uint8 [count, channels, height, width] with int64 labels [count], not {images.dtype} [{string.Join(", ", images.shape)}] with {labels.dtype} [{string.Join(", ", labels.shape)}].");
        (Name, Images, Labels) = (name, images, labels);
        images.DetachFromDisposeScope();
        labels.DetachFromDisposeScope();
    }

    /// <summary>What the data set is called.</summary>
    public string Name { get; }

    /// <summary>[count, channels, height, width], uint8.</summary>
    public Tensor Images { get; }

    /// <summary>[count], int64, from 0.</summary>
    public Tensor Labels { get; }

    /// <summary>How many images there are.</summary>
    public int Count => (int)Images.shape[0];

    /// <summary>Decodes a data set.</summary>
    /// <param name="dataset">The data set.</param>
    /// <param name="channels">1 turns colours to grey, 3 repeats grey; null takes what the first image has.</param>
    /// <param name="limit">The most images, from the first on; null takes all.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <exception cref="EspalierException">When an image is damaged or of another size than the first, or all do not fit into 2 GiB.</exception>
    public static ImageTensors Load(ImageDataset dataset, int? channels = null, int? limit = null, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        EspalierException.Require(channels is null or 1 or 3, $"Images have 1 or 3 channels, not {channels}.");
        EspalierException.Require(limit is null or > 0, $"A limit of {limit} images is not possible; take at least 1.");
        int count = (int)Math.Min(dataset.Count, limit ?? int.MaxValue);
        LabelledImage first = dataset.Images.FirstOrDefault() ?? throw new EspalierException($"The data set \"{dataset.Name}\" has no images.");
        (int height, int width, int own) = first.GreySize is { } grey ? (grey.Height, grey.Width, 1) : ImageDecoder.Measure(first.Bytes, $"Image 0 of \"{dataset.Name}\"");
        int planes = channels ?? own, size = planes * height * width;
        EspalierException.Require((long)count * size <= Array.MaxLength,
            $"{Text.Count(count)} images of {planes}×{height}×{width} do not fit into the 2 GiB that a data set may take in memory; set a limit of {Array.MaxLength / size} images or make them smaller.");
        using IProgressTask? task = progress?.Begin("decoding images", count, "image");
        Tensor images = empty([count, planes, height, width], ScalarType.Byte);
        var labels = new long[count];
        int done = 0;
        foreach (LabelledImage[] some in dataset.Images.Take(count).Chunk(DecodedAtOnce))
        {
            cancellation.ThrowIfCancellationRequested();
            int start = done;
            try
            {
                Parallel.For(0, some.Length, i =>
                {
                    labels[start + i] = some[i].Label;
                    Fill(some[i], planes, (height, width), images.bytes.Slice((start + i) * size, size), $"Image {start + i} of \"{dataset.Name}\"");
                });
            }
            catch (AggregateException several) when (several.InnerExceptions.OfType<EspalierException>().FirstOrDefault() is { } fault)
            {
                images.Dispose();
                throw new EspalierException(fault.Message, fault);
            }

            done += some.Length;
            task?.Advance(some.Length);
        }

        return new ImageTensors(dataset.Name, images, tensor(labels, ScalarType.Int64));
    }

    /// <summary>Stops when a class is beyond what a net tells apart.</summary>
    /// <param name="classes">How many classes there are.</param>
    public void RequireClasses(int classes)
    {
        long largest = Labels.data<long>().Max();
        EspalierException.Require(largest < classes, $"The data set \"{Name}\" has class {largest}, but the net tells only {classes} classes apart, from 0 to {classes - 1}.");
    }

    /// <summary>Some of the images, copied.</summary>
    /// <param name="places">Which, in the wanted order.</param>
    public ImageTensors Take(IReadOnlyList<int> places)
    {
        using var scope = NewDisposeScope();
        Tensor rows = tensor([.. places.Select(p => (long)p)], ScalarType.Int64);
        return new ImageTensors($"{places.Count} of {Name}", Images.index_select(0, rows), Labels.index_select(0, rows));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Images.Dispose();
        Labels.Dispose();
    }

    /// <summary>One image by itself, of whatever size it has.</summary>
    /// <param name="image">The image.</param>
    /// <param name="planes">1 turns colours to grey, 3 repeats grey.</param>
    /// <param name="name">What it is called in errors.</param>
    /// <returns>[planes, height, width].</returns>
    internal static (byte[] Planes, int Height, int Width) Decode(LabelledImage image, int planes, string name)
    {
        (int height, int width) = image.GreySize ?? (ImageDecoder.Measure(image.Bytes, name) is var (h, w, _) ? (h, w) : default);
        var pixels = new byte[planes * height * width];
        Fill(image, planes, (height, width), pixels, name);
        return (pixels, height, width);
    }

    private static void Fill(LabelledImage image, int planes, (int Height, int Width) size, Span<byte> target, string name)
    {
        if (image.GreySize is null)
        {
            ImageDecoder.Decode(image.Bytes, planes, size.Height, size.Width, target, name);
            return;
        }

        EspalierException.Require(image.GreySize == size, $"{name} is of another size than the first.");
        for (int c = 0; c < planes; c++)
        {
            image.Bytes.Span.CopyTo(target[(c * image.Bytes.Length)..]);
        }
    }
}
