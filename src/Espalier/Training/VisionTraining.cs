using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Trains a whole vision net on classes of images, or for super-resolution on the images themselves, from random weights or from a checkpoint. Methods add hooks, masks or another objective.</summary>
/// <param name="Options">Length, learning rate, optimiser.</param>
public sealed record VisionTraining(TrainingOptions Options)
{
    /// <summary>Images per step and micro-batch. Default 128.</summary>
    public int Batch { get; init; } = 128;

    /// <summary>The changes of images by chance. Default none.</summary>
    public ImageAugmentation Augmentation { get; init; } = ImageAugmentation.None;

    /// <summary>The seed of order and augmentation.</summary>
    public Seed Seed { get; init; }

    /// <summary>What methods add to the loop.</summary>
    public IReadOnlyList<ITrainingHook> Hooks { get; init; } = [];

    /// <summary>How the net is made sparse while it is trained; null (default) trains it as it is.</summary>
    public ISparseTraining? Sparse { get; init; }

    /// <summary>Gives the learning rate of a step in place of the options' schedule.</summary>
    public Func<long, double>? Schedule { get; init; }

    /// <summary>Makes another objective from the net and its batches; null is <see cref="ImageClassificationObjective"/>, or <see cref="SuperResolutionObjective"/> for a net that puts out finer images.</summary>
    public Func<VisionModel, ImageBatches, ITrainingObjective>? Objective { get; init; }

    /// <summary>Parameters beside the net's that are trained with it (predictors, gates), under unique names.</summary>
    public IReadOnlyList<(string Name, TorchSharp.Modules.Parameter Value)> Extra { get; init; } = [];

    /// <summary>The learning-rate and decay multipliers of a parameter, by name; null gives every one 1.</summary>
    public Func<string, ParameterGroup>? Groups { get; init; }

    /// <summary>A published optimiser in place of the options'; null (default) takes theirs.</summary>
    public IOptimizerMethod? Optimizer { get; init; }

    /// <summary>Makes another optimiser than the options name; wins over <see cref="Optimizer"/>.</summary>
    public Func<IReadOnlyList<OptimizedParameter>, IOptimizer>? OptimizerFactory { get; init; }

    /// <summary>Ends after this many steps, wherever the schedule then is; null runs all of them.</summary>
    public int? StopAfter { get; init; }

    /// <summary>Continue from the state in <see cref="StateFolder"/>, where there is one.</summary>
    public bool Resume { get; init; }

    /// <summary>Whether a state also names the weights that the run began with, so that it is refused for a net that begins with others. Default false: the net then takes the state's weights, whatever it had.</summary>
    public bool SameStart { get; init; }

    /// <summary>Where the state for resuming is kept; null keeps none.</summary>
    public string? StateFolder { get; init; }

    /// <summary>Where the logs go; null writes none.</summary>
    public string? LogFolder { get; init; }

    /// <summary>Where progress is told.</summary>
    public IProgressSink Progress { get; init; } = SilentProgress.Instance;

    /// <summary>Trains every parameter of the net in place, in training mode; the mode is put back at the end.</summary>
    /// <param name="model">The net.</param>
    /// <param name="images">The training images.</param>
    /// <param name="masks">Keep masks by weight name, in the weight's stored shape; their zeros stay. Not together with <see cref="Sparse"/>.</param>
    /// <param name="cancellation">Ends the work early, state saved.</param>
    /// <exception cref="EspalierException">When images and net do not fit, or the run goes wrong.</exception>
    public TrainingResult Run(VisionModel model, ImageTensors images, IReadOnlyDictionary<string, Tensor>? masks = null, CancellationToken cancellation = default)
    {
        if (model.Config.Scale is null)
        {
            images.RequireClasses(model.Config.Classes);
        }

        var batches = new ImageBatches(images, Batch) { Mean = model.Config.Mean, Deviation = model.Config.Deviation, Augmentation = Augmentation, Seed = Seed };
        return SparseTrainingReport.Run(
            Sparse,
            () => new SparseTrainingContext { Weights = NetWeight.Of(model), Net = model, Steps = Options.Steps, Seed = Seed, Progress = Progress },
            masks,
            (sparse, keep) => Train(model, images, batches, sparse, keep, cancellation));
    }

    private TrainingResult Train(VisionModel model, ImageTensors images, ImageBatches batches, ISparseTrainingRun? sparse, IReadOnlyDictionary<string, Tensor>? masks, CancellationToken cancellation)
    {
        ITrainingHook[] hooks = [.. sparse is null ? [] : (ITrainingHook[])[sparse], .. Hooks, .. StopAfter is { } last ? (ITrainingHook[])[new StopAfter(last)] : []];
        using var loop = new TrainingLoop(Options, [.. model.Parameters.Where(p => p.Value.requires_grad), .. Extra], Objective?.Invoke(model, batches) ?? Plain(model, batches))
        {
            Masks = masks,
            Hooks = hooks,
            Buffers = model.Buffers,
            Groups = Groups,
            Schedule = Schedule,
            OptimizerFactory = OptimizerFactory ?? (Optimizer is null ? null : parameters => Optimizer.Make(new OptimizerContext { Parameters = parameters, Options = Options, Weights = NetWeight.Of(model), Progress = Progress })),
            StateFolder = StateFolder,
            LogFolder = LogFolder,
            Progress = Progress,
            Identity = $"batch {Batch}, padding {Augmentation.Padding}, flip {Augmentation.Flip}, seed {Seed.Value}, {images.Count} images of {images.Name}{(sparse is null ? "" : $", {sparse.Description}")}{(!SameStart ? "" : $", from weights {TensorDigest.Of(model.Parameters.Select(p => p.Value))}")}",
        };
        bool training = model.Training;
        model.Training = true;
        try
        {
            return Resume && StateFolder is not null && TrainingLoop.HasState(StateFolder) ? loop.Resume(cancellation) : loop.Run(cancellation);
        }
        finally
        {
            model.Training = training;
        }
    }

    private ITrainingObjective Plain(VisionModel model, ImageBatches batches) => model.Config.Scale is { } scale
        ? new SuperResolutionObjective(model, batches, scale, Options.Accumulation)
        : new ImageClassificationObjective(model, batches, Options.Accumulation);
}
