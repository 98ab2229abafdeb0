using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Data;

/// <summary>How training images are changed by chance, each anew in every epoch.</summary>
/// <param name="Padding">A crop of the image's own size from the image with this many zero pixels around it; 0 crops nothing. CIFAR's usual value is 4.</param>
/// <param name="Flip">Whether every second image, by chance, is mirrored left to right.</param>
public sealed record ImageAugmentation(int Padding, bool Flip)
{
    /// <summary>Images as they are.</summary>
    public static ImageAugmentation None { get; } = new(0, false);

    /// <summary>Pad by 4, crop, flip: what almost every paper on CIFAR does.</summary>
    public static ImageAugmentation Cifar { get; } = new(4, true);
}

/// <summary>
/// Normalised batches of a data set. A batch is a pure function of its number: the order of each epoch and every crop come from the seed, so a
/// resumed training sees the same.
/// </summary>
/// <param name="data">The images.</param>
/// <param name="batch">Images per batch.</param>
public sealed class ImageBatches(ImageTensors data, int batch)
{
    private (long Epoch, int[] Images)? _order;

    /// <summary>Subtracted from pixels in [0, 1], channel by channel. Default 0.</summary>
    public IReadOnlyList<double> Mean { get; init; } = [.. Enumerable.Repeat(0.0, (int)data.Images.shape[1])];

    /// <summary>What pixels are then divided by. Default 1.</summary>
    public IReadOnlyList<double> Deviation { get; init; } = [.. Enumerable.Repeat(1.0, (int)data.Images.shape[1])];

    /// <summary>The changes by chance in <see cref="Shuffled"/>. Default none.</summary>
    public ImageAugmentation Augmentation { get; init; } = ImageAugmentation.None;

    /// <summary>The seed of order and augmentation.</summary>
    public Seed Seed { get; init; }

    /// <summary>The images, in the data set's order.</summary>
    public ImageTensors Data => data;

    /// <summary>Images per batch.</summary>
    public int Batch => batch > 0 ? batch : throw new EspalierException($"A batch of {batch} images is not possible; take at least 1.");

    /// <summary>Whole batches in an epoch: images that fill no batch wait for another epoch. A data set smaller than a batch is one batch.</summary>
    public int PerEpoch => Math.Max(1, data.Count / Batch);

    /// <summary>A training batch: shuffled anew in every epoch, augmented, normalised.</summary>
    /// <param name="index">The batch's number from the start of training.</param>
    /// <param name="device">Where it is wanted; null is the CPU.</param>
    /// <returns>Images [batch, channels, height, width], float32, and labels [batch], in the caller's scope.</returns>
    public (Tensor Images, Tensor Labels) Shuffled(long index, Device? device = null)
    {
        (long epoch, int place) = (index / PerEpoch, (int)(index % PerEpoch));
        if (_order?.Epoch != epoch)
        {
            int[] order = [.. Enumerable.Range(0, data.Count)];
            Seed.Random($"order of epoch {epoch}").Shuffle(order);
            _order = (epoch, order);
        }

        ReadOnlySpan<int> all = _order.Value.Images;
        return Make(all.Slice(place * Batch, Math.Min(Batch, all.Length - (place * Batch))), Augmentation == ImageAugmentation.None ? null : Seed.Random($"augmentation of batch {index}"), device);
    }

    /// <summary>All images once, in the data set's order and unchanged but for normalisation; the last batch may be smaller.</summary>
    /// <param name="limit">The most images; null takes all.</param>
    /// <param name="device">Where they are wanted; null is the CPU.</param>
    /// <returns>Batches that the caller disposes, one before the next.</returns>
    public IEnumerable<(Tensor Images, Tensor Labels)> InOrder(int? limit = null, Device? device = null)
    {
        int count = Math.Min(data.Count, limit ?? int.MaxValue);
        for (int start = 0; start < count; start += Batch)
        {
            int[] images = [.. Enumerable.Range(start, Math.Min(Batch, count - start))];
            yield return Make(images, null, device);
        }
    }

    private (Tensor Images, Tensor Labels) Make(ReadOnlySpan<int> chosen, Random? random, Device? device)
    {
        using var scope = NewDisposeScope();
        long[] shape = data.Images.shape;
        (int channels, int height, int width) = ((int)shape[1], (int)shape[2], (int)shape[3]);
        Tensor raw = empty([chosen.Length, channels, height, width], ScalarType.Byte);
        Span<byte> target = raw.bytes;
        ReadOnlySpan<byte> source = data.Images.bytes;
        int size = channels * height * width;
        for (int i = 0; i < chosen.Length; i++)
        {
            ReadOnlySpan<byte> from = source.Slice(chosen[i] * size, size);
            Span<byte> to = target.Slice(i * size, size);
            if (random is null)
            {
                from.CopyTo(to);
            }
            else
            {
                Change(from, to, channels, height, width, random);
            }
        }

        long[] rows = Array.ConvertAll(chosen.ToArray(), c => (long)c);
        Tensor images = raw.to(device ?? CPU).to(ScalarType.Float32).div_(255).sub_(PerChannel(Mean, device)).div_(PerChannel(Deviation, device));
        Tensor labels = data.Labels.index_select(0, tensor(rows, ScalarType.Int64)).to(device ?? CPU);
        return (images.MoveToOuterDisposeScope(), labels.MoveToOuterDisposeScope());
    }

    private static Tensor PerChannel(IReadOnlyList<double> values, Device? device) => tensor(values.Select(v => (float)v).ToArray(), device: device ?? CPU).view(1, -1, 1, 1);

    private void Change(ReadOnlySpan<byte> from, Span<byte> to, int channels, int height, int width, Random random)
    {
        int down = random.Next((2 * Augmentation.Padding) + 1) - Augmentation.Padding, right = random.Next((2 * Augmentation.Padding) + 1) - Augmentation.Padding;
        bool flip = random.Next(2) == 1 && Augmentation.Flip;
        to.Clear();
        int first = Math.Max(0, -right), last = Math.Min(width, width - right);
        for (int row = 0; row < channels * height; row++)
        {
            int y = (row % height) + down;
            if (y < 0 || y >= height || first >= last)
            {
                continue;
            }

            Span<byte> line = to.Slice(row * width, width);
            from.Slice(((row + down) * width) + first + right, last - first).CopyTo(line[first..]);
            if (flip)
            {
                line.Reverse();
            }
        }
    }
}
