using Espalier.Data;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Trains an adaptation on a language model's text or a vision net's images through the one loop. The net itself stays frozen but for what the method trains, its batch norms' statistics too.</summary>
/// <param name="options">Length, learning rate, optimiser.</param>
public sealed class AdaptationTraining(TrainingOptions options)
{
    /// <summary>Windows or images per step and micro-batch. Default 16.</summary>
    public int Batch { get; init; } = 16;

    /// <summary>Tokens per window. Default 256.</summary>
    public int Length { get; init; } = 256;

    /// <summary>The changes of images by chance. Default none.</summary>
    public ImageAugmentation Augmentation { get; init; } = ImageAugmentation.None;

    /// <summary>The seed of adapters and order.</summary>
    public Seed Seed { get; init; }

    /// <summary>The folder or hub id of the net, which the adapter's file names; null leaves it out.</summary>
    public string? Origin { get; init; }

    /// <summary>A published optimiser in place of the options'; an adaptation with an optimiser of its own keeps that. Null (default) takes the options'.</summary>
    public IOptimizerMethod? Optimizer { get; init; }

    /// <summary>What else joins the loop, after the method.</summary>
    public IReadOnlyList<ITrainingHook> Hooks { get; init; } = [];

    /// <summary>Ends after this many steps, wherever the schedule then is; null runs all of them.</summary>
    public int? StopAfter { get; init; }

    /// <summary>Continue from the state in <see cref="StateFolder"/>, where there is one.</summary>
    public bool Resume { get; init; }

    /// <summary>Where the state for resuming is kept; null keeps none.</summary>
    public string? StateFolder { get; init; }

    /// <summary>Where the logs go; null writes none.</summary>
    public string? LogFolder { get; init; }

    /// <inheritdoc cref="TrainingLoop.KeepGoodEvery"/>
    public int KeepGoodEvery { get; init; } = 10;

    /// <summary>Where progress is told.</summary>
    public IProgressSink Progress { get; init; } = SilentProgress.Instance;

    /// <summary>Adapts a language model to a text.</summary>
    /// <param name="method">The method.</param>
    /// <param name="model">The model, float32.</param>
    /// <param name="tokens">The text as tokens, documents one after the other.</param>
    /// <param name="masks">The masks of a pruned model by weight name; their zeros stay.</param>
    /// <param name="cancellation">Ends the work early, state saved.</param>
    /// <returns>The trained adapter on the model; the caller disposes it.</returns>
    public AdaptationResult Run(IAdaptation method, LanguageModel model, int[] tokens, IReadOnlyDictionary<string, SparsityMask>? masks = null, CancellationToken cancellation = default)
    {
        PackedTokens text = LanguageModelTraining.Text(model, tokens, Batch, Length, Seed), single = LanguageModelTraining.Text(model, tokens, 1, Length, Seed);
        var objective = new LanguageModelObjective(model, (step, micro) => text.Batch((step * options.Accumulation) + micro).to(model.Device));
        return Run(method, AdaptationContext.Of(model, masks) with { Objective = objective, Samples = new LanguageModelObjective(model, (sample, _) => single.Batch(sample).to(model.Device)) }, $"batch {Batch}, length {Length}, seed {Seed.Value}, {text.TokenCount} tokens", cancellation);
    }

    /// <summary>Adapts a vision net to images.</summary>
    /// <param name="method">The method.</param>
    /// <param name="net">The net.</param>
    /// <param name="images">The training images.</param>
    /// <param name="masks">The masks of a pruned net by weight name; their zeros stay.</param>
    /// <param name="cancellation">Ends the work early, state saved.</param>
    /// <returns>The trained adapter on the net; the caller disposes it.</returns>
    public AdaptationResult Run(IAdaptation method, VisionModel net, ImageTensors images, IReadOnlyDictionary<string, SparsityMask>? masks = null, CancellationToken cancellation = default)
    {
        net.Config.RequireClassifier("Adapting to images");
        images.RequireClasses(net.Config.Classes);
        var batches = new ImageBatches(images, Batch) { Mean = net.Config.Mean, Deviation = net.Config.Deviation, Augmentation = Augmentation, Seed = Seed };
        var single = new ImageBatches(images, 1) { Mean = net.Config.Mean, Deviation = net.Config.Deviation, Seed = Seed };
        return Run(
            method,
            AdaptationContext.Of(net, masks) with { Objective = new ImageClassificationObjective(net, batches, options.Accumulation), Samples = new ImageClassificationObjective(net, single, 1) },
            $"batch {Batch}, padding {Augmentation.Padding}, flip {Augmentation.Flip}, seed {Seed.Value}, {images.Count} images of {images.Name}",
            cancellation);
    }

    /// <summary>Adapts a net to any objective.</summary>
    /// <param name="method">The method.</param>
    /// <param name="about">The net with its masks and the objective; options, seed and progress are this training's.</param>
    /// <param name="identity">What it is trained on, in words; compared when a run is resumed.</param>
    /// <param name="cancellation">Ends the work early, state saved.</param>
    /// <returns>The trained adapter on the net; the caller disposes it.</returns>
    /// <exception cref="EspalierException">When the method does not fit, or the run goes wrong.</exception>
    public AdaptationResult Run(IAdaptation method, AdaptationContext about, string identity, CancellationToken cancellation = default)
    {
        AdaptationContext context = about with { Options = options, Seed = Seed, Progress = Progress, Origin = Origin ?? about.Origin, Saved = null };
        ITrainingObjective objective = context.Objective ?? throw new ArgumentException("An adaptation is trained on an objective.", nameof(about));
        long parameters = context.Parameters.Sum(p => p.Value.numel());
        IAdaptationRun run = method.Begin(context);
        bool[] before = [.. context.Parameters.Select(p => p.Value.requires_grad)];
        try
        {
            var trained = run.Trainable.Select(t => t.Value).ToHashSet<Parameter>(ReferenceEqualityComparer.Instance);
            foreach ((_, Parameter value) in context.Parameters)
            {
                value.requires_grad = trained.Contains(value);
            }

            using var scope = NewDisposeScope();
            using var loop = new TrainingLoop(options, run.Trainable, run.Objective?.Invoke(objective) ?? objective)
            {
                Masks = Masks(context, trained),
                Hooks = [run, .. Hooks, .. StopAfter is { } last ? (ITrainingHook[])[new StopAfter(last)] : []],
                Groups = run.Groups,
                OptimizerFactory = run.Optimizer ?? (Optimizer is null ? null : parameters => Optimizer.Make(new OptimizerContext { Parameters = parameters, Options = options, Weights = context.Weights, Progress = Progress })),
                Schedule = run.Schedule,
                StateFolder = StateFolder,
                LogFolder = LogFolder,
                KeepGoodEvery = KeepGoodEvery,
                Progress = Progress,
                Identity = $"{identity}, {run.Description}",
            };
            TrainingResult result = Resume && StateFolder is not null && TrainingLoop.HasState(StateFolder) ? loop.Resume(cancellation) : loop.Run(cancellation);
            long state = loop.Optimizer.SaveState().Sum(t => t.Value.numel() * t.Value.element_size());
            run.Finish();
            return new AdaptationResult(run, result, run.TrainedParameters, parameters, state);
        }
        catch
        {
            run.Dispose();
            throw;
        }
        finally
        {
            foreach (((_, Parameter value), bool required) in context.Parameters.Zip(before))
            {
                value.requires_grad = required;
            }
        }
    }

    // Weights of the net that are trained themselves: the loop keeps their zeros.
    private static Dictionary<string, Tensor> Masks(AdaptationContext context, HashSet<Parameter> trained) =>
        context.Weights.Where(w => trained.Contains(w.Value) && context.Masks.ContainsKey(w.Name)).ToDictionary(w => w.Name, w => w.InStoredLayout(context.Keep(w)!), StringComparer.Ordinal);
}

/// <summary>A trained adaptation, still on its net.</summary>
/// <param name="Adapter">The adapter: it can be saved, merged and taken off; disposed with this result.</param>
/// <param name="Training">Losses and times.</param>
/// <param name="TrainedParameters">How many numbers were trained.</param>
/// <param name="NetParameters">How many the net has.</param>
/// <param name="OptimizerBytes">What the optimiser's state took at the end.</param>
public sealed record AdaptationResult(IAdaptationRun Adapter, TrainingResult Training, long TrainedParameters, long NetParameters, long OptimizerBytes) : IDisposable
{
    /// <inheritdoc/>
    public void Dispose() => Adapter.Dispose();
}
