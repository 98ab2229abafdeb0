using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier eval</c>: how well a model predicts a text.</summary>
internal sealed class EvalCommand : EspalierCommand
{
    private const int LongestContext = 4096;

    private readonly Argument<string> _model = new("MODEL") { Description = "A model's folder or a hub id." };
    private readonly Option<string> _data = new("--data") { Description = $"The text: {Inputs.DataForms}.", HelpName = "data", Required = true };
    private readonly Option<int> _windows = new("--windows") { Description = "The most windows; 0 takes all.", HelpName = "N", DefaultValueFactory = _ => 0 };
    private readonly Option<int?> _contextLength = new("--context") { Description = "Tokens per window (default: the model's context, at most 4096).", HelpName = "N" };

    public EvalCommand()
        : base("eval", "Measures perplexity: the text is cut into windows that do not overlap, each scored alone.",
            "espalier eval ./llama-50 --data Salesforce/wikitext:wikitext-2-v1:test",
            "espalier eval ./llama-50 --data reviews.jsonl --windows 64 --context 256 --json")
    {
        Add(_model);
        foreach (Option option in new Option[] { _data, _windows, _contextLength })
        {
            Add(option);
        }
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string word = parsed.GetRequiredValue(_model), reference = parsed.GetRequiredValue(_data);
        int most = parsed.GetValue(_windows);
        EspalierException.Require(most >= 0, $"--windows {most} is not possible; give 1 or more, or 0 for all.");
        string folder = await Inputs.ModelAsync(word, context, cancellation).ConfigureAwait(false);
        ModelConfig config = ModelConfig.Load(folder);
        int length = parsed.GetValue(_contextLength) ?? Math.Min(config.MaxPositions, LongestContext);
        EspalierException.Require(length >= 2 && length <= config.MaxPositions,
            $"--context {length} is not possible; the model sees from 2 to {config.MaxPositions} tokens.");
        using Checkpoint checkpoint = Checkpoint.Open(folder);
        using var model = new StreamedModel(config, checkpoint);
        long[][] windows = TextWindows.Consecutive(Inputs.Text(reference, context, cancellation), Tokenizer.Load(folder), length, most);

        var clock = Stopwatch.StartNew();
        PerplexityResult result = StreamedPerplexity.Evaluate(model, windows, context.Device, "measuring perplexity", context.Progress, spillFolder: null, cancellation);
        double seconds = clock.Elapsed.TotalSeconds, rate = (double)windows.Length * length / seconds;
        context.Show(
            new { model = word, data = reference, perplexity = result.Value, result.LogPerplexity, result.StandardErrorOfLog, windows = result.Segments, context = length, result.Tokens, seconds, tokensPerSecond = rate },
            () =>
            {
                string error = double.IsNaN(result.StandardErrorOfLog) ? "" : string.Create(CultureInfo.InvariantCulture, $" ± {result.Value * result.StandardErrorOfLog:0.##}");
                context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"perplexity {result.Value:0.###}{error} on {result.Segments} windows of {length} tokens"));
                context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Text.Count(windows.Length * (long)length)} tokens in {Text.Duration(clock.Elapsed)}, {rate:0} tokens/s"));
            });
        return ExitCode.Success;
    }
}
