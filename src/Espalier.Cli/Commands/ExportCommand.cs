using System.CommandLine;
using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Checkpoints.Gguf;
using Espalier.Checkpoints.Onnx;
using Espalier.Models;
using Espalier.Models.Export;
using Espalier.Models.Export.Onnx;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity.Packed;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier export</c>: writes a model for other programs.</summary>
internal sealed class ExportCommand : EspalierCommand
{
    private const string Gguf = "gguf", Onnx = "onnx", Plain = "checkpoint";

    private readonly Argument<string> _model = new("MODEL") { Description = "A model's folder or a hub id." };
    private readonly Option<string> _format = new("--format") { Description = "gguf (llama.cpp), onnx (ONNX Runtime and others), or checkpoint (a folder; with --pad).", HelpName = "word", DefaultValueFactory = _ => Gguf };
    private readonly Option<string?> _type = new("--type") { Description = "How weights are stored. gguf: f32, f16 (default), bf16, q8_0 (8.5 bits a weight), q4_0 (4.5 bits). onnx: f32 (default), f16. A checkpoint keeps its types.", HelpName = "word" };
    private readonly Option<bool> _cache = new("--cache") { Description = "onnx: keys and values of earlier tokens go in and out, for generating token by token." };
    private readonly Option<bool> _pad = new("--pad") { Description = "Fills blocks that structured pruning left uneven up with zeros, so that all are alike and stock programs load them; the function is the same." };
    private readonly Option<string> _out = new("--out") { Description = "The file to write; of a checkpoint the folder.", HelpName = "path", Required = true };

    public ExportCommand()
        : base("export", "Writes a model for other programs, opens what it wrote and compares it with the model.",
            "espalier export ./llama-50 --type q8_0 --out llama-50.gguf",
            "espalier export ./llama-50 --format onnx --out llama-50.onnx",
            "espalier export ./llama-50 --format onnx --type f16 --cache --out llama-50.onnx",
            "espalier export ./resnet20 --format onnx --out resnet20.onnx",
            "espalier export ./llama-cut --format checkpoint --pad --out ./llama-even")
    {
        foreach (Option option in new Option[] { _format, _type, _cache, _pad, _out })
        {
            Add(option);
        }

        Add(_model);
    }

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string format = parsed.GetRequiredValue(_format), path = parsed.GetRequiredValue(_out);
        bool pad = parsed.GetValue(_pad), cache = parsed.GetValue(_cache);
        EspalierException.Require(format is Gguf or Onnx or Plain, $"--format {format} is not known; known are {Gguf}, {Onnx} and {Plain}.");
        EspalierException.Require(!cache || format == Onnx, $"--cache belongs to --format {Onnx}; leave it out.");
        string word = Type(format, parsed.GetValue(_type));
        EspalierException.Require(format != Plain || pad, $"--format {Plain} writes a model of uneven blocks with equal ones; add --pad.");
        EspalierException.Require(format == Plain || !Directory.Exists(path), $"--out {path} is a folder; name a file to write, for example model.{format}.");
        string folder = await Inputs.ModelAsync(parsed.GetRequiredValue(_model), context, cancellation).ConfigureAwait(false);
        using (Checkpoint checkpoint = Checkpoint.Open(folder))
        {
            EspalierException.Require(!PackedSource.IsPacked(checkpoint), $"{folder} is packed; make a dense checkpoint of it first: espalier unpack {folder} --out FOLDER.");
        }

        if (format == Plain && !VisionConfig.IsVision(folder))
        {
            Show(context, CheckpointExport.Run(folder, path, context.Progress, cancellation));
            return ExitCode.Success;
        }

        if (VisionConfig.IsVision(folder))
        {
            EspalierException.Require(format == Onnx && !pad && !cache, $"{folder} is a vision net, which goes to --format {Onnx} alone, without --pad and --cache.");
            using VisionModel net = VisionModel.Load(folder, context.Device);
            Show(context, VisionExport.Run(net, Enum.Parse<OnnxType>(word, ignoreCase: true), path, context.Progress, cancellation));
            return ExitCode.Success;
        }

        using StreamedModel opened = StreamedModel.Open(folder);
        PaddedModel? padded = pad ? PaddedModel.Of(opened) : null;
        if (padded is not null)
        {
            context.Progress.Say($"{Padding(padded.AddedBytes)}.");
        }

        using StreamedModel model = padded is null ? StreamedModel.Open(folder) : new StreamedModel(padded.Config, padded);
        if (format == Onnx)
        {
            Show(context, OnnxExport.Run(model, new OnnxExportOptions { Type = Enum.Parse<OnnxType>(word, ignoreCase: true), Cache = cache }, path, context.Progress, cancellation));
        }
        else
        {
            Show(context, GgufExport.Run(model, folder, Enum.Parse<GgufType>(word, ignoreCase: true), path, context.Progress, cancellation));
        }

        return ExitCode.Success;
    }

    private static string Type(string format, string? word)
    {
        EspalierException.Require(format != Plain || word is null, $"--type does not belong to --format {Plain}, which keeps the model's types; leave it out.");
        string[] known = format == Onnx ? ["f32", "f16"] : [.. Enum.GetNames<GgufType>().Select(n => n.ToLowerInvariant())];
        word ??= format == Onnx ? "f32" : "f16";
        EspalierException.Require(known.Contains(word), $"--type {word} is not known for {format}; known are {string.Join(", ", known)}.");
        return word;
    }

    private static void Show(CommandContext context, GgufExportReport report)
    {
        foreach (string note in report.Notes)
        {
            context.Progress.Warn(note);
        }

        context.Show(report, () =>
        {
            string types = string.Join(", ", report.Types.Select(t => $"{t.Value} {t.Key}"));
            context.Output.WriteLine($"{report.Path}: {report.Architecture}, {Text.Bytes(report.Bytes)}, tensors: {types}");
            Show(context, report.Comparison);
            ReaderText.Show(context, report.Readers);
        });
    }

    private static void Show(CommandContext context, OnnxExportReport report) => context.Show(report, () =>
    {
        string beside = report.DataPath is { } data ? $" (weights in {data})" : "";
        context.Output.WriteLine($"{report.Path}: opset {report.Opset}, {Text.Bytes(report.Bytes)}, {Text.Count(report.Nodes)} operations{beside}");
        context.Output.WriteLine($"{Axes(report.Inputs)} → {Axes(report.Outputs)}");
        Show(context, report.Comparison);
        ReaderText.Show(context, report.Readers);

        static string Axes(IReadOnlyList<string> values) => values.Count <= 2 ? string.Join(", ", values) : $"{values[0]}, {values[1]} and {values.Count - 2} more";
    });

    private static void Show(CommandContext context, VisionExportReport report) => context.Show(report, () =>
    {
        context.Output.WriteLine($"{report.Path}: opset {report.Opset}, {Text.Bytes(report.Bytes)}, {Text.Count(report.Nodes)} operations");
        context.Output.WriteLine($"{string.Join(", ", report.Inputs)} → {string.Join(", ", report.Outputs)}");
        string same = report.Agreement is { } agreement ? string.Create(CultureInfo.InvariantCulture, $", same likeliest class {agreement:0.0 %}") : "";
        context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"against the net on {report.Images} images: outputs differ by {report.RelativeError:0.#####} of their size{same}"));
        ReaderText.Show(context, report.Readers);
    });

    private static void Show(CommandContext context, CheckpointExportReport report) => context.Show(report, () =>
    {
        context.Output.WriteLine($"{report.Path}: {Text.Bytes(report.Bytes)}. {Padding(report.PaddingBytes)}.");
        ReaderText.Show(context, report.Readers);
    });

    private static void Show(CommandContext context, ExportComparison c) => context.Output.WriteLine(string.Create(CultureInfo.InvariantCulture,
        $"against the model on {c.Tokens} tokens: logits differ by {c.RelativeError:0.#####} of their size, KL divergence {c.Divergence:0.######}, same likeliest token {c.Agreement:0.0 %}"));

    private static string Padding(long bytes) => bytes == 0 ? "All blocks are alike already; no padding was needed" : $"Padding takes {Text.Bytes(bytes)} of zeros in the model's types";
}
