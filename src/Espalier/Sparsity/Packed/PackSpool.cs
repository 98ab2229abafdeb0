using System.Runtime.InteropServices;
using Espalier.Checkpoints;
using Espalier.Runtime;

namespace Espalier.Sparsity.Packed;

/// <summary>Packed matrices in a file beside the output until all sizes are known, so that each weight is read and packed once.</summary>
internal sealed class PackSpool : IDisposable
{
    private readonly FileStream file;
    private readonly List<TensorInfo> plan = [];
    private readonly HashSet<string> packed = new(StringComparer.Ordinal);

    private PackSpool(FileStream file) => this.file = file;

    /// <summary>What the output will hold.</summary>
    public IReadOnlyList<TensorInfo> Plan => plan;

    /// <summary>The strings of its headers.</summary>
    public Dictionary<string, string> Metadata { get; } = new() { ["format"] = PackedSource.Format };

    /// <summary>Begins one beside an output folder; the file goes with the object.</summary>
    public static PackSpool Create(string output)
    {
        string path = Path.GetFullPath(output).TrimEnd(Path.DirectorySeparatorChar) + $".{Guid.NewGuid().ToString("N")[..8]}.packing";
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            return new PackSpool(new FileStream(path, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None, 1 << 20, FileOptions.DeleteOnClose));
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            throw new EspalierException($"{path} cannot be written, where packed weights wait until the model is whole: {fault.Message}", fault);
        }
    }

    /// <summary>A tensor that is copied from the source.</summary>
    public void Copy(TensorInfo info) => plan.Add(info);

    /// <summary>A packed matrix.</summary>
    public unsafe void Add(string name, PackedMatrix matrix, bool transposed)
    {
        EspalierException.Require(matrix.StreamBytes <= int.MaxValue, $"The weight {name} takes {matrix.StreamBytes} bytes packed, more than the 2 GB that one tensor may have here; use a smaller type.");
        Metadata[PackedSource.Matrix + name] = new PackedSource.Entry(matrix.Code, matrix.Type, matrix.Rows, matrix.Columns, transposed).ToString();
        Put(ElementTypes.Plan(name + PackedSource.Stream, "U8", matrix.StreamBytes), new ReadOnlySpan<byte>(matrix.Stream, (int)matrix.StreamBytes));
        Put(ElementTypes.Plan(name + PackedSource.Rows, "I32", matrix.Rows + 1), MemoryMarshal.AsBytes(matrix.RowWords));
        if (matrix.HasRowScales)
        {
            Put(ElementTypes.Plan(name + PackedSource.Scales, "F32", matrix.Rows), MemoryMarshal.AsBytes(matrix.Scales));
        }
    }

    /// <summary>Writes everything in the order in which it came.</summary>
    public void Write(CheckpointWriter writer, Checkpoint source, CancellationToken cancellation)
    {
        file.Position = 0;
        byte[] bytes = [];
        foreach (TensorInfo info in plan)
        {
            cancellation.ThrowIfCancellationRequested();
            if (!packed.Contains(info.Name))
            {
                writer.Copy(info.Name, source);
                continue;
            }

            int length = (int)info.ByteCount;
            bytes = bytes.Length < length ? new byte[length] : bytes;
            file.ReadExactly(bytes, 0, length);
            writer.WriteBytes(info.Name, bytes.AsSpan(0, length));
        }
    }

    /// <inheritdoc/>
    public void Dispose() => file.Dispose();

    private void Put(TensorInfo info, ReadOnlySpan<byte> bytes)
    {
        try
        {
            file.Write(bytes);
        }
        catch (IOException fault)
        {
            throw new EspalierException($"{file.Name} cannot be written, where packed weights wait until the model is whole: {fault.Message}", fault);
        }

        packed.Add(info.Name);
        plan.Add(info);
    }
}
