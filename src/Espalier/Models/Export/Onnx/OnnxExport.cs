using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Checkpoints.Onnx;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Export.Onnx;

/// <summary>How a model is exported to ONNX.</summary>
public sealed record OnnxExportOptions
{
    /// <summary>How weight matrices are stored: float32 (default) or float16; vectors are float32, and so is what is computed.</summary>
    public OnnxType Type
    {
        get;
        init
        {
            EspalierException.Require(value is OnnxType.F32 or OnnxType.F16, $"ONNX weights are stored as f32 or f16, not as {value}.");
            field = value;
        }
    } = OnnxType.F32;

    /// <summary>Whether keys and values of earlier tokens go in (<c>past_key_values.N.key</c>) and out (<c>present.N.key</c>). Default false.</summary>
    public bool Cache { get; init; }
}

/// <summary>What an export wrote.</summary>
/// <param name="Path">The file.</param>
/// <param name="Opset">The version of the standard's operators.</param>
/// <param name="Nodes">How many operations the graph has.</param>
/// <param name="Inputs">Its inputs and their axes.</param>
/// <param name="Outputs">Its outputs and their axes.</param>
/// <param name="Bytes">The size of the file, its data file included.</param>
/// <param name="DataPath">The second file with the weights of a model beyond 2 GB; null where there is none.</param>
/// <param name="Comparison">The file, opened anew and run, against the checkpoint.</param>
public sealed record OnnxExportReport(string Path, int Opset, int Nodes, IReadOnlyList<string> Inputs, IReadOnlyList<string> Outputs, long Bytes, string? DataPath, ExportComparison Comparison)
{
    /// <summary>Which programs load it.</summary>
    public IReadOnlyList<ReaderEntry> Readers { get; } = ReaderMatrix.OfOnnx(Opset, Comparison);
}

/// <summary>Writes a model as an ONNX graph of standard operators, tensor by tensor: memory holds the largest tensor, not the model.</summary>
public static class OnnxExport
{
    /// <summary>Exports a checkpoint and compares the file with it.</summary>
    /// <param name="folder">The checkpoint's folder.</param>
    /// <param name="options">How.</param>
    /// <param name="path">The file to write; an older one is replaced when the new one is complete.</param>
    /// <param name="progress">Told tensor by tensor; null for silence.</param>
    /// <param name="cancellation">Ends the work between two tensors; the target is then as it was.</param>
    /// <exception cref="EspalierException">When the model has no translation, a value does not fit the type, the disk refuses, or the file differs from the checkpoint.</exception>
    public static OnnxExportReport Run(string folder, OnnxExportOptions options, string path, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        using StreamedModel model = StreamedModel.Open(folder);
        return Run(model, options, path, progress, cancellation);
    }

    /// <summary>Exports an opened model and compares the file with it.</summary>
    /// <inheritdoc cref="Run(string, OnnxExportOptions, string, IProgressSink?, CancellationToken)"/>
    /// <param name="model">The model.</param>
    /// <param name="options">How.</param>
    /// <param name="path">The file to write.</param>
    /// <param name="progress">Told tensor by tensor; null for silence.</param>
    /// <param name="cancellation">Ends the work between two tensors.</param>
    public static OnnxExportReport Run(StreamedModel model, OnnxExportOptions options, string path, IProgressSink? progress = null, CancellationToken cancellation = default) =>
        Run(model, options, path, progress ?? SilentProgress.Instance, OnnxWriter.LargestMessage, cancellation);

    internal static OnnxExportReport Run(StreamedModel model, OnnxExportOptions options, string path, IProgressSink progress, long largest, CancellationToken cancellation)
    {
        OnnxBuilder builder = DecoderGraph.Build(model.Config, model.Source, options.Type, options.Cache);
        OnnxGraph graph = builder.Graph;
        (long bytes, string? data) = Write(builder, path, progress, largest, cancellation);
        using OnnxFile file = OnnxFile.Open(path);
        double tolerance = Tolerance(options.Type);
        ExportComparison comparison = ExportComparison.Make(model, ids => new OnnxEvaluator(file).Run(Given(file, ids), "logits", cancellation), tolerance, progress, cancellation);
        RequireSame(path, comparison.RelativeError, options.Type);
        return new OnnxExportReport(path, graph.Opset, graph.Nodes.Count, [.. graph.Inputs.Select(Describe)], [.. graph.Outputs.Select(Describe)], bytes, data, comparison);
    }

    /// <summary>The greatest relative error that a type explains.</summary>
    internal static double Tolerance(OnnxType type) => type is OnnxType.F16 ? 1e-2 : 1e-4;

    /// <summary>Throws where a file differs from its checkpoint by more than its type explains.</summary>
    internal static void RequireSame(string path, double error, OnnxType type) => EspalierException.Require(error <= Tolerance(type), string.Create(CultureInfo.InvariantCulture,
        $"{path} was written, but its logits differ from the checkpoint's by {error:0.####} of their size, more than {type} explains ({Tolerance(type):0.####}); do not use it, choose f32."));

    /// <summary>Writes a graph with its tensors, all or nothing.</summary>
    /// <returns>The bytes on disk, and the second file where one was needed.</returns>
    internal static (long Bytes, string? DataPath) Write(OnnxBuilder builder, string path, IProgressSink progress, long largest, CancellationToken cancellation)
    {
        OnnxGraph graph = builder.Graph;
        using (OnnxWriter writer = OnnxWriter.Create(path, graph, largest, FileSystem.Instance))
        using (IProgressTask task = progress.Begin("exporting", graph.Tensors.Sum(t => t.ByteCount), "B"))
        {
            foreach (OnnxTensor tensor in graph.Tensors)
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = NewDisposeScope();
                writer.Write(tensor.Name, builder.ValueOf(tensor.Name));
                task.Advance(tensor.ByteCount);
            }

            writer.Commit();
        }

        string data = path + OnnxWriter.DataSuffix;
        bool outside = graph.Tensors.Sum(t => t.ByteCount) > largest;
        return (new FileInfo(path).Length + (outside ? new FileInfo(data).Length : 0), outside ? data : null);
    }

    // A cache begins empty: no token before the first.
    private static Dictionary<string, Tensor> Given(OnnxFile file, Tensor ids_1T) => file.Graph.Inputs.ToDictionary(
        input => input.Name,
        input => input.Name == "input_ids" ? ids_1T : zeros([.. input.Axes.Select(axis => axis.Name switch { "batch" => 1L, null => axis.Size, _ => 0 })]));

    /// <summary>A value with its axes, as in "logits [batch, tokens, 32000]".</summary>
    internal static string Describe(OnnxValue value) => $"{value.Name} [{string.Join(", ", value.Axes)}]";
}
