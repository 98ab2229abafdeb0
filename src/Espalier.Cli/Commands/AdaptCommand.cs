using System.CommandLine;
using System.Globalization;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier adapt</c>: trains an adapter on a model or a vision net and writes it alone.</summary>
internal sealed partial class AdaptCommand : EspalierCommand
{
    private const string StateFolderName = "training-state", LogFolderName = "training-log";

    private readonly Argument<string> _model = new("MODEL") { Description = "The model or vision net: its folder or a hub id." };
    private readonly Option<string> _method = new("--method") { Description = "A name (`espalier methods adaptation` lists them), or a YAML file with its method and options.", HelpName = "NAME|file", DefaultValueFactory = _ => "lora" };
    private readonly Option<int?> _rank = new("--rank") { Description = "The same as --set rank=N.", HelpName = "N" };
    private readonly Option<string?> _targets = new("--targets") { Description = "The weights that are adapted, the same as --set targets=WORDS: all, ends of names with commas between (q_proj,v_proj), patterns with *.", HelpName = "words" };
    private readonly Option<string[]> _set = new("--set") { Description = "An option of the method as NAME=VALUE (`espalier methods NAME` lists them); may be given several times.", HelpName = "NAME=VALUE" };
    private readonly Option<string[]> _data = new("--data") { Description = $"The text to adapt to: {Inputs.DataForms}; may be given several times. For a vision net the images, once: {VisionWords.DataForms}.", HelpName = "data", Required = true };
    private readonly Option<string[]> _evalData = new("--eval-data") { Description = "Text or images to measure on before and after; may be given several times (the new text, and an old one that must not be forgotten).", HelpName = "data" };
    private readonly Option<int> _evalWindows = new("--eval-windows") { Description = "The most evaluation windows of each text; 0 takes all.", HelpName = "N", DefaultValueFactory = _ => 64 };
    private readonly Option<string> _out = new("--out", "-o") { Description = "The adapter's folder.", HelpName = "folder", Required = true };
    private readonly Option<int> _batch = new("--batch") { Description = "Windows or images per step.", HelpName = "N", DefaultValueFactory = _ => 8 };
    private readonly Option<int> _length = new("--length") { Description = "Tokens per window.", HelpName = "N", DefaultValueFactory = _ => 128 };
    private readonly Option<string> _augment = VisionWords.AugmentOption();
    private readonly Option<long> _seed = new("--seed") { Description = "The seed of the adapter and the order.", HelpName = "N", DefaultValueFactory = _ => 0 };
    private readonly Option<int?> _stopAfter = new("--stop-after") { Description = "Ends after so many steps of a schedule laid out for --steps.", HelpName = "N" };
    private readonly Option<bool> _resume = new("--resume") { Description = "Goes on where a stopped run with the same words left off." };
    private readonly TrainingWords _words = new();

    public AdaptCommand()
        : base("adapt", "Adapts a model to other data with an adapter (LoRA and others): trains a small part, writes it alone.",
            "espalier adapt ./llama --method lora --rank 8 --data reviews.jsonl --steps 200 --lr 1e-3 --out ./reviews-adapter",
            "espalier adapt ./llama --rank 4 --targets q_proj,v_proj --set alpha=8 --data reviews.jsonl --eval-data test.jsonl --eval-data old.jsonl --out ./adapter",
            "espalier adapt ./llama-50 --method lora.yaml --data reviews.jsonl --steps 200 --out ./adapter --resume",
            "espalier adapt ./resnet20 --rank 4 --set train=head --data uoft-cs/cifar10:train --eval-data uoft-cs/cifar10:test --batch 128 --steps 500 --out ./adapter",
            "espalier merge-adapter ./llama --adapter ./reviews-adapter --out ./llama-reviews",
            "espalier methods adaptation")
    {
        Add(_model);
        foreach (Option option in (Option[])[_method, _rank, _targets, _set, _data, _evalData, _evalWindows, _batch, _length, _augment, .. _words.All, _seed, _stopAfter, _resume, _out])
        {
            Add(option);
        }

        KeepRuns();
    }

    /// <inheritdoc/>
    internal override void Check(ParseResult parsed)
    {
        _words.Read(parsed);
        _words.Optimizer(parsed);
        Method(parsed);
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        TrainingOptions options = _words.Read(parsed);
        IOptimizerMethod? optimizer = _words.Optimizer(parsed);
        IAdaptation method = Method(parsed);
        string output = Path.GetFullPath(parsed.GetRequiredValue(_out)), state = Path.Combine(output, StateFolderName);
        bool resume = parsed.GetValue(_resume);
        EspalierException.Require(resume || !TrainingLoop.HasState(state), $"{output} holds an unfinished training; add --resume to go on with it, or delete {state} to start over.");
        EspalierException.Require(!resume || TrainingLoop.HasState(state), $"{output} holds no unfinished training to go on with; leave --resume out.");
        EspalierException.Require(!File.Exists(Path.Combine(output, ModelConfig.FileName)), $"{output} holds a model; an adapter needs a folder of its own.");
        string word = parsed.GetRequiredValue(_model);
        string folder = await Inputs.ModelAsync(word, context, cancellation).ConfigureAwait(false);
        var training = new AdaptationTraining(options)
        {
            Batch = parsed.GetValue(_batch),
            Length = parsed.GetValue(_length),
            Augmentation = VisionWords.Augmentation(parsed.GetValue(_augment)),
            Seed = new Seed(parsed.GetValue(_seed)),
            Optimizer = optimizer,
            Origin = word,
            Resume = resume,
            StopAfter = parsed.GetValue(_stopAfter),
            StateFolder = state,
            LogFolder = Path.Combine(output, LogFolderName),
            Progress = context.Progress,
        };
        AdaptedReport report = VisionConfig.IsVision(folder)
            ? AdaptVision(parsed, method, training, options, folder, output, context, cancellation)
            : AdaptText(parsed, method, training, options, folder, output, context, cancellation);
        TrainCommand.Forget(state);
        Show(report, output, context);
        return ExitCode.Success;
    }

    private IAdaptation Method(ParseResult parsed)
    {
        var set = new List<string>(parsed.GetValue(_set) ?? []);
        if (parsed.GetValue(_rank) is { } rank)
        {
            set.Add($"rank={rank}");
        }

        if (parsed.GetValue(_targets) is { } targets)
        {
            set.Add($"targets={targets}");
        }

        return PlanWords.Method<IAdaptation>(parsed.GetRequiredValue(_method), set);
    }

    private AdaptedReport AdaptText(ParseResult parsed, IAdaptation method, AdaptationTraining training, TrainingOptions options, string folder, string output, CommandContext context, CancellationToken cancellation)
    {
        EspalierException.Require(parsed.GetValue(_augment) == "none", "--augment changes images, and this is a language model; leave it out.");
        Tokenizer tokenizer = Tokenizer.Load(folder);
        using LanguageModel model = Inputs.Load(folder, context);
        IReadOnlyDictionary<string, SparsityMask> masks = SparsityMasks.Load(folder);
        method.Check(AdaptationContext.Of(model, masks).Weights, options);
        (string Data, Tensor Windows)[] tests = [.. (parsed.GetValue(_evalData) ?? []).Select(d => (d, Windows(d)))];
        try
        {
            context.Progress.Say("Reading the text to adapt to.");
            int[] tokens = TokenWindows.FromDocuments(parsed.GetRequiredValue(_data).SelectMany(d => Inputs.Text(d, context, cancellation).Documents), tokenizer);
            context.Progress.Say($"{Text.Count(model.ParameterCount)} parameters, {Text.Count(tokens.Length)} tokens of text.");
            double[] before = Measure(model);
            Func<Tensor> probe = AdapterMerge.Probe(model);
            using AdaptationResult result = TrainCommand.Guarded(() => training.Run(method, model, tokens, masks, cancellation), context);
            double[] after = Measure(model);
            using Tensor beside = probe();
            Save(result.Adapter, output);
            double reopened = Reopened(beside, () =>
            {
                using LanguageModel fresh = Inputs.Load(folder, context);
                using IAdaptationRun opened = Open(output, AdaptationContext.Of(fresh, masks));
                return AdapterMerge.Probe(fresh)();
            });
            return Report(method, result, output, reopened, "perplexity", [.. tests.Select((t, i) => new Measured(t.Data, before[i], after[i]))]);
        }
        finally
        {
            foreach ((_, Tensor windows) in tests)
            {
                windows.Dispose();
            }
        }

        Tensor Windows(string reference)
        {
            using var scope = NewDisposeScope();
            long[][] windows = TokenWindows.ForPerplexity(Inputs.Text(reference, context, cancellation), tokenizer, parsed.GetValue(_length), parsed.GetValue(_evalWindows));
            return stack([.. windows.Select(w => tensor(w))]).MoveToOuterDisposeScope();
        }

        double[] Measure(LanguageModel of) => [.. tests.Select(t => Perplexity.Evaluate(of, t.Windows, progress: context.Progress, cancellation: cancellation).Value)];
    }

    private AdaptedReport AdaptVision(ParseResult parsed, IAdaptation method, AdaptationTraining training, TrainingOptions options, string folder, string output, CommandContext context, CancellationToken cancellation)
    {
        string[] data = parsed.GetRequiredValue(_data);
        EspalierException.Require(data.Length == 1, "A vision net is adapted to the images of one --data.");
        using VisionModel net = VisionModel.Load(folder, context.Device);
        net.Config.RequireClassifier("Adapting to images");
        IReadOnlyDictionary<string, SparsityMask> masks = SparsityMasks.Load(folder);
        method.Check(AdaptationContext.Of(net, masks).Weights, options);
        using ImageTensors images = VisionWords.Images(data[0], net.Config, null, context, cancellation);
        (string Data, ImageTensors Images)[] tests = [.. (parsed.GetValue(_evalData) ?? []).Select(d => (d, VisionWords.Images(d, net.Config, null, context, cancellation)))];
        try
        {
            context.Progress.Say($"{Text.Count(net.ParameterCount)} parameters, {Text.Count(images.Count)} images.");
            double[] before = Measure();
            Func<Tensor> probe = AdapterMerge.Probe(net);
            using AdaptationResult result = TrainCommand.Guarded(() => training.Run(method, net, images, masks, cancellation), context);
            double[] after = Measure();
            using Tensor beside = probe();
            Save(result.Adapter, output);
            double reopened = Reopened(beside, () =>
            {
                using VisionModel fresh = VisionModel.Load(folder, context.Device);
                using IAdaptationRun opened = Open(output, AdaptationContext.Of(fresh, masks));
                return AdapterMerge.Probe(fresh)();
            });
            return Report(method, result, output, reopened, "accuracy", [.. tests.Select((t, i) => new Measured(t.Data, before[i], after[i]))]);
        }
        finally
        {
            foreach ((_, ImageTensors test) in tests)
            {
                test.Dispose();
            }
        }

        double[] Measure() => [.. tests.Select(t => ImageAccuracy.Evaluate(net, t.Images, progress: context.Progress, cancellation: cancellation).Top1)];
    }

    private static IAdaptationRun Open(string folder, AdaptationContext context) => AdapterFile.MethodOf(folder).Begin(context with { Saved = folder });

    private static void Save(IAdaptationRun adapter, string output)
    {
        Directory.CreateDirectory(output);
        adapter.Save(output);
    }

    // The files must say what the net in memory says: a cold start from disk on the base as it is on disk.
    private static double Reopened(Tensor beside, Func<Tensor> cold)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        double difference = (cold() - beside).abs().max().item<float>(), size = Math.Max(1, beside.abs().max().item<float>());
        EspalierException.Require(difference <= 1e-3 * size, string.Create(CultureInfo.InvariantCulture,
            $"The adapter that was written does not answer as the one that was trained: logits differ by {difference:G3} on the probe batch; this is a fault of the method, please report it."));
        return difference;
    }
}
