using Espalier.Checkpoints.Onnx;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Export.Onnx;

/// <summary>What the export of a vision net wrote.</summary>
/// <param name="Path">The file.</param>
/// <param name="Opset">The version of the standard's operators.</param>
/// <param name="Nodes">How many operations the graph has.</param>
/// <param name="Inputs">Its inputs and their axes.</param>
/// <param name="Outputs">Its outputs and their axes.</param>
/// <param name="Bytes">The size of the file, its data file included.</param>
/// <param name="DataPath">The second file with the weights of a net beyond 2 GB; null where there is none.</param>
/// <param name="Images">How many random images were compared.</param>
/// <param name="RelativeError">‖exported − net‖ / ‖net‖ over all outputs, the file opened anew.</param>
/// <param name="Agreement">The share of images with the same likeliest class; null where the net puts out images.</param>
public sealed record VisionExportReport(string Path, int Opset, int Nodes, IReadOnlyList<string> Inputs, IReadOnlyList<string> Outputs, long Bytes, string? DataPath, int Images, double RelativeError, double? Agreement)
{
    /// <summary>Which programs load it.</summary>
    public IReadOnlyList<ReaderEntry> Readers { get; } = ReaderMatrix.OfVisionOnnx(Opset, RelativeError);
}

/// <summary>Writes a vision net as an ONNX graph of standard operators. Images go in as the net takes them, normalised by <c>image_mean</c> and <c>image_std</c>.</summary>
public static class VisionExport
{
    private const int Compared = 8;

    /// <summary>Exports a net and compares the file, opened anew, with it.</summary>
    /// <param name="model">The net.</param>
    /// <param name="type">How weights are stored: float32 or float16; what is computed is float32.</param>
    /// <param name="path">The file to write; an older one is replaced when the new one is complete.</param>
    /// <param name="progress">Told tensor by tensor; null for silence.</param>
    /// <param name="cancellation">Ends the work between two tensors; the target is then as it was.</param>
    /// <exception cref="EspalierException">When a value does not fit the type, the disk refuses, or the file differs from the net.</exception>
    public static VisionExportReport Run(VisionModel model, OnnxType type, string path, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        type = new OnnxExportOptions { Type = type }.Type;
        OnnxBuilder builder = VisionOnnx.Build(model, type);
        OnnxGraph graph = builder.Graph;
        (long bytes, string? data) = OnnxExport.Write(builder, path, progress ?? SilentProgress.Instance, OnnxWriter.LargestMessage, cancellation);
        using OnnxFile file = OnnxFile.Open(path);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using Generator generator = new Seed(0).Generator("export comparison");
        bool training = model.Training;
        model.Training = false;
        try
        {
            FeatureShape shape = model.Layers[0].Shape;
            Tensor images = randn([Compared, shape.Channels, shape.Height, shape.Width], generator: generator), theirs = model.Forward(images.to(model.Device)).cpu();
            Tensor ours = new OnnxEvaluator(file).Run(new Dictionary<string, Tensor> { ["images"] = images }, VisionOnnx.OutputName(model), cancellation);
            double error = ((ours - theirs).norm() / theirs.norm().clamp_min(1e-30)).item<float>();
            OnnxExport.RequireSame(path, error, type);
            double? agreement = VisionOnnx.PutsOutImages(model) ? null : ours.argmax(1).eq(theirs.argmax(1)).to(ScalarType.Float64).mean().item<double>();
            return new VisionExportReport(path, graph.Opset, graph.Nodes.Count, [.. graph.Inputs.Select(OnnxExport.Describe)], [.. graph.Outputs.Select(OnnxExport.Describe)], bytes, data, Compared, error, agreement);
        }
        finally
        {
            model.Training = training;
        }
    }
}
