using System.CommandLine;
using System.Diagnostics;
using System.Text;
using Espalier.Data;
using Espalier.Models;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier generate</c>: lets a model continue a text.</summary>
internal sealed class GenerateCommand : EspalierCommand
{
    private readonly Argument<string> _model = new("MODEL") { Description = "A model's folder or a hub id." };
    private readonly Option<string> _prompt = new("--prompt", "-p") { Description = "The text to continue.", HelpName = "text", Required = true };
    private readonly Option<int> _maxTokens = new("--max-tokens") { Description = "The most new tokens.", HelpName = "N", DefaultValueFactory = _ => 64 };
    private readonly Option<double> _temperature = new("--temperature") { Description = "0 takes the likeliest token; above, the draw is the wilder the higher.", HelpName = "T", DefaultValueFactory = _ => 0 };
    private readonly Option<int?> _topK = new("--top-k") { Description = "Draws among the K likeliest tokens only.", HelpName = "K" };
    private readonly Option<double> _topP = new("--top-p") { Description = "Draws among the likeliest tokens that together have probability P.", HelpName = "P", DefaultValueFactory = _ => 1 };
    private readonly Option<string[]> _adapter = AdapterWords.Option();
    private readonly Option<long> _seed = new("--seed") { Description = "The seed of the draw.", HelpName = "N", DefaultValueFactory = _ => 0 };

    public GenerateCommand()
        : base("generate", "Lets a model continue a text, word by word as it comes.",
            "espalier generate ./llama-50 --prompt \"It is a truth universally\"",
            "espalier generate ./llama-50 -p \"Once\" --temperature 0.8 --top-p 0.95 --seed 7 --max-tokens 200",
            "espalier generate ./llama -p \"Once\" --adapter ./poems=0.5")
    {
        Add(_model);
        foreach (Option option in new Option[] { _prompt, _maxTokens, _temperature, _topK, _topP, _seed, _adapter })
        {
            Add(option);
        }
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string prompt = parsed.GetRequiredValue(_prompt);
        var options = new GenerationOptions
        {
            MaxNewTokens = parsed.GetValue(_maxTokens),
            Temperature = parsed.GetValue(_temperature),
            TopK = parsed.GetValue(_topK),
            TopP = parsed.GetValue(_topP),
            Seed = new Seed(parsed.GetValue(_seed)),
        };
        IReadOnlyList<(string Folder, double Weight)> adapters = AdapterWords.Parse(parsed.GetValue(_adapter));
        string folder = await Inputs.ModelAsync(parsed.GetRequiredValue(_model), context, cancellation).ConfigureAwait(false);
        Tokenizer tokenizer = Tokenizer.Load(folder);
        using AdaptedNet<LanguageModel> model = AdapterWords.Load(folder, adapters, context);
        IReadOnlyList<int> ids = tokenizer.Encode(prompt);
        IEnumerable<int> made = new TextGenerator(model.Net).Generate(ids, options, cancellation);

        // The first words stand on a clean line: progress bars end here.
        (context.Progress as IDisposable)?.Dispose();
        TokenDecoder decoder = tokenizer.StartDecoding();
        foreach (int id in ids)
        {
            decoder.Push(id);
        }

        var text = new StringBuilder();
        void Put(string piece)
        {
            text.Append(piece);
            if (!context.Settings.Json)
            {
                context.Output.Write(piece);
                context.Output.Flush();
            }
        }

        if (!context.Settings.Json)
        {
            context.Output.Write(prompt);
        }

        var clock = Stopwatch.StartNew();
        int tokens = 0;
        foreach (int id in made)
        {
            Put(decoder.Push(id));
            tokens++;
        }

        Put(decoder.Flush());
        double seconds = clock.Elapsed.TotalSeconds;
        if (context.Settings.Json)
        {
            context.Result(new { prompt, text = text.ToString(), tokens, seconds, tokensPerSecond = tokens / Math.Max(seconds, 1e-9) });
        }
        else
        {
            context.Output.WriteLine();
            context.Progress.Say(FormattableString.Invariant($"{tokens} tokens, {tokens / Math.Max(seconds, 1e-9):0.#} tokens/s"));
        }

        return ExitCode.Success;
    }
}
