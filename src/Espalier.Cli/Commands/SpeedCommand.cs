using System.CommandLine;
using System.Globalization;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity.Packed;
using Spectre.Console;
using static TorchSharp.torch;
using Text = Espalier.Runtime.Text;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier speed</c>: how fast models generate on this machine.</summary>
internal sealed class SpeedCommand : EspalierCommand
{
    private readonly Argument<string[]> _models = new("MODEL") { Description = "Folders or hub ids, packed or not; they are held in memory together.", Arity = ArgumentArity.OneOrMore };
    private readonly Option<int> _tokens = new("--tokens") { Description = "New tokens per repeat.", HelpName = "N", DefaultValueFactory = _ => 32 };
    private readonly Option<int> _prompt = new("--prompt") { Description = "Tokens of the prompt.", HelpName = "N", DefaultValueFactory = _ => 128 };
    private readonly Option<int> _repeats = new("--repeats") { Description = "Repeats of each model; medians are shown.", HelpName = "N", DefaultValueFactory = _ => 5 };

    public SpeedCommand()
        : base("speed", "Measures how fast models generate on this machine, in turns: new tokens and prompt tokens per second, bytes read per token.",
            "espalier speed ./llama ./llama-50-packed",
            "espalier speed ./llama-50-packed --threads 1 --tokens 64 --json")
    {
        Add(_models);
        foreach (Option option in new Option[] { _tokens, _prompt, _repeats })
        {
            Add(option);
        }

        KeepRuns();
    }

    private sealed record Row(string Model, string Form, long BytesPerToken, double TokensPerSecond, double PromptTokensPerSecond, double GigabytesPerSecond);

    /// <inheritdoc/>
    internal override void Check(ParseResult parsed) =>
        EspalierException.Require(parsed.GetValue(_tokens) > 0 && parsed.GetValue(_prompt) > 0 && parsed.GetValue(_repeats) > 0, "--tokens, --prompt and --repeats are whole numbers above 0.");

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        var options = new DecodingSpeed.Options { NewTokens = parsed.GetValue(_tokens), PromptTokens = parsed.GetValue(_prompt), Repeats = parsed.GetValue(_repeats) };
        string[] names = parsed.GetRequiredValue(_models);
        var models = new List<LanguageModel>();
        try
        {
            foreach (string name in names)
            {
                models.Add(Inputs.Load(await Inputs.ModelAsync(name, context, cancellation).ConfigureAwait(false), context));
            }

            IReadOnlyList<DecodingSpeed> speeds = await Task.Run(() => DecodingSpeed.Measure(models, options, cancellation), cancellation).ConfigureAwait(false);
            Row[] rows = [.. speeds.Select((s, i) => new Row(names[i], FormOf(models[i]), models[i].BytesPerToken, s.TokensPerSecond, s.PromptTokensPerSecond, s.TokensPerSecond * models[i].BytesPerToken / 1e9))];
            context.Show(new { threads = get_num_threads(), kernels = PackedKernels.WordOf(PackedKernels.Current), options, models = rows }, () => Print(context.Console, rows));
            return ExitCode.Success;
        }
        finally
        {
            foreach (LanguageModel model in models)
            {
                model.Dispose();
            }
        }
    }

    private static void Print(IAnsiConsole console, Row[] rows)
    {
        Table table = new Table().Border(TableBorder.Rounded).AddColumn("model").AddColumn("kept as");
        foreach (string heading in new[] { "bytes per token", "tokens/s", "prompt tokens/s", "GB/s", "times the first" })
        {
            table.AddColumn(new TableColumn(heading).RightAligned());
        }

        foreach (Row row in rows)
        {
            table.AddRow(Markup.Escape(row.Model), row.Form, Text.Bytes(row.BytesPerToken), Number(row.TokensPerSecond), Number(row.PromptTokensPerSecond), Number(row.GigabytesPerSecond),
                (row.TokensPerSecond / rows[0].TokensPerSecond).ToString("0.00", CultureInfo.InvariantCulture));
        }

        console.Write(table);
    }

    private static string FormOf(LanguageModel model) => string.Join(", ", model.Blocks.SelectMany(b => b.Linears).Select(l => l.Linear.Compact).OfType<PackedWeight>()
        .GroupBy(w => $"{PackedTypes.WordOf(w.Matrix.Type)} {MatrixCodes.WordOf(w.Matrix.Code)}").OrderByDescending(g => g.Count()).Select(g => g.Key).DefaultIfEmpty("float32"));

    private static string Number(double value) => value.ToString(value < 100 ? "0.0" : "0", CultureInfo.InvariantCulture);
}
