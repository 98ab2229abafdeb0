using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Evaluation;

/// <summary>How well a net names images.</summary>
/// <param name="Top1">The share of images whose class has the largest logit, in percent.</param>
/// <param name="Loss">The mean cross-entropy in nats.</param>
/// <param name="ByClass">The same share for each class, in percent; NaN where a class has no image.</param>
/// <param name="Images">The images measured.</param>
public sealed record ImageAccuracyResult(double Top1, double Loss, IReadOnlyList<double> ByClass, int Images)
{
    /// <summary>The standard error of <see cref="Top1"/> over images, in percentage points.</summary>
    public double StandardError => Math.Sqrt(Top1 * (100 - Top1) / Images);
}

/// <summary>Measures a net on images with classes.</summary>
public static class ImageAccuracy
{
    /// <summary>Runs the net over the images once, in evaluation mode.</summary>
    /// <param name="model">The net; its mode is put back.</param>
    /// <param name="images">The images; normalised as the net's configuration says.</param>
    /// <param name="batch">Images at once; does not change the result.</param>
    /// <param name="limit">The most images, from the first; null takes all.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <param name="forward">What runs the net, where something counts on the way; null is <see cref="VisionModel.Forward(Tensor)"/>.</param>
    /// <exception cref="EspalierException">When images and net do not fit.</exception>
    public static ImageAccuracyResult Evaluate(
        VisionModel model, ImageTensors images, int batch = 250, int? limit = null, IProgressSink? progress = null, CancellationToken cancellation = default, Func<Tensor, Tensor>? forward = null)
    {
        model.Config.RequireClassifier("Accuracy");
        images.RequireClasses(model.Config.Classes);
        var batches = new ImageBatches(images, batch) { Mean = model.Config.Mean, Deviation = model.Config.Deviation };
        bool training = model.Training;
        model.Training = false;
        try
        {
            return Evaluate(forward ?? model.Forward, batches, model.Config.Classes, limit, model.Device, progress, cancellation);
        }
        finally
        {
            model.Training = training;
        }
    }

    /// <summary>Measures anything that gives logits: an ensemble, a net with gates.</summary>
    /// <param name="logits">Images [batch, channels, height, width] to logits [batch, classes].</param>
    /// <param name="batches">The images.</param>
    /// <param name="classes">How many classes there are.</param>
    /// <param name="limit">The most images, from the first; null takes all.</param>
    /// <param name="device">Where the images are wanted; null is the CPU.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public static ImageAccuracyResult Evaluate(
        Func<Tensor, Tensor> logits, ImageBatches batches, int classes, int? limit = null, Device? device = null, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        EspalierException.Require(limit is null or > 0, $"A limit of {limit} images is not possible; take at least 1.");
        int count = Math.Min(batches.Data.Count, limit ?? int.MaxValue);
        var (right, all) = (new long[classes], new long[classes]);
        double loss = 0;
        using IProgressTask? task = progress?.Begin("measuring accuracy", count, "image");
        using var frozen = no_grad();
        foreach ((Tensor pixels, Tensor truths) in batches.InOrder(limit, device))
        {
            using Tensor images = pixels, labels = truths;
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            Tensor scores = logits(images);
            loss += nn.functional.cross_entropy(scores, labels, reduction: nn.Reduction.Sum).to(ScalarType.Float64).item<double>();
            long[] named = scores.argmax(1).cpu().data<long>().ToArray(), classesOf = labels.cpu().data<long>().ToArray();
            foreach ((long guess, long truth) in named.Zip(classesOf))
            {
                all[truth]++;
                right[truth] += guess == truth ? 1 : 0;
            }

            task?.Advance(named.Length);
        }

        return new ImageAccuracyResult(100.0 * right.Sum() / count, loss / count, [.. right.Zip(all, (r, n) => n == 0 ? double.NaN : 100.0 * r / n)], count);
    }
}
