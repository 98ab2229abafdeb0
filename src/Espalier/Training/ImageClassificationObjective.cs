using Espalier.Data;
using Espalier.Models.Vision;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Mean cross-entropy of a net's classes over a batch of images, with label smoothing where wanted.</summary>
/// <param name="logits">Images [batch, channels, height, width] to logits [batch, classes].</param>
/// <param name="batch">Images and classes [batch], int64, of (step, micro-batch), on the net's device, in the caller's scope.</param>
public sealed class ImageClassificationObjective(Func<Tensor, Tensor> logits, Func<long, int, (Tensor Images, Tensor Labels)> batch) : ITrainingObjective
{
    /// <summary>Learns from the shuffled batches of a data set.</summary>
    /// <param name="model">The net; set its <see cref="VisionModel.Training"/> as wanted.</param>
    /// <param name="batches">The batches.</param>
    /// <param name="accumulation">Micro-batches per step, each of them a batch.</param>
    public ImageClassificationObjective(VisionModel model, ImageBatches batches, int accumulation = 1)
        : this(model.Forward, (step, micro) => batches.Shuffled((step * accumulation) + micro, model.Device))
    {
    }

    /// <summary>The share of the target that is spread over all classes. Default 0.</summary>
    public double LabelSmoothing { get; init; }

    /// <summary>Images used so far.</summary>
    public long Tokens { get; private set; }

    /// <inheritdoc/>
    public Tensor Loss(long step, int microBatch)
    {
        using var scope = NewDisposeScope();
        (Tensor images, Tensor labels) = batch(step, microBatch);
        Tokens += images.shape[0];
        return nn.functional.cross_entropy(logits(images), labels, label_smoothing: LabelSmoothing).MoveToOuterDisposeScope();
    }
}
