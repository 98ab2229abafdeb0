using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Trains a whole language model on the next token, from random weights or from a checkpoint, and writes it as one.</summary>
/// <param name="options">Length, learning rate, optimiser.</param>
public sealed class LanguageModelTraining(TrainingOptions options)
{
    /// <summary>Windows per step and micro-batch. Default 16.</summary>
    public int Batch { get; init; } = 16;

    /// <summary>Tokens per window. Default 256.</summary>
    public int Length { get; init; } = 256;

    /// <summary>The seed of weights and order of the text.</summary>
    public Seed Seed { get; init; }

    /// <summary>How the maps of the blocks are made sparse while they are trained; null (default) trains the model as it is.</summary>
    public ISparseTraining? Sparse { get; init; }

    /// <summary>A published optimiser in place of the options'; null (default) takes theirs.</summary>
    public IOptimizerMethod? Optimizer { get; init; }

    /// <summary>What methods add to the loop.</summary>
    public IReadOnlyList<ITrainingHook> Hooks { get; init; } = [];

    /// <summary>Ends after this many steps, wherever the schedule then is; null runs all of them.</summary>
    public int? StopAfter { get; init; }

    /// <summary>Continue from the state in <see cref="StateFolder"/>.</summary>
    public bool Resume { get; init; }

    /// <summary>Where the state for resuming is kept; null keeps none.</summary>
    public string? StateFolder { get; init; }

    /// <summary>Where the logs go; null writes none.</summary>
    public string? LogFolder { get; init; }

    /// <summary>Where progress is told.</summary>
    public IProgressSink Progress { get; init; } = SilentProgress.Instance;

    /// <summary>Trains every parameter of the model in place.</summary>
    /// <param name="model">The model, float32.</param>
    /// <param name="tokens">The text as tokens, documents one after the other.</param>
    /// <param name="masks">Keep masks of pruned weights by name, in stored layout; their zeros stay.</param>
    /// <param name="device">Where the model lives.</param>
    /// <param name="cancellation">Ends the work early, state saved.</param>
    public TrainingResult Run(LanguageModel model, int[] tokens, IReadOnlyDictionary<string, Tensor>? masks, Device device, CancellationToken cancellation)
    {
        PackedTokens text = Text(model, tokens, Batch, Length, Seed);
        var trainable = model.Tensors.ToList();
        trainable.ForEach(t => t.Value.requires_grad = true);
        return SparseTrainingReport.Run(
            Sparse,
            () => new SparseTrainingContext { Weights = NetWeight.Of(model), Steps = options.Steps, Seed = Seed, Progress = Progress },
            masks,
            (sparse, keep) => Train(model, trainable, text, sparse, keep, device, cancellation));
    }

    /// <summary>A text that the model can be trained on, in windows.</summary>
    /// <exception cref="EspalierException">When windows are longer than the context, or the tokens are another vocabulary's.</exception>
    internal static PackedTokens Text(LanguageModel model, int[] tokens, int batch, int length, Seed seed)
    {
        EspalierException.Require(length <= model.Config.MaxPositions, $"Windows of {length} tokens are longer than the model's context of {model.Config.MaxPositions}.");
        int largest = tokens.Length == 0 ? 0 : tokens.Max();
        EspalierException.Require(largest < model.Config.VocabSize, $"The text has token id {largest}, but the model's vocabulary ends at {model.Config.VocabSize - 1}; tokeniser and model do not belong together.");
        return new PackedTokens(tokens, batch, length, seed);
    }

    private TrainingResult Train(LanguageModel model, List<(string Name, TorchSharp.Modules.Parameter Value)> trainable, PackedTokens text, ISparseTrainingRun? sparse, IReadOnlyDictionary<string, Tensor>? masks, Device device, CancellationToken cancellation)
    {
        using var loop = new TrainingLoop(options, trainable, new LanguageModelObjective(model, (step, micro) => text.Batch((step * options.Accumulation) + micro).to(device)))
        {
            Masks = masks,
            OptimizerFactory = Optimizer is null ? null : parameters => Optimizer.Make(new OptimizerContext { Parameters = parameters, Options = options, Weights = NetWeight.Of(model), Progress = Progress }),
            Hooks = [.. sparse is null ? [] : (ITrainingHook[])[sparse], .. Hooks, .. StopAfter is { } last ? (ITrainingHook[])[new StopAfter(last)] : []],
            StateFolder = StateFolder,
            LogFolder = LogFolder,
            Progress = Progress,
            Identity = $"batch {Batch}, length {Length}, seed {Seed.Value}, {text.TokenCount} tokens{(sparse is null ? "" : $", {sparse.Description}")}",
        };
        return Resume && StateFolder is not null && TrainingLoop.HasState(StateFolder) ? loop.Resume(cancellation) : loop.Run(cancellation);
    }

    /// <summary>Writes a model as a checkpoint folder that other tools load.</summary>
    /// <param name="model">The model.</param>
    /// <param name="folder">The output folder.</param>
    /// <param name="type">The element type to store.</param>
    /// <param name="tokenizerFolder">A folder whose tokeniser files are copied beside it; null copies none.</param>
    /// <returns>The largest difference of logits between the model and the checkpoint, opened anew before it got its name.</returns>
    /// <exception cref="EspalierException">When the disk refuses, or the checkpoint answers otherwise than its element type explains.</exception>
    public static double Save(LanguageModel model, string folder, ScalarType type, string? tokenizerFolder)
    {
        Directory.CreateDirectory(folder);
        var tensors = model.Tensors.ToList();
        using CheckpointWriter writer = CheckpointWriter.Create(folder, [.. tensors.Select(t => ElementTypes.Plan(t.Name, type, t.Value.shape))]);
        foreach ((string name, TorchSharp.Modules.Parameter value) in tensors)
        {
            writer.Write(name, value);
        }

        LogitComparison comparison;
        using (Checkpoint written = writer.OpenPending())
        using (var read = new StreamedModel(model.Config, written))
        {
            comparison = LogitComparison.Between(model, read, tensors[0].Value.device);
        }

        double tolerance = type switch { ScalarType.BFloat16 => 0.1, ScalarType.Float16 => 1e-2, _ => 1e-4 };
        EspalierException.Require(comparison.Relative <= tolerance,
            $"The checkpoint for {folder} does not answer as the trained model: logits differ by {comparison.Relative:G3} of their size where this element type allows {tolerance}; nothing was written, store float32.");
        string word = type switch { ScalarType.BFloat16 => "bfloat16", ScalarType.Float16 => "float16", _ => "float32" };
        AtomicFile.WriteText(Path.Combine(folder, ModelConfig.FileName), model.Config.With("torch_dtype", word).ToJsonText());
        if (tokenizerFolder is not null)
        {
            CompanionFiles.Copy(CompanionFiles.Tokenizer, tokenizerFolder, folder);
        }

        writer.Commit();
        return comparison.Largest;
    }
}
