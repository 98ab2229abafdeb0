using System.CommandLine;
using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Checkpoints.Gguf;
using Espalier.Checkpoints.Onnx;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Spectre.Console;
using static TorchSharp.torch;
using Text = Espalier.Runtime.Text;

namespace Espalier.Cli.Commands;

/// <summary><c>espalier inspect</c>: what a checkpoint holds.</summary>
internal sealed class InspectCommand : EspalierCommand
{
    private readonly Argument<string> _model = new("MODEL") { Description = "A model's folder, a hub id, or one safetensors, GGUF or ONNX file." };

    private readonly Option<bool> _noZeros = new("--no-zeros") { Description = "Reads headers only: fast also for a large model, but zeros are not counted." };

    public InspectCommand()
        : base("inspect", "Shows a model's tensors: shapes, types, sizes, and the share of zeros in each.",
            "espalier inspect ./llama-50",
            "espalier inspect ./llama-50 --no-zeros")
    {
        Add(_model);
        Add(_noZeros);
    }

    private sealed record Row(string Name, string Type, IReadOnlyList<long> Shape, long Parameters, long Bytes, long? Zeros);

    protected override async Task<int> RunAsync(ParseResult parsed, CommandContext context, CancellationToken cancellation)
    {
        string word = parsed.GetRequiredValue(_model);
        string path = File.Exists(word) ? word : await Inputs.ModelAsync(word, context, cancellation).ConfigureAwait(false);
        bool vision = VisionConfig.IsVision(path);
        ModelConfig? config = !vision && File.Exists(Path.Combine(path, ModelConfig.FileName)) ? ModelConfig.Load(path) : null;
        using IDisposable opened = Open(path);
        var checkpoint = (ITensorSource)opened;
        var rows = new List<Row>();
        using (IProgressTask task = context.Progress.Begin("reading", checkpoint.Names.Sum(n => checkpoint.Info(n).ByteCount), "B"))
        {
            foreach (TensorInfo info in checkpoint.Names.Select(checkpoint.Info))
            {
                cancellation.ThrowIfCancellationRequested();
                long? zeros = parsed.GetValue(_noZeros) ? null : ZeroCensus.Zeros(checkpoint, info.Name);
                rows.Add(new Row(info.Name, info.ElementType, info.Shape, info.ElementCount, info.ByteCount, zeros));
                task.Advance(info.ByteCount);
            }
        }

        using VisionModel? net = vision ? VisionModel.Outline(VisionConfig.Load(path)) : null;
        long? silent = net is null || parsed.GetValue(_noZeros) ? null : net.Weights.Sum(w => EmptyRows(checkpoint, w.WeightName));
        context.Show(
            new { path, modelType = config?.ModelType ?? net?.Config.ModelType, macs = net?.Macs, gates = net is { Gates.Count: > 0 } ? new { count = net.Gates.Count, predictorMacs = net.Gates.Sum(g => g.PredictorMacs) } : null, unitsWithoutWeights = silent, layers = config?.LayerCount ?? net?.Weights.Count, parameters = rows.Sum(r => r.Parameters), bytes = rows.Sum(r => r.Bytes), zeros = rows.Any(r => r.Zeros is null) ? null : rows.Sum(r => r.Zeros), tensors = rows },
            () => Print(context.Console, config, net, silent, rows));
        return ExitCode.Success;
    }

    private static long EmptyRows(ITensorSource source, string name)
    {
        using var scope = NewDisposeScope();
        return source.Read(name).flatten(1).ne(0).any(1).logical_not().sum().item<long>();
    }

    private static IDisposable Open(string path) => !File.Exists(path) ? Checkpoint.Open(path) : Path.GetExtension(path).ToLowerInvariant() switch
    {
        GgufFile.Extension => GgufFile.Open(path),
        OnnxFile.Extension => OnnxFile.Open(path),
        _ => Checkpoint.Open(path),
    };

    private static void Print(IAnsiConsole console, ModelConfig? config, VisionModel? net, long? silent, List<Row> rows)
    {
        if (config is not null)
        {
            console.MarkupLineInterpolated($"{config.ModelType}: {config.LayerCount} layers, width {config.HiddenSize}, {config.HeadCount} heads ({config.KeyValueHeadCount} key-value), {Text.Count(config.VocabSize)} tokens, context {Text.Count(config.MaxPositions)}");
        }

        if (net is not null)
        {
            console.MarkupLineInterpolated($"{net.Config.ModelType}: {net.Weights.Count} layers with weights, images {net.Layers[0].Shape}, {Text.Count(net.Macs)} multiply-accumulates, {net.Groups.Count} groups of channels that can be cut");
            if (net.Gates.Count > 0)
            {
                console.MarkupLineInterpolated($"{net.Gates.Count} gates choose filters image by image; their predictors take {Text.Count(net.Gates.Sum(g => g.PredictorMacs))} multiply-accumulates on top (espalier eval measures what they save)");
            }

            if (silent > 0)
            {
                console.MarkupLineInterpolated($"{Text.Count(silent.Value)} of {Text.Count(net.Weights.Sum(w => w.Rows))} filters and neurons have no weight left: dead, whatever the image");
            }
        }

        var table = new Table().Border(TableBorder.Minimal).AddColumn("tensor").AddColumn("type").AddColumn("shape")
            .AddColumn(new TableColumn("parameters").RightAligned()).AddColumn(new TableColumn("zeros").RightAligned());
        foreach (Row row in rows)
        {
            table.AddRow(Markup.Escape(row.Name), Markup.Escape(row.Type), Markup.Escape($"{string.Join(" × ", row.Shape)}"), Text.Count(row.Parameters), Share(row.Zeros, row.Parameters));
        }

        console.Write(table);
        long parameters = rows.Sum(r => r.Parameters);
        long? zeros = rows.Any(r => r.Zeros is null) ? null : rows.Sum(r => r.Zeros);
        console.MarkupLineInterpolated($"{rows.Count} tensors, {Text.Count(parameters)} parameters, {Text.Bytes(rows.Sum(r => r.Bytes))}{(zeros is null ? "" : $", {Share(zeros, parameters)} zeros")}");
    }

    private static string Share(long? zeros, long count) =>
        zeros is null ? "" : (count == 0 ? 0 : (double)zeros.Value / count).ToString("0.0 %", CultureInfo.InvariantCulture);
}
