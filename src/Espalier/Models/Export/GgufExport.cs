using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Checkpoints.Gguf;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Export;

/// <summary>What an export wrote.</summary>
/// <param name="Path">The file.</param>
/// <param name="Architecture">The architecture's name in llama.cpp.</param>
/// <param name="Types">How many tensors have which type.</param>
/// <param name="Bytes">The size of the file.</param>
/// <param name="Notes">What differs in llama.cpp, in sentences.</param>
/// <param name="Comparison">The file, opened anew, against the checkpoint.</param>
public sealed record GgufExportReport(string Path, string Architecture, IReadOnlyDictionary<string, int> Types, long Bytes, IReadOnlyList<string> Notes, ExportComparison Comparison)
{
    /// <summary>Which programs load it.</summary>
    public IReadOnlyList<ReaderEntry> Readers { get; } = ReaderMatrix.OfGguf(Architecture, Comparison);
}

/// <summary>Writes a checkpoint as a GGUF file for llama.cpp, tensor by tensor: memory holds the largest tensor, not the model.</summary>
public static class GgufExport
{
    /// <summary>Exports a checkpoint and compares the file with it.</summary>
    /// <param name="folder">The checkpoint's folder.</param>
    /// <param name="type">How its weights are stored; norms, biases and learned positions are always float32.</param>
    /// <param name="path">The file to write; an older one is replaced when the new one is complete.</param>
    /// <param name="progress">Told tensor by tensor; null for silence.</param>
    /// <param name="cancellation">Ends the work between two tensors; the target is then as it was.</param>
    /// <exception cref="EspalierException">When llama.cpp cannot run the model, a value does not fit the type, the disk refuses, or the file differs from the checkpoint by more than its type explains.</exception>
    public static GgufExportReport Run(string folder, GgufType type, string path, IProgressSink? progress = null, CancellationToken cancellation = default) =>
        Run(folder, type, path, progress ?? SilentProgress.Instance, FileSystem.Instance, cancellation);

    /// <summary>Exports an opened model, a padded one for example, and compares the file with it.</summary>
    /// <inheritdoc cref="Run(string, GgufType, string, IProgressSink?, CancellationToken)"/>
    /// <param name="model">The model.</param>
    /// <param name="folder">The folder with its tokeniser.</param>
    /// <param name="type">How its weights are stored.</param>
    /// <param name="path">The file to write.</param>
    /// <param name="progress">Told tensor by tensor; null for silence.</param>
    /// <param name="cancellation">Ends the work between two tensors.</param>
    public static GgufExportReport Run(StreamedModel model, string folder, GgufType type, string path, IProgressSink? progress = null, CancellationToken cancellation = default) =>
        Run(model, folder, type, path, progress ?? SilentProgress.Instance, FileSystem.Instance, cancellation);

    internal static GgufExportReport Run(string folder, GgufType type, string path, IProgressSink progress, IFileLayer layer, CancellationToken cancellation)
    {
        using StreamedModel model = StreamedModel.Open(folder);
        return Run(model, folder, type, path, progress, layer, cancellation);
    }

    private static GgufExportReport Run(StreamedModel model, string folder, GgufType type, string path, IProgressSink progress, IFileLayer layer, CancellationToken cancellation)
    {
        GgufFamily family = GgufFamily.For(model.Config);
        IReadOnlyList<TensorRule> rules = family.Rules;
        (GgufTensor[] plan, int fallbacks) = Plan(family, rules, type);
        List<string> notes = [.. family.Notes];
        GgufMetadata metadata = Head(family, folder, type);
        notes.AddRange(GgufTokenizer.Describe(metadata, folder, model.Config));
        if (fallbacks > 0)
        {
            notes.Add(string.Create(CultureInfo.InvariantCulture, $"{fallbacks} tensors have rows that are no multiple of 32 and are stored as F16 instead of {type}."));
        }

        using (GgufWriter writer = GgufWriter.Create(path, metadata, plan, layer))
        using (IProgressTask task = progress.Begin("exporting", plan.Sum(t => t.ByteCount), "B"))
        {
            foreach ((GgufTensor tensor, int i) in plan.Select((t, i) => (t, i)))
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = NewDisposeScope();
                writer.Write(tensor.Name, i < rules.Count ? rules[i].ToTarget(model.Source.Read(rules[i].Source)) : Computed(family, tensor.Name));
                task.Advance(tensor.ByteCount);
            }

            writer.Commit();
        }

        ExportComparison comparison = ExportComparison.Make(model, path, rules, type, progress, cancellation);
        EspalierException.Require(comparison.RelativeError <= comparison.Tolerance, string.Create(CultureInfo.InvariantCulture,
            $"{path} was written, but its logits differ from the checkpoint's by {comparison.RelativeError:0.####} of their size, more than {type} explains ({comparison.Tolerance:0.####}); the model suffers from this type: choose a wider one."));
        return new GgufExportReport(path, family.Name, plan.GroupBy(t => t.Type).OrderBy(g => g.Key).ToDictionary(g => g.Key.ToString(), g => g.Count()), new FileInfo(path).Length, notes, comparison);
    }

    // What llama.cpp's own converter and quantiser do: one-dimensional tensors, norms and learned positions stay float32; a
    // quantised file's head (or the token table that serves as one) has more bits; rows that do not fall into blocks are F16.
    private static (GgufTensor[] Plan, int Fallbacks) Plan(GgufFamily family, IReadOnlyList<TensorRule> rules, GgufType type)
    {
        bool hasHead = rules.Any(r => r.Target == "output.weight");
        int fallbacks = 0;
        List<GgufTensor> plan = [.. rules.Select(rule =>
        {
            long[] shape = rule.TargetShape;
            bool isHead = rule.Target == (hasHead ? "output.weight" : "token_embd.weight");
            GgufType wanted = shape.Length < 2 || rule.Target.EndsWith("_norm.weight", StringComparison.Ordinal) || rule.Target == "position_embd.weight" ? GgufType.F32
                : type == GgufType.Q4_0 && isHead ? GgufType.Q8_0 : type;
            if (GgufTypes.ByteCount(wanted, shape) is null)
            {
                fallbacks++;
                wanted = GgufType.F16;
            }

            return new GgufTensor(rule.Target, wanted, shape);
        })];
        plan.AddRange(family.Computed.Select(c => new GgufTensor(c.Name, GgufType.F32, [c.Values.Length])));
        return ([.. plan], fallbacks);
    }

    private static GgufMetadata Head(GgufFamily family, string folder, GgufType type)
    {
        var metadata = new GgufMetadata();
        metadata.Add("general.architecture", family.Name);
        metadata.Add("general.type", "model");
        metadata.Add("general.name", Path.GetFileName(Path.GetFullPath(folder).TrimEnd(Path.DirectorySeparatorChar)));
        metadata.Add("general.file_type", type switch { GgufType.F32 => 0u, GgufType.F16 => 1u, GgufType.Q4_0 => 2u, GgufType.Q8_0 => 7u, _ => 32u });
        if (GgufTypes.IsQuantized(type))
        {
            metadata.Add("general.quantization_version", 2u);
        }

        family.Describe(metadata);
        return metadata;
    }

    private static Tensor Computed(GgufFamily family, string name) => tensor(family.Computed.First(c => c.Name == name).Values);
}
