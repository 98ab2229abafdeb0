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
/// <param name="Zeros">The share of zeros in the weights of blocks.</param>
/// <param name="BitsPerWeight">Stored bits per dense weight of the blocks.</param>
/// <param name="Codes">How many matrices of blocks have each code.</param>
/// <param name="HeadBitsPerWeight">Stored bits per weight of the token table and the head; 0 where they are not packed.</param>
/// <param name="LogitDifference">The size of the difference of logits between the re-opened packed model and the source, over the size of the source's logits.</param>
/// <param name="LogitTolerance">The most that the type allows.</param>
/// <param name="Readers">Which programs load it.</param>
public sealed record PackReport(int Weights, long DenseBytes, long PackedBytes, double Zeros, double BitsPerWeight, IReadOnlyDictionary<string, int> Codes, double HeadBitsPerWeight, double LogitDifference, double LogitTolerance, IReadOnlyList<ReaderEntry> Readers);

/// <summary>What unpacking a model came to.</summary>
/// <param name="Bytes">All its tensors.</param>
/// <param name="LogitDifference">The largest difference of logits from the packed model's when it was opened anew.</param>
/// <param name="Readers">Which programs load it.</param>
public sealed record UnpackReport(long Bytes, double LogitDifference, IReadOnlyList<ReaderEntry> Readers);

/// <summary>Packs a model and unpacks it again, one tensor in memory at a time; an output folder appears whole or not at all.</summary>
public static class Packer
{
    /// <summary>Packs the linear maps of the decoder blocks, and as dense matrices the token table and an untied head; norms, biases and positions stay as they are.</summary>
    /// <param name="folder">The model.</param>
    /// <param name="options">How.</param>
    /// <param name="output">The output folder; not the model's own.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Ends the work before anything has its final name.</param>
    /// <exception cref="EspalierException">For a model that is packed already, weights that the type or the code cannot hold, or an output that does not answer as its source.</exception>
    public static PackReport Pack(string folder, PackOptions options, string output, IProgressSink progress, CancellationToken cancellation = default)
    {
        RequireOther(folder, output);
        options.RequireSound();
        ModelConfig config = ModelConfig.Load(folder);
        using Checkpoint source = Checkpoint.Open(folder);
        EspalierException.Require(!PackedSource.IsPacked(source), $"{folder} is packed already; unpack it first, or pack the dense model.");
        using var model = new StreamedModel(config, source);
        Dictionary<string, Shape> shapes = Shapes(model.Config, options);
        long packedBytes;
        Totals totals;
        double tolerance = Math.Max(PackedTypes.Tolerance(options.Type), options.HeadType is { } head ? PackedTypes.Tolerance(head) : 0), difference;
        using (PackSpool spool = PackSpool.Create(output))
        {
            totals = Fill(spool, source, shapes, progress, cancellation);
            packedBytes = spool.Plan.Sum(t => t.ByteCount);
            using CheckpointWriter writer = CheckpointWriter.Create(output, spool.Plan, metadata: spool.Metadata);
            spool.Write(writer, source, cancellation);
            using (PackedSource packed = PackedSource.Of(writer.OpenPending()))
            using (var read = new StreamedModel(config, packed))
            {
                difference = LogitComparison.Between(model, read).Relative;
            }

            EspalierException.Require(difference <= tolerance,
                $"Packed as {options.Words}, {folder} does not answer as before: logits differ by {difference:G3} of their size where {tolerance} is allowed; nothing was written, use larger types for this model.");
            CompanionFiles.Copy(CompanionFiles.All, folder, output);
            writer.Commit();
        }

        return new PackReport(totals.Count, source.TotalBytes, packedBytes, totals.Zeros / (double)Math.Max(1, totals.Weights), totals.Bytes * 8.0 / Math.Max(1, totals.Weights),
            totals.Codes, totals.HeadBytes * 8.0 / Math.Max(1, totals.HeadWeights), difference, tolerance, ReaderMatrix.OfPacked(difference));
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

    /// <summary>How one tensor is packed.</summary>
    internal sealed record Shape(bool Transposed, bool IsHead, PackedType Type, MatrixCode? Code);

    private sealed class Totals
    {
        public int Count { get; set; }

        public long Weights { get; set; }

        public long Zeros { get; set; }

        public long Bytes { get; set; }

        public long HeadWeights { get; set; }

        public long HeadBytes { get; set; }

        public SortedDictionary<string, int> Codes { get; } = new(StringComparer.Ordinal);
    }

    private static void RequireOther(string folder, string output) => EspalierException.Require(
        Path.GetFullPath(folder).TrimEnd(Path.DirectorySeparatorChar) != Path.GetFullPath(output).TrimEnd(Path.DirectorySeparatorChar),
        $"The output folder {output} is the model itself; name another folder.");

    /// <summary>The weights of the blocks' linear maps, and whether the checkpoint holds them as [in, out].</summary>
    internal static Dictionary<string, bool> Linears(ModelConfig config)
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

    /// <summary>The weights that are packed: linear maps of blocks, the token table and a head of its own.</summary>
    internal static Dictionary<string, Shape> Shapes(ModelConfig config, PackOptions options)
    {
        Architecture family = Architecture.For(config);
        Dictionary<string, Shape> shapes = Linears(config).ToDictionary(l => l.Key, l => new Shape(l.Value, IsHead: false, options.Type, options.Code), StringComparer.Ordinal);
        if (options is { SkipInactive: true, Code: not MatrixCode.TwoOfFour } && Activations.GivesZeros(config.Activation))
        {
            foreach (string name in NeuronReaders(config))
            {
                shapes[name] = shapes[name] with { Transposed = !shapes[name].Transposed };
            }
        }

        if (options.HeadType is { } type)
        {
            using Embedding embedding = family.CreateEmbedding(config, Placement.Meta);
            using OutputHead head = family.CreateHead(config, embedding, Placement.Meta);
            foreach ((string name, _) in embedding.Tensors.Where(t => ReferenceEquals(t.Value, embedding.Tokens.weight))
                .Concat(head.Tensors.Where(t => ReferenceEquals(t.Value, head.Projection?.weight))))
            {
                shapes.Add(name, new Shape(Transposed: false, IsHead: true, type, MatrixCode.Dense));
            }
        }

        return shapes;
    }

    /// <summary>The weights that read neurons.</summary>
    private static List<string> NeuronReaders(ModelConfig config)
    {
        Architecture family = Architecture.For(config);
        var names = new List<string>();
        for (int i = 0; i < config.LayerCount; i++)
        {
            using DecoderBlock block = family.CreateBlock(config, i, Placement.Meta);
            names.AddRange(block.Groups.Where(g => g.Kind is CoupledKind.Neuron).Select(g => g.Reader.Tensor));
        }

        return names;
    }

    private static Totals Fill(PackSpool spool, Checkpoint source, Dictionary<string, Shape> shapes, IProgressSink progress, CancellationToken cancellation)
    {
        var totals = new Totals();
        using IProgressTask task = progress.Begin("packing", source.TotalBytes, "B");
        foreach (TensorInfo info in source.Names.Select(source.Info))
        {
            cancellation.ThrowIfCancellationRequested();
            if (!shapes.TryGetValue(info.Name, out Shape? shape))
            {
                spool.Copy(info);
                task.Advance(info.ByteCount);
                continue;
            }

            using PackedMatrix packed = Read(source, info.Name, shape.Transposed, shape.Type, shape.Code);
            spool.Add(info.Name, packed, shape.Transposed);
            totals.Count++;
            totals.HeadWeights += shape.IsHead ? info.ElementCount : 0;
            totals.HeadBytes += shape.IsHead ? packed.StoredBytes : 0;
            if (!shape.IsHead)
            {
                totals.Weights += info.ElementCount;
                totals.Zeros += packed.Zeros;
                totals.Bytes += packed.StoredBytes;
                string code = MatrixCodes.WordOf(packed.Code);
                totals.Codes[code] = totals.Codes.GetValueOrDefault(code) + 1;
            }

            task.Advance(info.ByteCount);
        }

        return totals;
    }

    internal static unsafe PackedMatrix Read(ITensorSource source, string name, bool transposed, PackedType type, MatrixCode? code = null)
    {
        using var scope = NewDisposeScope();
        Tensor dense = source.Read(name, ScalarType.Float32);
        dense = transposed ? dense.t().contiguous() : dense;
        try
        {
            return PackedMatrix.Pack(TensorMemory.Pointer<float>(dense), (int)dense.shape[0], (int)dense.shape[1], type, code);
        }
        catch (EspalierException fault)
        {
            throw new EspalierException($"{name} cannot be packed. {fault.Message}", fault);
        }
    }
}
