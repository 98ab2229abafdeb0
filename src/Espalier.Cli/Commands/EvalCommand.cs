using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Espalier.Checkpoints;
using Espalier.Cli.Display;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Evaluation.Tasks;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier eval</c>: how well a model predicts a text and answers multiple-choice tasks, or names images.</summary>
internal sealed class EvalCommand : EspalierCommand
{
    private const int LongestContext = 4096;

    private readonly Argument<string?> _model = new("MODEL") { Description = "A model's folder or a hub id; --tasks list needs none.", Arity = ArgumentArity.ZeroOrOne };
    private readonly Option<string?> _data = new("--data") { Description = $"Measures perplexity on this text: {Inputs.DataForms}. A vision net: its accuracy on these images, {VisionWords.AnyDataForms}.", HelpName = "data" };
    private readonly Option<int> _windows = new("--windows") { Description = "The most windows; 0 takes all.", HelpName = "N", DefaultValueFactory = _ => 0 };
    private readonly Option<int?> _contextLength = new("--context") { Description = "Tokens per window (default: the model's context, at most 4096).", HelpName = "N" };
    private readonly Option<string?> _tasks = new("--tasks") { Description = "Multiple-choice tasks, with commas between; \"list\" prints those there are.", HelpName = "names" };
    private readonly Option<string[]> _taskData = new("--task-data") { Description = "A task's data, if not its usual hub id: a .parquet or .jsonl file, a folder, or a hub id. May be given for each task.", HelpName = "task=data" };
    private readonly Option<int> _fewShot = new("--few-shot") { Description = "Solved examples before each question, from the task's train split.", HelpName = "K", DefaultValueFactory = _ => 0 };
    private readonly Option<int?> _limit = new("--limit") { Description = "Only the first N questions of each task, or the first N images.", HelpName = "N" };
    private readonly Option<long> _seed = new("--seed") { Description = "The seed of the draw of examples.", HelpName = "N", DefaultValueFactory = _ => 0 };
    private readonly Option<string[]> _adapter = AdapterWords.Option();
    private readonly Option<string?> _output = new("--output") { Description = "Writes the result to this file too, as JSON.", HelpName = "file" };

    public EvalCommand()
        : base("eval", "Measures perplexity (windows of a text that do not overlap, each scored alone) and multiple-choice tasks (by likelihood); of a vision net, accuracy; of one for super-resolution, PSNR and SSIM.",
            "espalier eval ./llama-50 --data Salesforce/wikitext:wikitext-2-v1:test",
            "espalier eval ./llama-50 --data reviews.jsonl --windows 64 --context 256 --json",
            "espalier eval ./llama-50 --tasks arc_easy,piqa,winogrande --limit 500 --output results.json",
            "espalier eval ./llama-50 --tasks arc_easy --task-data arc_easy=./arc.jsonl",
            "espalier eval ./llama --data reviews.jsonl --adapter ./reviews-adapter",
            "espalier eval ./resnet20 --data uoft-cs/cifar10:test",
            "espalier eval --tasks list")
    {
        Add(_model);
        foreach (Option option in new Option[] { _data, _windows, _contextLength, _tasks, _taskData, _fewShot, _limit, _seed, _adapter, _output })
        {
            Add(option);
        }

        KeepRuns();
    }

    /// <inheritdoc/>
    internal override void Check(ParseResult parsed)
    {
        string? tasks = parsed.GetValue(_tasks);
        if (tasks == TaskWords.List)
        {
            return;
        }

        EspalierException.Require(parsed.GetValue(_data) is not null || tasks is not null, "There is nothing to measure; give --data for perplexity, --tasks for multiple-choice tasks, or both.");
        EspalierException.Require(parsed.GetValue(_model) is not null, "Which model to measure is not said; give its folder or hub id.");
        EspalierException.Require(parsed.GetValue(_windows) >= 0, $"--windows {parsed.GetValue(_windows)} is not possible; give 1 or more, or 0 for all.");
        EspalierException.Require(tasks is not null || parsed.GetValue(_taskData) is not { Length: > 0 }, "--task-data is given without --tasks; name the tasks to run.");
        if (tasks is not null)
        {
            TaskWords.Named(tasks);
        }
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string? reference = parsed.GetValue(_data), tasks = parsed.GetValue(_tasks), output = parsed.GetValue(_output);
        if (tasks == TaskWords.List)
        {
            TaskWords.ShowList(context);
            return ExitCode.Success;
        }

        string word = parsed.GetRequiredValue(_model)!;
        int most = parsed.GetValue(_windows);
        EspalierException.Require(output is null || Directory.Exists(Path.GetDirectoryName(Path.GetFullPath(output))),
            $"--output {output} lies in a folder that does not exist; make the folder first.");
        string[] taskData = parsed.GetValue(_taskData) ?? [];
        var options = new MultipleChoiceOptions { FewShot = parsed.GetValue(_fewShot), Limit = parsed.GetValue(_limit), Seed = new Seed(parsed.GetValue(_seed)) };
        IReadOnlyList<TaskData> questions = tasks is null ? [] : TaskWords.Open(tasks, taskData, options, context, cancellation);
        IReadOnlyList<(string Folder, double Weight)> adapters = AdapterWords.Parse(parsed.GetValue(_adapter));
        string folder = await Inputs.ModelAsync(word, context, cancellation).ConfigureAwait(false);
        if (VisionConfig.IsVision(folder))
        {
            EspalierException.Require(tasks is null && reference is not null, $"{word} is a vision net, which answers no tasks; give --data with images.");
            JsonObject accuracy = VisionWords.Evaluate(word, folder, reference, options.Limit, context, cancellation, adapters);
            Write(output, accuracy);
            context.Show(accuracy, () => VisionWords.Print(context, accuracy));
            return ExitCode.Success;
        }

        ModelConfig config = ModelConfig.Load(folder);
        ITensorSource tensors = PackedSource.OpenAny(folder);
        using var opened = tensors as IDisposable;
        using var plain = new StreamedModel(config, tensors);
        using AdaptedNet<LanguageModel>? adapted = adapters.Count == 0 ? null : AdapterWords.Load(folder, adapters, context);
        LanguageModel? whole = adapted is { IsAttached: true } ? adapted.Net : null;
        using StreamedModel? over = adapted is null || whole is not null ? null : new StreamedModel(plain.Config, AdapterWords.Over(plain.Source, adapted.Net));
        StreamedModel model = over ?? plain;
        Tokenizer tokenizer = Tokenizer.Load(folder);
        int length = parsed.GetValue(_contextLength) ?? Math.Min(model.Config.MaxPositions, LongestContext);
        EspalierException.Require(length >= 2 && length <= model.Config.MaxPositions,
            $"--context {length} is not possible; the model sees from 2 to {model.Config.MaxPositions} tokens.");
        long[][]? windows = reference is null ? null : TokenWindows.ForPerplexity(Inputs.Text(reference, context, cancellation), tokenizer, length, most);

        var clock = Stopwatch.StartNew();
        PerplexityResult? perplexity = windows is null ? null
            : whole is not null ? OfWhole(whole, windows, context, cancellation)
            : StreamedPerplexity.Evaluate(model, windows, context.Device, "measuring perplexity", context.Progress, spillFolder: null, cancellation);
        TimeSpan time = clock.Elapsed;
        ModelLikelihood likelihood = whole is not null ? ModelLikelihood.Of(whole, tokenizer) : ModelLikelihood.Of(model, tokenizer, context.Device);
        TaskResult[] results = [.. questions.Select(q => MultipleChoice.Evaluate(q, likelihood, options, context.Progress, cancellation))];

        // What either part says has names of its own, so a script finds a figure at the same place whether or not the other was measured.
        JsonObject value = results.Length > 0 ? HarnessReport.Of(results, word, options) : [];
        if (perplexity is not null)
        {
            foreach ((string name, JsonNode? figure) in Figures(word, reference!, perplexity, length, time))
            {
                value[name] = figure?.DeepClone();
            }
        }

        Write(output, value);
        context.Show(value, () => Print(context, perplexity, length, time, results, options.FewShot));
        return ExitCode.Success;
    }

    private static PerplexityResult OfWhole(LanguageModel model, long[][] windows, CommandContext context, CancellationToken cancellation)
    {
        EspalierException.Require(windows.Length > 0, "There is no evaluation window: the text is shorter than one context.");
        using Tensor ids = tensor(windows.SelectMany(w => w).ToArray(), windows.Length, windows[0].Length);
        return Perplexity.Evaluate(model, ids, progress: context.Progress, cancellation: cancellation);
    }

    private static void Write(string? output, JsonObject value)
    {
        if (output is not null)
        {
            AtomicFile.WriteText(output, value.ToJsonString(new JsonSerializerOptions(JsonEvents.Options) { WriteIndented = true }) + "\n");
        }
    }

    private static JsonObject Figures(string model, string data, PerplexityResult result, int length, TimeSpan time) => JsonSerializer.SerializeToNode(
        new
        {
            model,
            data,
            perplexity = result.Value,
            result.LogPerplexity,
            result.StandardErrorOfLog,
            windows = result.Segments,
            context = length,
            result.Tokens,
            seconds = time.TotalSeconds,
            tokensPerSecond = result.Segments * (double)length / time.TotalSeconds,
        },
        JsonEvents.Options)!.AsObject();

    private static void Print(CommandContext context, PerplexityResult? perplexity, int length, TimeSpan time, TaskResult[] results, int fewShot)
    {
        if (perplexity is not null)
        {
            long tokens = perplexity.Segments * (long)length;
            string error = double.IsNaN(perplexity.StandardErrorOfLog) ? "" : string.Create(CultureInfo.InvariantCulture, $" ± {perplexity.Value * perplexity.StandardErrorOfLog:0.##}");
            context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"perplexity {perplexity.Value:0.###}{error} on {perplexity.Segments} windows of {length} tokens"));
            context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Text.Count(tokens)} tokens in {Text.Duration(time)}, {tokens / time.TotalSeconds:0} tokens/s"));
        }

        if (results.Length > 0)
        {
            TaskWords.Print(context.Console, results, fewShot);
        }
    }
}
