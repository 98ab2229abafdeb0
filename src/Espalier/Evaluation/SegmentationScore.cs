using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Evaluation;

/// <summary>How well pixels are given to classes: counts of pixels by true class (rows) and predicted class (columns), and what follows from them.</summary>
/// <param name="Confusion">[classes][classes] pixel counts; the row is the label.</param>
public sealed record SegmentationScore(IReadOnlyList<long[]> Confusion)
{
    /// <summary>Classes that are told apart.</summary>
    public int Classes => Confusion.Count;

    /// <summary>Intersection over union of each class; 0 where it occurs neither in labels nor in predictions.</summary>
    public IReadOnlyList<double> Iou => [.. Enumerable.Range(0, Classes).Select(k => Union(k) == 0 ? 0 : (double)Confusion[k][k] / Union(k))];

    /// <summary>Which classes occur in labels or predictions.</summary>
    public IReadOnlyList<bool> Present => [.. Enumerable.Range(0, Classes).Select(k => Union(k) > 0)];

    /// <summary>mIoU: the mean of <see cref="Iou"/> over the classes that are present; 0 without any.</summary>
    public double MeanIou => Iou.Where((_, k) => Union(k) > 0).DefaultIfEmpty(0).Average();

    /// <summary>The share of counted pixels that have their class; 0 without any.</summary>
    public double PixelAccuracy => Confusion.Sum(r => r.Sum()) is var all && all == 0 ? 0 : (double)Confusion.Select((r, k) => r[k]).Sum() / all;

    /// <summary>Counts pixels.</summary>
    /// <param name="labels">Classes, whole numbers of any shape.</param>
    /// <param name="predictions">Classes, the same shape.</param>
    /// <param name="classes">How many there are; classes are 0 to one less.</param>
    /// <param name="ignore">Pixels of this label are left out. Default 255.</param>
    /// <exception cref="EspalierException">When shapes differ, or a counted pixel has a class that does not exist.</exception>
    public static SegmentationScore Of(Tensor labels, Tensor predictions, int classes, long ignore = 255)
    {
        EspalierException.Require(classes >= 1, $"Pixels are told apart by at least one class, not {classes}.");
        EspalierException.Require(labels.shape.AsSpan().SequenceEqual(predictions.shape), $"Labels [{string.Join(", ", labels.shape)}] and predictions [{string.Join(", ", predictions.shape)}] differ in shape.");
        using var scope = NewDisposeScope();
        Tensor label = labels.to(ScalarType.Int64).flatten(), counted = label.ne(ignore);
        Tensor row = label.masked_select(counted), column = predictions.to(ScalarType.Int64).flatten().masked_select(counted);
        Require(row, "label");
        Require(column, "prediction");
        long[] counts = [.. bincount((row * classes) + column, minlength: classes * classes).cpu().data<long>()];
        return new SegmentationScore([.. counts.Chunk(classes)]);

        void Require(Tensor found, string what) => EspalierException.Require(found.numel() == 0 || (found.min().item<long>() >= 0 && found.max().item<long>() < classes),
            $"A {what} is class {(found.min().item<long>() < 0 ? found.min().item<long>() : found.max().item<long>())}, and there are classes 0 to {classes - 1}; give the value of pixels without a class as ignore.");
    }

    /// <summary>The counts of two sets of pixels together.</summary>
    public SegmentationScore Plus(SegmentationScore other) => new([.. Confusion.Zip(other.Confusion, (a, b) => a.Zip(b, (x, y) => x + y).ToArray())]);

    private long Union(int k) => Confusion[k].Sum() + Confusion.Sum(r => r[k]) - Confusion[k][k];
}
