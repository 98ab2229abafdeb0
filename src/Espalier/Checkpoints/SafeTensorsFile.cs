using System.Buffers.Binary;
using System.IO.MemoryMappedFiles;
using Espalier.Runtime;
using Microsoft.Win32.SafeHandles;
using static TorchSharp.torch;

namespace Espalier.Checkpoints;

/// <summary>
/// A safetensors file open for reading. Its header is checked in full when it is opened; tensors are read one at a time.
/// </summary>
/// <remarks>
/// <para><see cref="Read"/> copies through positioned reads, so a file that is cut short while it is open gives an error and not a
/// crash; <see cref="Bytes(string)"/> shows the mapped file itself, without a copy.</para>
/// <para>The file may be replaced (renamed over) while it is open: what was opened stays readable. After <see cref="Dispose"/>
/// nothing holds the file. Reading is safe from several threads at once; disposing while another thread reads is not.</para>
/// </remarks>
public sealed class SafeTensorsFile : ITensorSource, IDisposable
{
    private readonly SafeFileHandle handle;
    private readonly long fileLength;
    private readonly SafeTensorsHeader header;
    private readonly Dictionary<string, StoredTensor> tensors;
    private readonly Lock mapping = new();
    private MemoryMappedFile? map;
    private MemoryMappedViewAccessor? view;
    private unsafe byte* mapped;
    private bool disposed;

    private SafeTensorsFile(string path, SafeFileHandle handle)
    {
        Path = path;
        this.handle = handle;
        fileLength = RandomAccess.GetLength(handle);
        header = ReadHeader();
        tensors = header.Tensors.ToDictionary(tensor => tensor.Info.Name, StringComparer.Ordinal);
        Names = header.Tensors.Select(tensor => tensor.Info.Name).ToArray();
    }

    /// <summary>The path it was opened by.</summary>
    public string Path { get; }

    /// <summary>The strings that the writer left in the header ("format" = "pt"); empty when there are none.</summary>
    public IReadOnlyDictionary<string, string> Metadata => header.Metadata;

    /// <inheritdoc/>
    public IReadOnlyList<string> Names { get; }

    /// <summary>The bytes of all tensors together.</summary>
    public long TotalBytes => header.Tensors.Sum(tensor => tensor.Info.ByteCount);

    /// <summary>Opens a file and checks its header.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="EspalierException">When it is missing, unreadable, pickled, or not a sound safetensors file; the sentence names it.</exception>
    public static SafeTensorsFile Open(string path)
    {
        Pickles.Refuse(path);
        SafeFileHandle handle;
        try
        {
            // Delete is shared so that a new version may be renamed over the file while it is being read.
            handle = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            throw new EspalierException($"The file {path} cannot be opened for reading ({fault.Message.TrimEnd('.')}); check the path and its permissions.", fault);
        }

        try
        {
            return new SafeTensorsFile(path, handle);
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    /// <summary>Writes tensors into one file, in the types they have, all or nothing.</summary>
    /// <param name="path">The file; an older one is replaced when the new one is complete.</param>
    /// <param name="tensors">Names and tensors.</param>
    /// <param name="metadata">Strings for the header; null for none.</param>
    /// <exception cref="EspalierException">When a name comes twice or the file cannot be written; an older file is left as it was.</exception>
    public static void Save(string path, IEnumerable<(string Name, Tensor Tensor)> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        (string Name, Tensor Tensor)[] all = tensors.ToArray();
        TensorInfo[] plan = all.Select(item => ElementTypes.Plan(item.Name, item.Tensor.dtype, item.Tensor.shape)).ToArray();
        using var writer = SafeTensorsWriter.Create(path, plan, metadata);
        foreach ((string name, Tensor tensor) in all)
        {
            writer.Write(name, tensor);
        }

        writer.Commit();
    }

    /// <inheritdoc/>
    public bool Contains(string name) => tensors.ContainsKey(name);

    /// <inheritdoc/>
    public TensorInfo Info(string name) => Find(name).Info;

    /// <inheritdoc/>
    public Tensor Read(string name, ScalarType? type = null)
    {
        StoredTensor stored = Find(name);
        ScalarType storedType = ElementTypes.ScalarTypeOf(stored.Info.ElementType);
        Tensor raw = empty(stored.Info.Shape.ToArray(), dtype: storedType, device: CPU);
        try
        {
            TensorBytes.ForEachPiece(raw, (piece, offset) => Fill(piece, stored.Offset + offset, name));
            if (type is null || type == storedType)
            {
                return raw;
            }

            Tensor converted = raw.to(type.Value);
            raw.Dispose();
            return converted;
        }
        catch
        {
            raw.Dispose();
            throw;
        }
    }

    /// <summary>A tensor's bytes as they lie in the file, without a copy.</summary>
    /// <param name="name">Its name.</param>
    /// <returns>Memory that is valid until <see cref="Dispose"/>, and as long as nobody shortens the file in place.</returns>
    /// <exception cref="EspalierException">When there is no such tensor or it is larger than 2 GB.</exception>
    public ReadOnlySpan<byte> Bytes(string name)
    {
        long count = Find(name).Info.ByteCount;
        EspalierException.Require(
            count <= int.MaxValue,
            $"Tensor '{name}' in {Path} has {count} bytes, too many for one piece; read it in pieces with an offset.");
        return Bytes(name, 0, (int)count);
    }

    /// <summary>Some of a tensor's bytes as they lie in the file, without a copy.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="offset">The first byte, counted from the tensor's.</param>
    /// <param name="count">How many.</param>
    /// <returns>Memory that is valid until <see cref="Dispose"/>.</returns>
    /// <exception cref="ArgumentOutOfRangeException">When the tensor has fewer bytes.</exception>
    public unsafe ReadOnlySpan<byte> Bytes(string name, long offset, int count)
    {
        StoredTensor stored = Find(name);
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, stored.Info.ByteCount - count);
        if (count == 0)
        {
            return default;
        }

        lock (mapping)
        {
            Map();
            return new ReadOnlySpan<byte>(mapped + stored.Offset + offset, count);
        }
    }

    /// <summary>Closes the file; bytes shown by <see cref="Bytes(string)"/> are gone.</summary>
    public unsafe void Dispose()
    {
        disposed = true;
        if (mapped is not null)
        {
            view!.SafeMemoryMappedViewHandle.ReleasePointer();
            mapped = null;
        }

        view?.Dispose();
        map?.Dispose();
        handle.Dispose();
    }

    /// <summary>Copies a tensor's bytes from somewhere inside it; reads without mapping.</summary>
    internal void ReadBytes(string name, long offset, Span<byte> into) => Fill(into, Find(name).Offset + offset, name);

    private unsafe void Map()
    {
        if (mapped is not null)
        {
            return;
        }

        if (RandomAccess.GetLength(handle) < fileLength)
        {
            throw SafeTensorsHeader.Unsound(Path, "it was cut short after it had been opened");
        }

        // The stream does not own the handle's life: positioned reads go on beside the map.
        map = MemoryMappedFile.CreateFromFile(handle, null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: true);
        view = map.CreateViewAccessor(0, fileLength, MemoryMappedFileAccess.Read);
        byte* pointer = null;
        view.SafeMemoryMappedViewHandle.AcquirePointer(ref pointer);
        mapped = pointer + view.PointerOffset;
    }

    private SafeTensorsHeader ReadHeader()
    {
        if (fileLength < SafeTensorsHeader.PrefixLength)
        {
            throw SafeTensorsHeader.Unsound(Path, $"it has {fileLength} bytes, fewer than the 8 that every such file begins with");
        }

        Span<byte> prefix = stackalloc byte[SafeTensorsHeader.PrefixLength];
        Fill(prefix, 0, "__header__");
        int length = SafeTensorsHeader.CheckLength(Path, BinaryPrimitives.ReadUInt64LittleEndian(prefix), fileLength);
        byte[] json = new byte[length];
        Fill(json, SafeTensorsHeader.PrefixLength, "__header__");
        return SafeTensorsHeader.Parse(Path, json, fileLength);
    }

    private void Fill(Span<byte> buffer, long position, string name)
    {
        while (!buffer.IsEmpty)
        {
            int count;
            try
            {
                count = RandomAccess.Read(handle, buffer, position);
            }
            catch (IOException fault)
            {
                throw new EspalierException($"Reading '{name}' from {Path} failed ({fault.Message.TrimEnd('.')}); check the disk it lies on.", fault);
            }

            if (count == 0)
            {
                throw SafeTensorsHeader.Unsound(Path, $"it ends inside '{name}': it was cut short after it had been opened");
            }

            buffer = buffer[count..];
            position += count;
        }
    }

    private StoredTensor Find(string name)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        return tensors.TryGetValue(name, out StoredTensor? stored)
            ? stored
            : throw new EspalierException($"There is no tensor '{name}' in {Path}{Nearest.To(name, Names)}.");
    }
}
