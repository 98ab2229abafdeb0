using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training.Jobs;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>A system that makes another net of a trained one with the help of images: prunes and retrains it, merges copies, studies it. It trains through the one loop.</summary>
public interface IVisionMethod
{
    /// <summary>Whether it has trainings that do not depend on each other, which <see cref="VisionMethodContext.Crew"/> does. Default false.</summary>
    bool UsesCrew => false;

    /// <summary>Throws where its options do not fit the net or the training; asked before images are read.</summary>
    /// <param name="model">The trained net.</param>
    /// <param name="options">How it trains.</param>
    /// <exception cref="EspalierException">Saying what does not fit and what to change.</exception>
    void Check(VisionModel model, TrainingOptions options);

    /// <summary>Does the work.</summary>
    /// <param name="context">The net, which is not changed, and what belongs to it.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>The new net; the caller disposes it.</returns>
    /// <exception cref="EspalierException">As <see cref="Check"/>, and when a training goes wrong.</exception>
    VisionMethodResult Run(VisionMethodContext context, CancellationToken cancellation = default);
}

/// <summary>What a <see cref="IVisionMethod"/> is given.</summary>
public sealed record VisionMethodContext
{
    /// <summary>The trained net; it stays as it is.</summary>
    public required VisionModel Model { get; init; }

    /// <summary>The training images.</summary>
    public required ImageTensors Images { get; init; }

    /// <summary>Images to measure on; null where only the net is wanted.</summary>
    public ImageTensors? Test { get; init; }

    /// <summary>How nets are trained.</summary>
    public required TrainingOptions Options { get; init; }

    /// <summary>Images per step. Default 128.</summary>
    public int Batch { get; init; } = 128;

    /// <summary>The changes of training images by chance. Default none.</summary>
    public ImageAugmentation Augmentation { get; init; } = ImageAugmentation.None;

    /// <summary>The seed of everything that is drawn.</summary>
    public Seed Seed { get; init; }

    /// <summary>A folder for pages and tables beside the net; null writes none.</summary>
    public string? Folder { get; init; }

    /// <summary>Where the states of the method's trainings are kept, so that it can be stopped and go on; null (default) keeps none.</summary>
    public TrainingStates? States { get; init; }

    /// <summary>Who does trainings that do not depend on each other. Default this process, one after the other.</summary>
    public ITrainingCrew Crew { get; init; } = OneAfterTheOther.Instance;

    /// <summary>Where progress and warnings are told.</summary>
    public IProgressSink Progress { get; init; } = SilentProgress.Instance;

    /// <summary>The next training of the method, which goes on where an earlier run of it was stopped. Methods add what is theirs.</summary>
    /// <param name="seed">The seed of order and augmentation.</param>
    /// <param name="options">Other options than <see cref="Options"/>.</param>
    public VisionTraining Training(Seed seed, TrainingOptions? options = null) =>
        new(options ?? Options) { Batch = Batch, Augmentation = Augmentation, Seed = seed, StateFolder = States?.Next(), Resume = States is not null, SameStart = States is not null, Progress = Progress };

    /// <summary>Trains a net in place on the training images.</summary>
    /// <param name="net">The net.</param>
    /// <param name="seed">The seed of order and augmentation.</param>
    /// <param name="masks">Keep masks by weight name.</param>
    /// <param name="options">Other options than <see cref="Options"/>.</param>
    /// <param name="rates">The learning rate of every step, in place of the schedule.</param>
    /// <param name="images">Other images than <see cref="Images"/>.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public TrainingResult Train(
        VisionModel net, Seed seed, IReadOnlyDictionary<string, Tensor>? masks = null, TrainingOptions? options = null, IReadOnlyList<double>? rates = null,
        ImageTensors? images = null, CancellationToken cancellation = default) =>
        Job(net, seed, masks, options, rates, images).Run(States?.Next(), Progress, cancellation);

    /// <summary>The same training as a job for <see cref="Crew"/>.</summary>
    /// <param name="net">The net, which the job owns.</param>
    /// <param name="seed">The seed of order and augmentation.</param>
    /// <param name="masks">Keep masks by weight name.</param>
    /// <param name="options">Other options than <see cref="Options"/>.</param>
    /// <param name="rates">The learning rate of every step, in place of the schedule.</param>
    /// <param name="images">Other images than <see cref="Images"/>.</param>
    public TrainingJob Job(
        VisionModel net, Seed seed, IReadOnlyDictionary<string, Tensor>? masks = null, TrainingOptions? options = null, IReadOnlyList<double>? rates = null, ImageTensors? images = null) =>
        new(net, images ?? Images, options ?? Options) { Masks = masks, Rates = rates, Seed = seed, Batch = Batch, Augmentation = Augmentation };

    /// <summary>Has <see cref="Crew"/> do trainings that do not depend on each other.</summary>
    /// <param name="jobs">The trainings; each is asked for only when there is a place for it.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>The trained nets in order; the caller disposes them.</returns>
    public IEnumerable<VisionModel> TrainAll(IEnumerable<TrainingJob> jobs, CancellationToken cancellation = default) => Crew.Train(jobs, States, Progress, cancellation);

    /// <summary>Batches of the training images for measuring, in the data set's order.</summary>
    /// <param name="images">Other images than <see cref="Images"/>.</param>
    public ImageBatches Batches(ImageTensors? images = null) => new(images ?? Images, Batch) { Mean = Model.Config.Mean, Deviation = Model.Config.Deviation };
}

/// <summary>What a <see cref="IVisionMethod"/> made.</summary>
/// <param name="Net">The new net.</param>
/// <param name="Masks">Its masks by weight name; empty where nothing is masked.</param>
/// <param name="Figures">What was measured on the way, by name, in order.</param>
public sealed record VisionMethodResult(VisionModel Net, IReadOnlyDictionary<string, SparsityMask> Masks, IReadOnlyList<(string Name, double Value)> Figures) : IDisposable
{
    /// <summary>The share of the masked weights that is zero; 0 without masks.</summary>
    public double Sparsity => Masks.Count == 0 ? 0 : 1 - ((double)Masks.Values.Sum(m => m.Kept) / Masks.Values.Sum(m => m.Count));

    /// <summary>Packs keep masks of weights in their stored shape.</summary>
    public static IReadOnlyDictionary<string, SparsityMask> Pack(IReadOnlyDictionary<string, Tensor> masks)
    {
        using var scope = NewDisposeScope();
        return masks.ToDictionary(m => m.Key, m => SparsityMask.FromTensor(m.Value.reshape(m.Value.shape[0], -1)), StringComparer.Ordinal);
    }

    /// <inheritdoc/>
    public void Dispose() => Net.Dispose();
}
