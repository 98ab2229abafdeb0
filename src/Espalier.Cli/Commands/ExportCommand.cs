using System.CommandLine;
using System.Globalization;
using Espalier.Checkpoints.Gguf;
using Espalier.Models.Export;
using Espalier.Runtime;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier export</c>: writes a model for other programs.</summary>
internal sealed class ExportCommand : EspalierCommand
{
    private readonly Argument<string> _model = new("MODEL") { Description = "A model's folder or a hub id." };
    private readonly Option<string> _format = new("--format") { Description = "The file's format: gguf (llama.cpp).", HelpName = "word", DefaultValueFactory = _ => "gguf" };
    private readonly Option<string> _type = new("--type") { Description = "How weights are stored: f32, f16, bf16, q8_0 (8.5 bits a weight) or q4_0 (4.5 bits).", HelpName = "word", DefaultValueFactory = _ => "f16" };
    private readonly Option<string> _out = new("--out") { Description = "The file to write.", HelpName = "file", Required = true };

    public ExportCommand()
        : base("export", "Writes a model as a GGUF file for llama.cpp and the programs built on it, and compares the file with the model.",
            "espalier export ./llama-50 --type q8_0 --out llama-50.gguf",
            "espalier export ./llama-50 --type f16 --out llama-50.gguf --json")
    {
        foreach (Option option in new Option[] { _format, _type, _out })
        {
            Add(option);
        }

        Add(_model);
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string format = parsed.GetRequiredValue(_format), word = parsed.GetRequiredValue(_type), path = parsed.GetRequiredValue(_out);
        EspalierException.Require(format == "gguf", $"--format {format} is not known; gguf is.");
        string[] known = [.. Enum.GetNames<GgufType>().Select(n => n.ToLowerInvariant())];
        EspalierException.Require(known.Contains(word), $"--type {word} is not known; known are {string.Join(", ", known)}.");
        EspalierException.Require(!Directory.Exists(path), $"--out {path} is a folder; name a file to write, for example model.gguf.");
        string folder = await Inputs.ModelAsync(parsed.GetRequiredValue(_model), context, cancellation).ConfigureAwait(false);
        GgufExportReport report = GgufExport.Run(folder, Enum.Parse<GgufType>(word, ignoreCase: true), path, context.Progress, cancellation);
        foreach (string note in report.Notes)
        {
            context.Progress.Warn(note);
        }

        context.Show(report, () =>
        {
            ExportComparison c = report.Comparison;
            string types = string.Join(", ", report.Types.Select(t => $"{t.Value} {t.Key}"));
            context.Output.WriteLine($"{report.Path}: {report.Architecture}, {Text.Bytes(report.Bytes)}, tensors: {types}");
            context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"against the model on {c.Tokens} tokens: logits differ by {c.RelativeError:0.#####} of their size, KL divergence {c.Divergence:0.######}, same likeliest token {c.Agreement:0.0 %}"));
        });
        return ExitCode.Success;
    }
}
