using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Mean absolute difference of a net's fine images from originals, of which it sees bicubic coarse ones.</summary>
/// <param name="model">The net: coarse images [batch, channels, height, width] in [0, 1] to fine ones.</param>
/// <param name="batches">The originals; normalisation is left out, as such nets shift by themselves.</param>
/// <param name="scale">How many times finer the originals are.</param>
/// <param name="accumulation">Micro-batches per step.</param>
public sealed class SuperResolutionObjective(VisionModel model, ImageBatches batches, int scale, int accumulation = 1) : ITrainingObjective
{
    private readonly ImageBatches _plain = new(batches.Data, batches.Batch) { Augmentation = batches.Augmentation, Seed = batches.Seed };

    /// <summary>Images used so far.</summary>
    public long Tokens { get; private set; }

    /// <inheritdoc/>
    public Tensor Loss(long step, int microBatch)
    {
        using var scope = NewDisposeScope();
        (Tensor originals, _) = _plain.Shuffled((step * accumulation) + microBatch, model.Device);
        Tokens += originals.shape[0];
        return nn.functional.l1_loss(model.Forward(Coarse(originals, scale)), originals).MoveToOuterDisposeScope();
    }

    /// <summary>What a net for super-resolution sees of originals: bicubic, rounded to 256 levels as stored images are.</summary>
    /// <param name="originals">[images, channels, height, width] in [0, 1].</param>
    /// <param name="scale">How many times coarser; divides height and width.</param>
    /// <exception cref="EspalierException">When it does not.</exception>
    public static Tensor Coarse(Tensor originals, int scale)
    {
        (int height, int width) = ((int)originals.shape[2], (int)originals.shape[3]);
        EspalierException.Require(scale >= 2 && height % scale == 0 && width % scale == 0, $"Originals of {height}×{width} have no coarse images {scale} times smaller; crop them to multiples of it.");
        using var scope = NewDisposeScope();
        return (BicubicResize.Run(originals, height / scale, width / scale).clamp(0, 1) * 255).round().div(255).MoveToOuterDisposeScope();
    }
}
