using System.CommandLine;
using Espalier.Data;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier tokenizer</c>: the group of what is done with tokenisers.</summary>
internal sealed class TokenizerCommand : EspalierCommand
{
    public TokenizerCommand()
        : base("tokenizer", "Learns a tokeniser from text.", "espalier tokenizer train --data train.jsonl --vocab 2048 --out ./tokenizer") => Add(new TokenizerTrainCommand());

    protected override Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        context.Error.WriteLine("error: say what to do with a tokeniser.");
        context.Error.WriteLine("hint: `espalier tokenizer --help` shows its words with examples.");
        return Task.FromResult(ExitCode.UserError);
    }
}

/// <summary><c>espalier tokenizer train</c>: learns a byte-level vocabulary.</summary>
internal sealed class TokenizerTrainCommand : EspalierCommand
{
    private readonly Option<string[]> _data = new("--data") { Description = $"The text: {Inputs.DataForms}; may be given several times.", HelpName = "data", Required = true };
    private readonly Option<int> _vocabulary = new("--vocab") { Description = "How many tokens, special ones and the 256 bytes included.", HelpName = "N", DefaultValueFactory = _ => new BpeTrainerOptions().VocabularySize };
    private readonly Option<int> _minimum = new("--min-frequency") { Description = "A pair seen less often is never merged.", HelpName = "N", DefaultValueFactory = _ => new BpeTrainerOptions().MinimumFrequency };
    private readonly Option<string> _out = new("--out", "-o") { Description = "The output folder.", HelpName = "folder", Required = true };

    public TokenizerTrainCommand()
        : base("train", "Learns a byte-level BPE vocabulary and writes it as Hugging Face's tokenizer.json.",
            "espalier tokenizer train --data train.jsonl --vocab 2048 --out ./tokenizer")
    {
        foreach (Option option in new Option[] { _data, _vocabulary, _minimum, _out })
        {
            Add(option);
        }
    }

    protected override Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string folder = parsed.GetRequiredValue(_out);
        TextDataset[] texts = [.. parsed.GetRequiredValue(_data).Select(d => Inputs.Text(d, context, cancellation))];
        var options = new BpeTrainerOptions { VocabularySize = parsed.GetValue(_vocabulary), MinimumFrequency = parsed.GetValue(_minimum) };
        BpeVocabulary vocabulary = BpeTrainer.Train(texts.SelectMany(t => t.Documents), options, context.Progress, cancellation);
        vocabulary.Save(folder);
        context.Show(
            new { folder, vocabulary = vocabulary.Tokens.Count, merges = vocabulary.Merges.Count },
            () => context.Output.WriteLine($"{vocabulary.Tokens.Count} tokens written to {folder}"));
        return Task.FromResult(ExitCode.Success);
    }
}
