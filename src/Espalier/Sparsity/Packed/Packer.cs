using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Models.Export;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Sparsity.Packed;

/// <summary>What packing a model came to.</summary>
/// <param name="Weights">How many weights were packed.</param>
/// <param name="DenseBytes">All tensors of the source, as stored.</param>
/// <param name="PackedBytes">All tensors of the packed model.</param>
/// <param name="Zeros">The share of zeros in the packed weights.</param>
/// <param name="BitsPerWeight">Stored bits per dense weight of what was packed.</param>
/// <param name="LogitDifference">The size of the difference of logits between the re-opened packed model and the source, over the size of the source's logits.</param>
/// <param name="LogitTolerance">The most that the type allows.</param>
/// <param name="Readers">Which programs load it.</param>
public sealed record PackReport(int Weights, long DenseBytes, long PackedBytes, double Zeros, double BitsPerWeight, double LogitDifference, double LogitTolerance, IReadOnlyList<ReaderEntry> Readers);

/// <summary>What unpacking a model came to.</summary>
/// <param name="Bytes">All its tensors.</param>
/// <param name="LogitDifference">The largest difference of logits from the packed model's when it was opened anew.</param>
/// <param name="Readers">Which programs load it.</param>
public sealed record UnpackReport(long Bytes, double LogitDifference, IReadOnlyList<ReaderEntry> Readers);

/// <summary>Packs a model and unpacks it again, one tensor in memory at a time; an output folder appears whole or not at all.</summary>
public static class Packer
{
    /// <summary>Packs the linear maps of the decoder blocks; embeddings, norms, biases and the head stay as they are.</summary>
    /// <param name="folder">The model.</param>
    /// <param name="type">How kept weights are stored.</param>
    /// <param name="output">The output folder; not the model's own.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work before anything has its final name.</param>
    /// <exception cref="EspalierException">For a model that is packed already, weights that the type cannot hold, or an output that does not answer as its source.</exception>
    public static PackReport Pack(string folder, PackedType type, string output, IProgressSink progress, CancellationToken cancellation = default)
    {
        RequireOther(folder, output);
        ModelConfig config = ModelConfig.Load(folder);
        using Checkpoint source = Checkpoint.Open(folder);
        EspalierException.Require(!PackedSource.IsPacked(source), $"{folder} is packed already; unpack it first, or pack the dense model.");
        using var model = new StreamedModel(config, source);
        Dictionary<string, bool> linears = Linears(model.Config);
        (List<TensorInfo> plan, Dictionary<string, string> metadata, Totals totals) = Plan(source, linears, type, progress, cancellation);
        double tolerance = PackedTypes.Tolerance(type), difference;
        using (IProgressTask task = progress.Begin("packing", source.TotalBytes, "B"))
        using (CheckpointWriter writer = CheckpointWriter.Create(output, plan, metadata: metadata))
        {
            foreach (TensorInfo info in source.Names.Select(source.Info))
            {
                cancellation.ThrowIfCancellationRequested();
                if (linears.TryGetValue(info.Name, out bool transposed))
                {
                    using PackedMatrix packed = Read(source, info.Name, transposed, type);
                    Write(writer, info.Name, packed);
                }
                else
                {
                    writer.Copy(info.Name, source);
                }

                task.Advance(info.ByteCount);
            }

            using (PackedSource packed = PackedSource.Of(writer.OpenPending()))
            using (var read = new StreamedModel(config, packed))
            {
                difference = LogitComparison.Between(model, read).Relative;
            }

            EspalierException.Require(difference <= tolerance,
                $"Packed, {folder} does not answer as before: logits differ by {difference:G3} of their size where {PackedTypes.WordOf(type)} allows {tolerance}; nothing was written, use a larger type for this model.");
            CompanionFiles.Copy(CompanionFiles.All, folder, output);
            writer.Commit();
        }

        return new PackReport(linears.Count, source.TotalBytes, plan.Sum(t => t.ByteCount), totals.Zeros / (double)Math.Max(1, totals.Weights), totals.Bytes * 8.0 / Math.Max(1, totals.Weights), difference, tolerance, ReaderMatrix.OfPacked(difference));
    }

    /// <summary>Writes a packed model's tensors dense: packed floats in their own type, packed integers as the float32 numbers they stand for.</summary>
    /// <param name="folder">The packed model.</param>
    /// <param name="output">The output folder; not the packed model's own.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work before anything has its final name.</param>
    /// <exception cref="EspalierException">When the folder is not packed, or damaged.</exception>
    public static UnpackReport Unpack(string folder, string output, IProgressSink progress, CancellationToken cancellation = default)
    {
        RequireOther(folder, output);
        using PackedSource source = PackedSource.Open(folder);
        TensorInfo[] plan = [.. source.Names.Select(source.Info)];
        using var model = new StreamedModel(ModelConfig.Load(folder), source);
        double difference;
        using (IProgressTask task = progress.Begin("unpacking", plan.Sum(t => t.ByteCount), "B"))
        using (CheckpointWriter writer = CheckpointWriter.Create(output, plan))
        {
            foreach (TensorInfo info in plan)
            {
                cancellation.ThrowIfCancellationRequested();
                using Tensor dense = source.Read(info.Name);
                writer.Write(info.Name, dense);
                task.Advance(info.ByteCount);
            }

            using (Checkpoint written = writer.OpenPending())
            using (var read = new StreamedModel(model.Config, written))
            {
                difference = LogitComparison.Between(model, read).Largest;
            }

            // The same numbers in another form.
            EspalierException.Require(difference < 1e-4, $"Unpacked, {folder} does not answer as before (logits differ by {difference:G3}); the disk is at fault, nothing was written.");
            CompanionFiles.Copy(CompanionFiles.All, folder, output);
            writer.Commit();
        }

        return new UnpackReport(plan.Sum(t => t.ByteCount), difference, ReaderMatrix.OfCheckpoint(output, difference));
    }

    private sealed record Totals(long Weights, long Zeros, long Bytes);

    private static void RequireOther(string folder, string output) => EspalierException.Require(
        Path.GetFullPath(folder).TrimEnd(Path.DirectorySeparatorChar) != Path.GetFullPath(output).TrimEnd(Path.DirectorySeparatorChar),
        $"The output folder {output} is the model itself; name another folder.");

    /// <summary>The weights of the blocks' linear maps, and whether the checkpoint holds them as [in, out].</summary>
    private static Dictionary<string, bool> Linears(ModelConfig config)
    {
        Architecture family = Architecture.For(config);
        var names = new Dictionary<string, bool>(StringComparer.Ordinal);
        for (int i = 0; i < config.LayerCount; i++)
        {
            using DecoderBlock block = family.CreateBlock(config, i, Placement.Meta);
            foreach (BlockLinear linear in block.Linears)
            {
                names.Add(linear.Name, linear.Linear.Layout is WeightLayout.InOut);
            }
        }

        return names;
    }

    private static (List<TensorInfo> Plan, Dictionary<string, string> Metadata, Totals Totals) Plan(
        Checkpoint source, Dictionary<string, bool> linears, PackedType type, IProgressSink progress, CancellationToken cancellation)
    {
        var plan = new List<TensorInfo>();
        var metadata = new Dictionary<string, string> { ["format"] = PackedSource.Format };
        long weights = 0, zeros = 0, bytes = 0;
        using IProgressTask task = progress.Begin("counting zeros", linears.Count, "weight");
        foreach (TensorInfo info in source.Names.Select(source.Info))
        {
            cancellation.ThrowIfCancellationRequested();
            if (!linears.TryGetValue(info.Name, out bool transposed))
            {
                plan.Add(info);
                continue;
            }

            using PackedMatrix packed = Read(source, info.Name, transposed, type);
            metadata[PackedSource.Matrix + info.Name] = new PackedSource.Entry(type, packed.Rows, packed.Columns, transposed).ToString();
            plan.Add(ElementTypes.Plan(info.Name + PackedSource.Stream, "U8", packed.StreamBytes));
            plan.Add(ElementTypes.Plan(info.Name + PackedSource.Rows, "I32", packed.Rows + 1));
            if (type is PackedType.Int8)
            {
                plan.Add(ElementTypes.Plan(info.Name + PackedSource.Scales, "F32", packed.Rows));
            }

            weights += info.ElementCount;
            zeros += info.ElementCount - packed.Kept;
            bytes += packed.StoredBytes;
            task.Advance();
        }

        return (plan, metadata, new Totals(weights, zeros, bytes));
    }

    private static unsafe PackedMatrix Read(Checkpoint source, string name, bool transposed, PackedType type)
    {
        using var scope = NewDisposeScope();
        Tensor dense = source.Read(name, ScalarType.Float32);
        dense = transposed ? dense.t().contiguous() : dense;
        try
        {
            return PackedMatrix.Pack(TensorMemory.Pointer<float>(dense), (int)dense.shape[0], (int)dense.shape[1], type);
        }
        catch (EspalierException fault)
        {
            throw new EspalierException($"{name} cannot be packed. {fault.Message}", fault);
        }
    }

    private static unsafe void Write(CheckpointWriter writer, string name, PackedMatrix packed)
    {
        EspalierException.Require(packed.StreamBytes <= int.MaxValue, $"The weight {name} takes {packed.StreamBytes} bytes packed, more than the 2 GB that one tensor may have here; use a smaller type.");
        writer.WriteBytes(name + PackedSource.Stream, new ReadOnlySpan<byte>(packed.Stream, (int)packed.StreamBytes));
        writer.WriteBytes(name + PackedSource.Rows, System.Runtime.InteropServices.MemoryMarshal.AsBytes(packed.RowWords));
        if (packed.Type is PackedType.Int8)
        {
            writer.WriteBytes(name + PackedSource.Scales, System.Runtime.InteropServices.MemoryMarshal.AsBytes(packed.Scales));
        }
    }
}
