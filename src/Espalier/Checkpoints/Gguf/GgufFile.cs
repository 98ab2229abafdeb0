using Espalier.Runtime;
using Microsoft.Win32.SafeHandles;
using static TorchSharp.torch;

namespace Espalier.Checkpoints.Gguf;

/// <summary>A GGUF file (versions 2 and 3) open for reading, tensor by tensor; quantised tensors are read as float32.</summary>
public sealed class GgufFile : ITensorSource, IDisposable
{
    /// <summary>The ending of such files.</summary>
    public const string Extension = ".gguf";

    private const int PieceBlocks = 1 << 16;
    private readonly SafeFileHandle handle;
    private readonly Dictionary<string, (GgufTensor Tensor, long Offset)> tensors = new(StringComparer.Ordinal);

    private GgufFile(string path)
    {
        Path = path;
        try
        {
            handle = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            throw new EspalierException($"The file {path} cannot be opened for reading ({fault.Message.TrimEnd('.')}); check the path and its permissions.", fault);
        }

        try
        {
            using var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, 1 << 16);
            Metadata = ReadHead(new GgufCursor(path, stream));
        }
        catch
        {
            handle.Dispose();
            throw;
        }

        Names = [.. tensors.Keys];
    }

    /// <summary>The path it was opened by.</summary>
    public string Path { get; }

    /// <summary>Keys and values of its head.</summary>
    public GgufMetadata Metadata { get; }

    /// <inheritdoc/>
    public IReadOnlyList<string> Names { get; }

    /// <summary>Opens a file and checks its head.</summary>
    /// <exception cref="EspalierException">When it is missing or no sound GGUF file.</exception>
    public static GgufFile Open(string path) => new(path);

    /// <inheritdoc/>
    public bool Contains(string name) => tensors.ContainsKey(name);

    /// <summary>Type and shape of a tensor.</summary>
    public GgufTensor Tensor(string name) => Find(name).Tensor;

    /// <inheritdoc/>
    public TensorInfo Info(string name)
    {
        GgufTensor tensor = Tensor(name);
        return new TensorInfo(name, GgufTypes.NameOf(tensor.Type), tensor.Shape, tensor.ByteCount);
    }

    /// <inheritdoc/>
    public Tensor Read(string name, ScalarType? type = null)
    {
        (GgufTensor tensor, long offset) = Find(name);
        using var scope = NewDisposeScope();
        Tensor value = empty([.. tensor.Shape], dtype: GgufTypes.ScalarTypeOf(tensor.Type), device: CPU);
        if (GgufTypes.IsQuantized(tensor.Type))
        {
            ReadBlocks(value, tensor, offset);
        }
        else
        {
            TensorBytes.ForEachPiece(value, (piece, at) => Fill(piece, offset + at, name));
        }

        return (type is { } wanted ? value.to(wanted) : value).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose() => handle.Dispose();

    private void ReadBlocks(Tensor value, GgufTensor tensor, long offset)
    {
        Tensor flat = value.view(-1);
        int size = GgufTypes.BlockBytes(tensor.Type);
        byte[] bytes = new byte[PieceBlocks * size];
        for (long start = 0; start < flat.NumberOfElements; start += (long)PieceBlocks * GgufTypes.BlockLength)
        {
            using Tensor piece = flat.narrow(0, start, Math.Min((long)PieceBlocks * GgufTypes.BlockLength, flat.NumberOfElements - start));
            float[] values = new float[piece.NumberOfElements];
            Span<byte> read = bytes.AsSpan(0, values.Length / GgufTypes.BlockLength * size);
            Fill(read, offset + (start / GgufTypes.BlockLength * size), tensor.Name);
            GgufTypes.Decode(tensor.Type, read, values);
            System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()).CopyTo(piece.bytes);
        }
    }

    private GgufMetadata ReadHead(GgufCursor cursor)
    {
        cursor.Require(cursor.Left >= 24 && cursor.Number32() == GgufWriter.Magic, "it does not begin with \"GGUF\"");
        uint version = cursor.Number32();
        cursor.Require(version is 2 or 3, $"its version is {version}; 2 and 3 can be read");
        (ulong tensorCount, ulong entryCount) = (cursor.Number64(), cursor.Number64());
        cursor.Require(tensorCount <= (ulong)cursor.Left && entryCount <= (ulong)cursor.Left, $"it claims {tensorCount} tensors and {entryCount} entries, more than it has bytes");
        GgufMetadata metadata = GgufMetadata.Read(cursor, entryCount);
        long alignment = metadata.Find("general.alignment") is uint given ? given : GgufWriter.Alignment;
        cursor.Require(alignment is > 0 and <= 1 << 20, $"its alignment is {alignment}");
        var found = new List<(GgufTensor Tensor, ulong Offset)>();
        for (ulong i = 0; i < tensorCount; i++)
        {
            found.Add(ReadTensor(cursor));
        }

        long start = (cursor.Position + alignment - 1) / alignment * alignment, length = RandomAccess.GetLength(handle);
        foreach ((GgufTensor tensor, ulong offset) in found)
        {
            cursor.Require((UInt128)(ulong)start + offset + (ulong)tensor.ByteCount <= (ulong)length, $"tensor '{tensor.Name}' ends beyond the end of the file: the file was cut short, or its head lies");
            cursor.Require(tensors.TryAdd(tensor.Name, (tensor, start + (long)offset)), $"it names tensor '{tensor.Name}' twice");
        }

        return metadata;
    }

    private static (GgufTensor Tensor, ulong Offset) ReadTensor(GgufCursor cursor)
    {
        string name = cursor.Text();
        uint dimensions = cursor.Number32();
        cursor.Require(dimensions <= 4, $"tensor '{name}' claims {dimensions} dimensions");
        long[] shape = new long[dimensions];
        UInt128 count = 1;
        for (int i = shape.Length - 1; i >= 0; i--)
        {
            ulong size = cursor.Number64();
            count *= Math.Max(size, 1);
            cursor.Require(size <= long.MaxValue && count <= 1UL << 60, $"the shape of tensor '{name}' overflows");
            shape[i] = (long)size;
        }

        uint number = cursor.Number32();
        GgufType? type = GgufTypes.Known(number);
        EspalierException.Require(type is not null, $"Tensor '{name}' has the GGUF type number {number}, which cannot be read; known are {string.Join(", ", Enum.GetNames<GgufType>())}.");
        cursor.Require(GgufTypes.ByteCount(type.Value, shape) is not null, $"the rows of tensor '{name}' do not fall into the blocks of its type {type}");
        return (new GgufTensor(name, type.Value, shape), cursor.Number64());
    }

    private void Fill(Span<byte> buffer, long position, string name)
    {
        while (!buffer.IsEmpty)
        {
            int count = RandomAccess.Read(handle, buffer, position);
            EspalierException.Require(count > 0, $"{Path} ends inside '{name}': it was cut short after it had been opened; export it anew.");
            buffer = buffer[count..];
            position += count;
        }
    }

    private (GgufTensor Tensor, long Offset) Find(string name) => tensors.TryGetValue(name, out (GgufTensor, long) found)
        ? found
        : throw new EspalierException($"There is no tensor '{name}' in {Path}{Nearest.To(name, Names)}.");
}
