using System.Text.Json;
using Espalier.Runtime;

namespace Espalier.Checkpoints;

/// <summary>A tensor's place in a safetensors file.</summary>
/// <param name="Info">Its name, type, shape and size.</param>
/// <param name="Offset">Where its first byte lies, counted from the start of the file.</param>
internal sealed record StoredTensor(TensorInfo Info, long Offset);

/// <summary>
/// The table of contents of a safetensors file. Nothing in it is believed before it was checked: a file that lies about its
/// sizes gets a sentence, never a read outside the file or an allocation that it asked for.
/// </summary>
internal sealed class SafeTensorsHeader
{
    /// <summary>The longest header the format allows, in bytes.</summary>
    public const int MaximumLength = 100_000_000;

    /// <summary>The bytes before the header: its length as a 64-bit little-endian number.</summary>
    public const int PrefixLength = 8;

    private readonly string path;
    private readonly List<StoredTensor> tensors = [];
    private readonly Dictionary<string, string> metadata = new(StringComparer.Ordinal);

    private SafeTensorsHeader(string path) => this.path = path;

    /// <summary>The tensors in the order in which they lie in the file.</summary>
    public IReadOnlyList<StoredTensor> Tensors => tensors;

    /// <summary>The strings under <c>__metadata__</c>.</summary>
    public IReadOnlyDictionary<string, string> Metadata => metadata;

    /// <summary>Checks the length that a file claims for its header.</summary>
    /// <param name="path">The file, for the sentence.</param>
    /// <param name="claimed">The number in its first eight bytes.</param>
    /// <param name="fileLength">The bytes the file really has.</param>
    /// <exception cref="EspalierException">When the file is shorter than that, or the number above the format's limit.</exception>
    public static int CheckLength(string path, ulong claimed, long fileLength)
    {
        if (claimed > MaximumLength)
        {
            throw Unsound(path, $"its first 8 bytes claim a header of {claimed} bytes, more than the 100 MB that the format allows");
        }

        if ((long)claimed > fileLength - PrefixLength)
        {
            throw Unsound(path, $"it claims a header of {claimed} bytes but only {fileLength - PrefixLength} follow: the file was cut short");
        }

        return (int)claimed;
    }

    /// <summary>Reads and checks a header.</summary>
    /// <param name="path">The file, for the sentences.</param>
    /// <param name="json">The header's bytes, without the length before them.</param>
    /// <param name="fileLength">The length of the whole file in bytes.</param>
    /// <exception cref="EspalierException">When anything in it is not as the format wants it.</exception>
    public static SafeTensorsHeader Parse(string path, ReadOnlySpan<byte> json, long fileLength)
    {
        var header = new SafeTensorsHeader(path);
        if (json.IsEmpty || json[0] != (byte)'{')
        {
            // Also keeps out files that are two formats at once.
            throw Unsound(path, "its header does not begin with '{'");
        }

        try
        {
            header.ReadEntries(json);
        }
        catch (Exception fault) when (fault is JsonException or InvalidOperationException)
        {
            // InvalidOperationException is how the reader reports bytes that are no UTF-8.
            throw new EspalierException(Sentence(path, $"its header is not valid JSON in UTF-8 ({fault.Message.TrimEnd('.')})"), fault);
        }

        header.CheckLayout(PrefixLength + json.Length, fileLength);
        return header;
    }

    /// <summary>The error for a file that is not as it should be.</summary>
    public static EspalierException Unsound(string path, string what) => new(Sentence(path, what));

    private static string Sentence(string path, string what) =>
        $"{path} is not a sound safetensors file: {what}; download it again or write it anew.";

    private void ReadEntries(ReadOnlySpan<byte> json)
    {
        var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = 16 });
        var seen = new HashSet<string>(StringComparer.Ordinal);
        reader.Read();
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string name = reader.GetString()!;
            if (!seen.Add(name))
            {
                throw Unsound(path, $"its header names '{name}' twice");
            }

            reader.Read();
            if (reader.TokenType != JsonTokenType.StartObject)
            {
                throw Unsound(path, $"the entry '{name}' of its header is not an object");
            }

            if (name == "__metadata__")
            {
                ReadMetadata(ref reader);
            }
            else
            {
                tensors.Add(ReadTensor(ref reader, name));
            }
        }

        // Anything after the closing brace but spaces is a fault, which this read reports.
        reader.Read();
    }

    private void ReadMetadata(ref Utf8JsonReader reader)
    {
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string key = reader.GetString()!;
            reader.Read();
            if (reader.TokenType != JsonTokenType.String)
            {
                throw Unsound(path, $"its metadata '{key}' is not a string");
            }

            if (!metadata.TryAdd(key, reader.GetString()!))
            {
                throw Unsound(path, $"its metadata names '{key}' twice");
            }
        }
    }

    private StoredTensor ReadTensor(ref Utf8JsonReader reader, string name)
    {
        string? elementType = null;
        List<long>? shape = null;
        List<long>? offsets = null;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string field = reader.GetString()!;
            reader.Read();
            bool again = false;
            switch (field)
            {
                case "dtype" when reader.TokenType == JsonTokenType.String:
                    again = elementType is not null;
                    elementType = reader.GetString();
                    break;
                case "shape":
                    again = shape is not null;
                    shape = ReadNumbers(ref reader, name, field);
                    break;
                case "data_offsets":
                    again = offsets is not null;
                    offsets = ReadNumbers(ref reader, name, field);
                    break;
                case "dtype":
                    throw Unsound(path, $"the dtype of tensor '{name}' is not a string");
                default:
                    reader.Skip();
                    break;
            }

            if (again)
            {
                throw Unsound(path, $"tensor '{name}' has two entries '{field}'");
            }
        }

        if (elementType is null || shape is null || offsets is null)
        {
            string missing = elementType is null ? "dtype" : shape is null ? "shape" : "data_offsets";
            throw Unsound(path, $"tensor '{name}' has no {missing}");
        }

        if (!ElementTypes.IsKnown(elementType))
        {
            throw Unsound(path, $"tensor '{name}' has the unknown dtype '{elementType}'");
        }

        return Place(name, elementType, shape, offsets);
    }

    private StoredTensor Place(string name, string elementType, List<long> shape, List<long> offsets)
    {
        if (!ElementTypes.TryByteCount(elementType, shape, out long bytes))
        {
            throw Unsound(path, $"the shape [{string.Join(", ", shape)}] of tensor '{name}' is negative or overflows");
        }

        if (offsets is not [long begin, long end] || begin < 0 || end < begin)
        {
            throw Unsound(path, $"the data_offsets [{string.Join(", ", offsets)}] of tensor '{name}' are not a begin and an end");
        }

        if (end - begin != bytes)
        {
            throw Unsound(path, $"tensor '{name}' ({elementType} [{string.Join(", ", shape)}]) needs {bytes} bytes but its data_offsets span {end - begin}");
        }

        return new StoredTensor(new TensorInfo(name, elementType, shape.AsReadOnly(), bytes), begin);
    }

    private List<long> ReadNumbers(ref Utf8JsonReader reader, string name, string field)
    {
        if (reader.TokenType != JsonTokenType.StartArray)
        {
            throw Unsound(path, $"the {field} of tensor '{name}' is not a list");
        }

        var numbers = new List<long>();
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            if (reader.TokenType != JsonTokenType.Number || !reader.TryGetInt64(out long number))
            {
                throw Unsound(path, $"the {field} of tensor '{name}' holds something that is not a whole number of 64 bits");
            }

            numbers.Add(number);
        }

        return numbers;
    }

    /// <summary>The data must be covered without a hole or an overlap; offsets become positions in the file.</summary>
    private void CheckLayout(long dataStart, long fileLength)
    {
        tensors.Sort((a, b) => a.Offset != b.Offset ? a.Offset.CompareTo(b.Offset) : a.Info.ByteCount.CompareTo(b.Info.ByteCount));
        long dataLength = fileLength - dataStart;
        long covered = 0;
        for (int i = 0; i < tensors.Count; i++)
        {
            StoredTensor tensor = tensors[i];
            if ((UInt128)tensor.Offset + (UInt128)tensor.Info.ByteCount > (UInt128)dataLength)
            {
                throw Unsound(path, $"tensor '{tensor.Info.Name}' ends beyond the end of the file: the file was cut short, or its header lies");
            }

            if (tensor.Offset != covered)
            {
                string what = tensor.Offset < covered ? "overlaps the tensor before it" : "leaves a hole before it";
                throw Unsound(path, $"tensor '{tensor.Info.Name}' {what}");
            }

            covered += tensor.Info.ByteCount;
            tensors[i] = tensor with { Offset = dataStart + tensor.Offset };
        }

        if (covered != dataLength)
        {
            throw Unsound(path, $"{dataLength - covered} bytes at its end belong to no tensor");
        }
    }
}
