using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Models.Export;
using Espalier.Models.Vision;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using Espalier.Training.Jobs;
using static TorchSharp.torch;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier train</c>: trains a language model or a vision net, from random weights or from a checkpoint.</summary>
internal sealed partial class TrainCommand : EspalierCommand
{
    private const string StateFolderName = "training-state", WorkFolderName = "work", LogFolderName = "training-log";

    private readonly Option<string> _config = new("--config") { Description = "A config.json to start from random weights, or a model (folder or hub id) to go on from.", HelpName = "file|MODEL", Required = true };
    private readonly Option<string?> _tokenizer = new("--tokenizer") { Description = "The tokeniser's folder (default: the model's own).", HelpName = "folder" };
    private readonly Option<string[]> _data = new("--data") { Description = $"The training text: {Inputs.DataForms}; may be given several times. For a vision net the images, once: {VisionWords.AnyDataForms}.", HelpName = "data", Required = true };
    private readonly Option<string?> _evalData = new("--eval-data") { Description = "Text to measure perplexity on at the end, or images to measure accuracy on (super-resolution: the signal-to-noise ratio).", HelpName = "data" };
    private readonly Option<int> _evalWindows = new("--eval-windows") { Description = "The most evaluation windows; 0 takes all.", HelpName = "N", DefaultValueFactory = _ => 0 };
    private readonly Option<string> _out = new("--out", "-o") { Description = "The output folder.", HelpName = "folder", Required = true };
    private readonly Option<int> _batch = new("--batch") { Description = "Windows or images per step.", HelpName = "N", DefaultValueFactory = _ => 16 };
    private readonly Option<int> _length = new("--length") { Description = "Tokens per window.", HelpName = "N", DefaultValueFactory = _ => 256 };
    private readonly Option<string> _augment = VisionWords.AugmentOption();
    private readonly Option<string?> _sparse = new("--sparse-training") { Description = "Makes the net sparse while it is trained: a name (`espalier methods sparse-training` lists them), or a YAML file with its method and options.", HelpName = "NAME|file" };
    private readonly Option<string[]> _set = new("--set") { Description = "An option of --sparse-training or --method as NAME=VALUE (`espalier methods NAME` lists them); may be given several times.", HelpName = "NAME=VALUE" };
    private readonly Option<long> _seed = new("--seed") { Description = "The seed of weights and order.", HelpName = "N", DefaultValueFactory = _ => 0 };
    private readonly Option<int?> _stopAfter = new("--stop-after") { Description = "Ends after so many steps of a schedule laid out for --steps.", HelpName = "N" };
    private readonly Option<bool> _resume = new("--resume") { Description = "Goes on where a stopped run with the same words left off." };
    private readonly Option<string> _type = new Option<string>("--dtype") { Description = "How weights are stored.", HelpName = "type", DefaultValueFactory = _ => "float32" }.AcceptOnlyFromAmong("float32", "bfloat16", "float16");
    private readonly TrainingWords _words = new();

    public TrainCommand()
        : base("train", "Trains a language model or a vision net, from random weights or from a checkpoint, and writes it for other tools to load.",
            "espalier train --config config.json --tokenizer ./tokenizer --data train.jsonl --steps 2000 --out ./mine",
            "espalier train --config ./mine --data more.jsonl --steps 500 --lr 2e-4 --schedule cosine --warmup 50 --out ./more",
            "espalier train --config config.json --tokenizer ./tokenizer --data train.jsonl --steps 2000 --out ./mine --resume",
            "espalier train --config resnet20.json --data uoft-cs/cifar10:train --augment cifar --batch 128 --optimizer sgd --momentum 0.9 --lr 0.1 --steps 4000 --out ./net",
            "espalier train --config resnet20.json --data uoft-cs/cifar10:train --batch 128 --optimizer sgd --momentum 0.9 --lr 0.1 --steps 4000 --sparse-training granet --set sparsity=0.9 --out ./net",
            "espalier train --config edsr.json --data ./photos --eval-data ./benchmark --batch 16 --lr 1e-4 --steps 20000 --augment flip --sparse-training issp --set sparsity=0.9 --out ./finer",
            "espalier train --config ./net --data uoft-cs/cifar10:train --batch 128 --optimizer sgd --momentum 0.9 --lr 0.1 --steps 1000 --method sms --set sparsity=0.95 --out ./soup",
            "espalier train --config ./net --data uoft-cs/cifar10:train --batch 128 --optimizer sgd --momentum 0.9 --lr 0.1 --steps 1000 --method sms --workers 4 --memory-limit 12GiB --out ./soup")
    {
        foreach (Option option in new Option[] { _config, _tokenizer, _data, _evalData, _evalWindows, _batch, _length, _augment })
        {
            Add(option);
        }

        foreach (Option option in _words.All)
        {
            Add(option);
        }

        foreach (Option option in new Option[] { _sparse, _method, _set, _workers, _memoryLimit, _workFolder, _seed, _stopAfter, _resume, _type, _out })
        {
            Add(option);
        }

        KeepRuns();
    }

    /// <inheritdoc/>
    internal override void Check(ParseResult parsed)
    {
        _words.Read(parsed);
        _ = Sparse(parsed);
        IOptimizerMethod? optimizer = _words.Optimizer(parsed);
        IVisionMethod? method = Method(parsed);
        _ = Workers(parsed, method, "", null);
        EspalierException.Require(method is null || optimizer is null, "--method runs its own trainings with adamw, sgd or mfac; give one of these as --optimizer.");
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        TrainingOptions options = _words.Read(parsed);
        ISparseTraining? sparse = Sparse(parsed);
        IOptimizerMethod? optimizer = _words.Optimizer(parsed);
        IVisionMethod? method = Method(parsed);
        string output = Path.GetFullPath(parsed.GetRequiredValue(_out)), state = Path.Combine(output, StateFolderName);
        bool resume = parsed.GetValue(_resume);
        WorkerOptions? workers = Workers(parsed, method, state, context);
        bool begun = TrainingStates.Any(state) || WorkerCrew.HasJobs(workers?.Folder ?? Path.Combine(state, WorkFolderName));
        EspalierException.Require(resume || !begun, $"{output} holds an unfinished training; add --resume to go on with it, or delete {state} to start over.");
        EspalierException.Require(!resume || begun, $"{output} holds no unfinished training to go on with; leave --resume out.");

        string? start = await StartAsync(parsed.GetRequiredValue(_config), context, cancellation).ConfigureAwait(false);
        string config = parsed.GetRequiredValue(_config);
        if (method is not null)
        {
            EspalierException.Require(start is not null && VisionConfig.IsVision(start), "--method works on a trained vision net; give its folder or hub id as --config.");
            return RunMethod(method, parsed, options, start, output, state, context, workers, cancellation);
        }

        if (start is null ? VisionConfig.IsVisionFile(config) : VisionConfig.IsVision(start))
        {
            return TrainVision(parsed, options, optimizer, sparse, start, output, state, context, cancellation);
        }

        EspalierException.Require(parsed.GetValue(_augment) == "none", "--augment changes images, and this is a language model; leave it out.");
        string tokenizerFolder = parsed.GetValue(_tokenizer) ?? start
            ?? throw new EspalierException("A model from random weights has no tokeniser of its own; name one with --tokenizer.");
        Tokenizer tokenizer = Tokenizer.Load(tokenizerFolder);
        var seed = new Seed(parsed.GetValue(_seed));
        using LanguageModel model = start is not null
            ? Inputs.Load(start, context)
            : LanguageModel.Random(ModelConfig.Parse(File.ReadAllText(parsed.GetRequiredValue(_config)), parsed.GetRequiredValue(_config)), seed, context.Device);

        sparse?.Check(NetWeight.Of(model), options.Steps);
        optimizer?.Check(NetWeight.Of(model), options);
        context.Progress.Say("Reading the training text.");
        int[] tokens = TokenWindows.FromDocuments(parsed.GetRequiredValue(_data).SelectMany(d => Inputs.Text(d, context, cancellation).Documents), tokenizer);
        context.Progress.Say($"{Text.Count(model.ParameterCount)} parameters, {Text.Count(tokens.Length)} tokens of text.");
        var training = new LanguageModelTraining(options)
        {
            Batch = parsed.GetValue(_batch),
            Length = parsed.GetValue(_length),
            Seed = seed,
            Sparse = sparse,
            Optimizer = optimizer,
            Resume = resume,
            StopAfter = parsed.GetValue(_stopAfter),
            StateFolder = state,
            LogFolder = Path.Combine(output, LogFolderName),
            Progress = context.Progress,
        };
        TrainingResult result = Train(training, model, tokens, start, context, cancellation);
        double reopened = LanguageModelTraining.Save(model, output, TypeOf(parsed.GetRequiredValue(_type)), tokenizerFolder);
        SaveMasks(output, result);
        Forget(state);
        PerplexityResult? quality = Evaluate(parsed, model, tokenizer, context, cancellation);
        Show(output, model.ParameterCount, result, quality, null, ReaderMatrix.OfCheckpoint(output, reopened), context);
        return ExitCode.Success;
    }

    /// <summary>The sparse training of <c>--sparse-training</c> with its options; null where none was named.</summary>
    private ISparseTraining? Sparse(ParseResult parsed) =>
        parsed.GetValue(_sparse) is { } word ? PlanWords.Method<ISparseTraining>(word, parsed.GetValue(_set) ?? []) : null;

    // Beside the weights, so that a later training keeps the zeros.
    private static void SaveMasks(string output, TrainingResult result)
    {
        if (result.Sparse is { } sparse)
        {
            SparsityMasks.Save(output, [.. sparse.Masks.Keys], name => sparse.Masks[name]);
        }
    }

    internal static void Forget(string state)
    {
        if (Directory.Exists(state))
        {
            // The checkpoint is on the disk; the optimiser's state is of no further use.
            Directory.Delete(state, recursive: true);
        }
    }

    internal static T Guarded<T>(Func<T> train, CommandContext context)
    {
        try
        {
            return train();
        }
        catch (OperationCanceledException)
        {
            context.Progress.Say("The state is saved; the same command with --resume goes on from here.");
            throw;
        }
    }

    /// <summary>The folder of a checkpoint to start from, or null for a configuration file.</summary>
    private static async Task<string?> StartAsync(string word, CommandContext context, CancellationToken cancellation) =>
        File.Exists(word) && !word.EndsWith(".safetensors", StringComparison.Ordinal) ? null : await Inputs.ModelAsync(word, context, cancellation).ConfigureAwait(false);

    // Masks are [out, in]; a weight may be stored the other way round.
    private static Dictionary<string, Tensor> StoredMasks(IReadOnlyDictionary<string, SparsityMask> masks, LanguageModel model, CommandContext context)
    {
        var turned = model.Blocks.SelectMany(b => b.Linears).Where(l => l.Linear.Layout is WeightLayout.InOut).Select(l => l.Name).ToHashSet(StringComparer.Ordinal);
        return masks.ToDictionary(m => m.Key, m => turned.Contains(m.Key) ? m.Value.ToTensor(context.Device).t().contiguous() : m.Value.ToTensor(context.Device));
    }

    private static TrainingResult Train(LanguageModelTraining training, LanguageModel model, int[] tokens, string? start, CommandContext context, CancellationToken cancellation)
    {
        // A pruned checkpoint stays as sparse as it is.
        Dictionary<string, Tensor>? masks = start is not null && File.Exists(Path.Combine(start, SparsityMasks.FileName))
            ? StoredMasks(SparsityMasks.Load(start), model, context)
            : null;
        try
        {
            return Guarded(() => training.Run(model, tokens, masks, context.Device, cancellation), context);
        }
        finally
        {
            foreach (Tensor mask in masks?.Values.ToArray() ?? [])
            {
                mask.Dispose();
            }
        }
    }

    private PerplexityResult? Evaluate(ParseResult parsed, LanguageModel model, Tokenizer tokenizer, CommandContext context, CancellationToken cancellation)
    {
        if (parsed.GetValue(_evalData) is not { } reference)
        {
            return null;
        }

        using var scope = NewDisposeScope();
        long[][] windows = TokenWindows.ForPerplexity(Inputs.Text(reference, context, cancellation), tokenizer, parsed.GetValue(_length), parsed.GetValue(_evalWindows));
        return Perplexity.Evaluate(model, stack([.. windows.Select(w => tensor(w))]), progress: context.Progress, cancellation: cancellation);
    }

    private static void Show(string output, long parameters, TrainingResult result, PerplexityResult? quality, JsonObject? accuracy, IReadOnlyList<ReaderEntry>? readers, CommandContext context) => context.Show(
        new
        {
            folder = output,
            parameters,
            result.Steps,
            result.FinalLoss,
            result.BestLoss,
            result.BestStep,
            result.StoppedEarly,
            result.Seconds,
            sparsity = result.Sparse?.Sparsity,
            trainingShare = result.Sparse?.TrainingShare,
            perplexity = quality?.Value,
            perplexityWindows = quality?.Segments,
            accuracy = (double?)accuracy?["accuracy"],
            psnr = accuracy?["psnr"] is { } psnr ? VisionWords.Number(psnr) : (double?)null,
            readers,
        },
        () =>
        {
            string stopped = result.StoppedEarly ? " (stopped early)" : "";
            context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{result.Steps} steps in {Text.Duration(TimeSpan.FromSeconds(result.Seconds))}{stopped}: loss {result.FinalLoss:0.###}, best {result.BestLoss:0.###} at step {result.BestStep}"));
            if (result.Sparse is { } sparse)
            {
                context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"{100 * sparse.Sparsity:0.##} % of the weights of {sparse.Masks.Count} layers are zero; training needed {100 * sparse.TrainingShare:0.#} % of their dense multiply-accumulates"));
            }

            if (quality is not null)
            {
                context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"perplexity {quality.Value:0.##} on {quality.Segments} evaluation windows"));
            }

            if (accuracy is not null)
            {
                VisionWords.Print(context, accuracy);
            }

            context.Output.WriteLine($"written to {output}");
            if (readers is not null)
            {
                ReaderText.Show(context, readers);
            }
        });

    private static ScalarType TypeOf(string word) => word switch
    {
        "bfloat16" => ScalarType.BFloat16,
        "float16" => ScalarType.Float16,
        _ => ScalarType.Float32,
    };
}
