using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Checkpoints.Gguf;

/// <summary>
/// Writes one GGUF file (version 3), tensor by tensor, all or nothing: it grows under a temporary name, and <see cref="Commit"/>
/// flushes it to the disk and renames it over the target.
/// </summary>
public sealed class GgufWriter : IDisposable
{
    /// <summary>Every tensor begins at a multiple of this many bytes.</summary>
    public const int Alignment = 32;

    internal const uint Magic = 0x46554747; // "GGUF"
    internal const uint Version = 3;
    private const long PieceElements = 4L << 20; // a multiple of the block length
    private readonly PendingFile pending;
    private readonly Dictionary<string, (GgufTensor Tensor, long Offset)> waiting = new(StringComparer.Ordinal);
    private readonly string path;

    private GgufWriter(string path, GgufMetadata metadata, IReadOnlyList<GgufTensor> plan, IFileLayer layer)
    {
        this.path = path;
        byte[] head = Head(metadata, plan);
        long offset = head.Length;
        foreach (GgufTensor tensor in plan)
        {
            EspalierException.Require(waiting.TryAdd(tensor.Name, (tensor, offset)), $"Tensor '{tensor.Name}' is planned twice for {path}.");
            offset = Aligned(offset + tensor.ByteCount);
        }

        pending = new PendingFile(path, offset, layer);
        try
        {
            pending.Write(stream =>
            {
                stream.SetLength(offset);
                stream.Position = 0;
                stream.Write(head);
            });
        }
        catch
        {
            pending.Dispose();
            throw;
        }
    }

    /// <summary>Begins a file.</summary>
    /// <param name="path">The file; its folder is made when there is none.</param>
    /// <param name="metadata">Keys and values.</param>
    /// <param name="plan">What will be written, in this order.</param>
    /// <exception cref="EspalierException">When a tensor is planned twice or cannot have its type, or the disk refuses.</exception>
    public static GgufWriter Create(string path, GgufMetadata metadata, IReadOnlyList<GgufTensor> plan) => new(path, metadata, plan, FileSystem.Instance);

    /// <summary>The same through another file layer.</summary>
    internal static GgufWriter Create(string path, GgufMetadata metadata, IReadOnlyList<GgufTensor> plan, IFileLayer layer) => new(path, metadata, plan, layer);

    /// <summary>Writes one tensor, converted to the planned type.</summary>
    /// <param name="name">A planned name that was not written yet.</param>
    /// <param name="tensor">The tensor, of the planned shape.</param>
    /// <exception cref="EspalierException">When name or shape are not the planned ones, a value is too large for the type, or the disk refuses.</exception>
    public void Write(string name, Tensor tensor)
    {
        EspalierException.Require(waiting.TryGetValue(name, out (GgufTensor Tensor, long Offset) place), $"Tensor '{name}' was not planned for {path}, or was written already.");
        EspalierException.Require(tensor.shape.AsSpan().SequenceEqual(place.Tensor.Shape.ToArray()),
            $"Tensor '{name}' has shape [{string.Join(", ", tensor.shape)}] but [{string.Join(", ", place.Tensor.Shape)}] was planned.");
        using var scope = NewDisposeScope();
        GgufType type = place.Tensor.Type;
        Tensor flat = tensor.detach().cpu().contiguous().view(-1);
        for (long start = 0, offset = place.Offset; start < flat.NumberOfElements; start += PieceElements)
        {
            using var pieceScope = NewDisposeScope();
            Tensor piece = flat.narrow(0, start, Math.Min(PieceElements, flat.NumberOfElements - start));
            byte[] bytes = Bytes(piece, type, name);
            long position = offset;
            pending.Write(stream =>
            {
                stream.Position = position;
                stream.Write(bytes);
            });
            offset += bytes.Length;
        }

        waiting.Remove(name);
    }

    /// <summary>Flushes the file to the disk and puts it in place of the target in one step.</summary>
    /// <exception cref="EspalierException">When a planned tensor was not written, or the disk refuses; the target is then as it was.</exception>
    public void Commit()
    {
        EspalierException.Require(waiting.Count == 0, $"{path} is not complete: {waiting.Count} planned tensors were not written ({string.Join(", ", waiting.Keys.Take(3))}).");
        pending.Publish();
    }

    /// <summary>Closes the writer; without a commit the temporary file is removed.</summary>
    public void Dispose() => pending.Dispose();

    internal static long Aligned(long offset) => (offset + Alignment - 1) / Alignment * Alignment;

    private static byte[] Bytes(Tensor piece, GgufType type, string name)
    {
        Tensor values = piece.to(ScalarType.Float32);
        EspalierException.Require(values.isfinite().all().item<bool>(), $"Tensor '{name}' holds values that are no finite numbers; the checkpoint is damaged.");
        if (GgufTypes.IsQuantized(type))
        {
            byte[] blocks = GgufTypes.Encode(type, values.data<float>().ToArray());
            for (int i = 0; i < blocks.Length; i += GgufTypes.BlockBytes(type))
            {
                EspalierException.Require(Half.IsFinite(BitConverter.ToHalf(blocks, i)), $"Tensor '{name}' holds values whose scale is too large for {type}; choose bf16 or f32.");
            }

            return blocks;
        }

        Tensor stored = values.to(GgufTypes.ScalarTypeOf(type));
        EspalierException.Require(type != GgufType.F16 || stored.isfinite().all().item<bool>(), $"Tensor '{name}' holds values too large for 16-bit floats (beyond 65504); choose bf16 or f32.");
        return stored.bytes.ToArray();
    }

    private static byte[] Head(GgufMetadata metadata, IReadOnlyList<GgufTensor> plan)
    {
        using var buffer = new MemoryStream();
        using var writer = new BinaryWriter(buffer);
        writer.Write(Magic);
        writer.Write(Version);
        writer.Write((ulong)plan.Count);
        writer.Write((ulong)metadata.Entries.Count);
        metadata.Write(writer);
        long offset = 0;
        foreach (GgufTensor tensor in plan)
        {
            GgufMetadata.WriteText(writer, tensor.Name);
            writer.Write((uint)tensor.Shape.Count);
            foreach (long size in tensor.Shape.Reverse())
            {
                writer.Write((ulong)size);
            }

            writer.Write((uint)tensor.Type);
            writer.Write((ulong)offset);
            offset = Aligned(offset + tensor.ByteCount);
        }

        buffer.SetLength(Aligned(buffer.Length));
        return buffer.ToArray();
    }
}
