using System.Buffers;
using System.Buffers.Binary;
using System.Text.Encodings.Web;
using System.Text.Json;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Checkpoints;

/// <summary>
/// Writes one safetensors file, tensor by tensor, all or nothing: it grows under a temporary name, and <see cref="Commit"/> flushes
/// it to the disk and renames it over the target. Disposing the writer without a commit leaves the target as it was.
/// </summary>
/// <remarks>Tensors may come in any order. In the file the wide element types come first, so that every tensor lies aligned.</remarks>
public sealed class SafeTensorsWriter : IDisposable
{
    private readonly PendingFile pending;
    private readonly Dictionary<string, StoredTensor> waiting = new(StringComparer.Ordinal);
    private readonly HashSet<string> written = new(StringComparer.Ordinal);

    private SafeTensorsWriter(string path, IReadOnlyList<TensorInfo> plan, IReadOnlyDictionary<string, string>? metadata, IFileLayer layer)
    {
        Path = path;
        (byte[] header, IReadOnlyList<StoredTensor> placed) = Layout(path, plan, metadata);
        foreach (StoredTensor tensor in placed)
        {
            waiting.Add(tensor.Info.Name, tensor);
        }

        long length = placed.Count == 0 ? header.Length : placed[^1].Offset + placed[^1].Info.ByteCount;
        pending = new PendingFile(path, length, layer);
        try
        {
            pending.Write(stream =>
            {
                stream.SetLength(length);
                stream.Position = 0;
                stream.Write(header);
            });
        }
        catch
        {
            pending.Dispose();
            throw;
        }
    }

    /// <summary>The file that a commit puts in place.</summary>
    public string Path { get; }

    /// <summary>Begins a file.</summary>
    /// <param name="path">The file; its folder is made when there is none.</param>
    /// <param name="plan">What will be written (see <see cref="ElementTypes.Plan(string, ScalarType, IReadOnlyList{long})"/>).</param>
    /// <param name="metadata">Strings for the header; null for none.</param>
    /// <exception cref="EspalierException">When the plan names a tensor twice, or the disk has no room or cannot be written.</exception>
    public static SafeTensorsWriter Create(string path, IReadOnlyList<TensorInfo> plan, IReadOnlyDictionary<string, string>? metadata = null) =>
        new(path, plan, metadata, FileSystem.Instance);

    /// <summary>Writes one tensor, converted to the planned type.</summary>
    /// <param name="name">A planned name that was not written yet.</param>
    /// <param name="tensor">The tensor, on any device, of the planned shape.</param>
    /// <exception cref="EspalierException">When name or shape are not the planned ones, or the disk refuses.</exception>
    public void Write(string name, Tensor tensor)
    {
        StoredTensor place = Take(name);
        using Tensor ready = TensorBytes.Prepare(tensor, place.Info);
        pending.Write(stream => TensorBytes.ForEachPiece(ready, (piece, offset) => Put(stream, place.Offset + offset, piece)));
        Done(name);
    }

    /// <summary>Writes one tensor from its finished bytes (little endian, rows first).</summary>
    /// <param name="name">A planned name that was not written yet.</param>
    /// <param name="bytes">Exactly as many bytes as planned.</param>
    /// <exception cref="EspalierException">When name or length are not the planned ones, or the disk refuses.</exception>
    public unsafe void WriteBytes(string name, ReadOnlySpan<byte> bytes)
    {
        StoredTensor place = Take(name);
        EspalierException.Require(
            bytes.Length == place.Info.ByteCount,
            $"Tensor '{name}' comes with {bytes.Length} bytes but {place.Info.ByteCount} were planned.");
        fixed (byte* first = bytes)
        {
            nint address = (nint)first;
            int length = bytes.Length;
            pending.Write(stream => Put(stream, place.Offset, new ReadOnlySpan<byte>((void*)address, length)));
        }

        Done(name);
    }

    /// <summary>Copies one tensor's bytes from a file, unchanged and without a size limit.</summary>
    /// <param name="name">A planned name that was not written yet, and its name in the file.</param>
    /// <param name="source">The file that has it, in the planned type and shape.</param>
    /// <exception cref="EspalierException">When it is stored otherwise there, or the disk refuses.</exception>
    public void Copy(string name, SafeTensorsFile source)
    {
        StoredTensor place = Take(name);
        TensorInfo there = source.Info(name);
        EspalierException.Require(
            there.ElementType == place.Info.ElementType && there.Shape.SequenceEqual(place.Info.Shape),
            $"Tensor '{name}' is {there.ElementType} [{string.Join(", ", there.Shape)}] in {source.Path} but {place.Info.ElementType} [{string.Join(", ", place.Info.Shape)}] was planned.");
        byte[] buffer = ArrayPool<byte>.Shared.Rent(1 << 20);
        try
        {
            for (long done = 0; done < there.ByteCount;)
            {
                int count = (int)Math.Min(buffer.Length, there.ByteCount - done);
                source.ReadBytes(name, done, buffer.AsSpan(0, count));
                long position = place.Offset + done;
                pending.Write(stream => Put(stream, position, buffer.AsSpan(0, count)));
                done += count;
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }

        Done(name);
    }

    /// <summary>Flushes the file to the disk and puts it in place of the target in one step.</summary>
    /// <exception cref="EspalierException">When a planned tensor was not written, or the disk refuses; the target is then as it was.</exception>
    public void Commit()
    {
        Finish();
        Publish();
    }

    /// <summary>Closes the writer; without a commit the temporary file is removed.</summary>
    public void Dispose() => pending.Dispose();

    /// <summary>The name it has until it is published.</summary>
    internal string TemporaryPath => pending.TemporaryPath;

    /// <summary>Begins a file through another file layer.</summary>
    internal static SafeTensorsWriter Create(string path, IReadOnlyList<TensorInfo> plan, IReadOnlyDictionary<string, string>? metadata, IFileLayer layer) =>
        new(path, plan, metadata, layer);

    /// <summary>The first half of a commit: everything is on the disk under the temporary name, and the file is closed.</summary>
    internal void Finish()
    {
        if (waiting.Count > 0)
        {
            string some = string.Join(", ", waiting.Keys.Take(3).Select(name => $"'{name}'"));
            throw new EspalierException($"{Path} is not complete: {waiting.Count} planned tensors were not written ({some}).");
        }

        pending.Finish();
    }

    /// <summary>The second half of a commit: the name.</summary>
    internal void Publish(string? otherName = null) => pending.Publish(otherName);

    private static void Put(Stream stream, long position, ReadOnlySpan<byte> bytes)
    {
        stream.Position = position;
        stream.Write(bytes);
    }

    private StoredTensor Take(string name)
    {
        EspalierException.Require(!written.Contains(name), $"Tensor '{name}' was written to {Path} twice.");
        return waiting.TryGetValue(name, out StoredTensor? place)
            ? place
            : throw new EspalierException($"Tensor '{name}' was not planned for {Path}.");
    }

    private void Done(string name)
    {
        waiting.Remove(name);
        written.Add(name);
    }

    private static (byte[] Header, IReadOnlyList<StoredTensor> Placed) Layout(
        string path, IReadOnlyList<TensorInfo> plan, IReadOnlyDictionary<string, string>? metadata)
    {
        var names = new HashSet<string>(StringComparer.Ordinal) { "__metadata__" };
        var placed = new List<StoredTensor>(plan.Count);
        long offset = 0;
        foreach (TensorInfo info in plan.OrderByDescending(info => ElementTypes.SizeOf(info.ElementType)))
        {
            EspalierException.Require(names.Add(info.Name), $"Tensor '{info.Name}' is planned twice for {path}, or has a name that is taken.");
            EspalierException.Require(
                ElementTypes.TryByteCount(info.ElementType, info.Shape, out long bytes) && bytes == info.ByteCount,
                $"Tensor '{info.Name}' is planned for {path} with {info.ByteCount} bytes, which its type {info.ElementType} and shape [{string.Join(", ", info.Shape)}] do not give.");
            placed.Add(new StoredTensor(info, offset));
            offset = checked(offset + bytes);
        }

        byte[] header = WriteHeader(path, placed, metadata);
        return (header, placed.ConvertAll(tensor => tensor with { Offset = tensor.Offset + header.Length }));
    }

    /// <summary>The length, the JSON and the spaces that bring the data to a multiple of eight bytes.</summary>
    private static byte[] WriteHeader(string path, List<StoredTensor> placed, IReadOnlyDictionary<string, string>? metadata)
    {
        var buffer = new ArrayBufferWriter<byte>(1024);
        // Names go out readable ("é", "+"): nothing here is put into a web page.
        using (var json = new Utf8JsonWriter(buffer, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            if (metadata is { Count: > 0 })
            {
                json.WriteStartObject("__metadata__");
                foreach ((string key, string value) in metadata.OrderBy(pair => pair.Key, StringComparer.Ordinal))
                {
                    json.WriteString(key, value);
                }

                json.WriteEndObject();
            }

            foreach (StoredTensor tensor in placed)
            {
                json.WriteStartObject(tensor.Info.Name);
                json.WriteString("dtype", tensor.Info.ElementType);
                WriteNumbers(json, "shape", tensor.Info.Shape);
                WriteNumbers(json, "data_offsets", [tensor.Offset, tensor.Offset + tensor.Info.ByteCount]);
                json.WriteEndObject();
            }

            json.WriteEndObject();
        }

        const int Prefix = SafeTensorsHeader.PrefixLength;
        int padded = (buffer.WrittenCount + 7) / 8 * 8;
        EspalierException.Require(
            padded <= SafeTensorsHeader.MaximumLength,
            $"The header of {path} would have {padded} bytes, more than the 100 MB that the format allows; write several files.");
        byte[] header = new byte[Prefix + padded];
        BinaryPrimitives.WriteUInt64LittleEndian(header, (ulong)padded);
        buffer.WrittenSpan.CopyTo(header.AsSpan(Prefix));
        header.AsSpan(Prefix + buffer.WrittenCount).Fill((byte)' ');
        return header;
    }

    private static void WriteNumbers(Utf8JsonWriter json, string name, IEnumerable<long> numbers)
    {
        json.WriteStartArray(name);
        foreach (long number in numbers)
        {
            json.WriteNumberValue(number);
        }

        json.WriteEndArray();
    }
}
