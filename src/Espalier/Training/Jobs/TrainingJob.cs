using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training.Jobs;

/// <summary>One training of a vision net that depends on no other and is wholly described by data, so that any process can do it.</summary>
/// <param name="Net">The net as it begins; whoever takes the job owns it.</param>
/// <param name="Images">The training images; they stay the giver's.</param>
/// <param name="Options">Length, learning rate, optimiser.</param>
public sealed record TrainingJob(VisionModel Net, ImageTensors Images, TrainingOptions Options)
{
    /// <summary>Keep masks by weight name, in the weight's stored shape; they stay the giver's. Default none.</summary>
    public IReadOnlyDictionary<string, Tensor>? Masks { get; init; }

    /// <summary>The learning rate of every step; null (default) takes the options' schedule.</summary>
    public IReadOnlyList<double>? Rates { get; init; }

    /// <summary>The seed of order and augmentation.</summary>
    public Seed Seed { get; init; }

    /// <summary>Images per step. Default 128.</summary>
    public int Batch { get; init; } = 128;

    /// <summary>The changes of images by chance. Default none.</summary>
    public ImageAugmentation Augmentation { get; init; } = ImageAugmentation.None;

    /// <summary>Trains the net in place.</summary>
    /// <param name="stateFolder">Where its state is kept, and gone on from where there is one; null keeps none.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work early, state saved.</param>
    /// <exception cref="EspalierException">As <see cref="VisionTraining.Run"/>.</exception>
    public TrainingResult Run(string? stateFolder, IProgressSink progress, CancellationToken cancellation = default) => new VisionTraining(Options)
    {
        Batch = Batch,
        Augmentation = Augmentation,
        Seed = Seed,
        Schedule = Rates is null ? null : step => Rates[(int)step],
        StateFolder = stateFolder,
        Resume = stateFolder is not null,
        SameStart = stateFolder is not null,
        Progress = progress,
    }.Run(Net, Images, Masks, cancellation);
}
