using System.Globalization;
using System.Runtime.InteropServices;
using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity.NormalFloats;
using static TorchSharp.torch;

namespace Espalier.Sparsity.Packed;

/// <summary>A packed model's folder, read as the dense tensors that it stands for: everything that reads a checkpoint reads it.</summary>
/// <remarks>The format is docs/packed-format.md.</remarks>
public sealed unsafe class PackedSource : ICompactSource, IDisposable
{
    /// <summary>What the metadata's <c>format</c> says.</summary>
    public const string Format = "espalier-packed-1";

    internal const string Stream = ".packed", Rows = ".rows", Scales = ".scales", Matrix = "matrix:";

    private readonly Checkpoint checkpoint;
    private readonly Dictionary<string, Entry> entries = new(StringComparer.Ordinal);

    private PackedSource(Checkpoint checkpoint)
    {
        this.checkpoint = checkpoint;
        foreach ((string key, string text) in checkpoint.Metadata.Where(m => m.Key.StartsWith(Matrix, StringComparison.Ordinal)))
        {
            string name = key[Matrix.Length..];
            Entry entry = Entry.Parse(name, text);
            Require(name, Stream, "U8", null);
            Require(name, Rows, "I32", entry.Rows + 1);
            if (entry.HasRowScales)
            {
                Require(name, Scales, "F32", entry.Rows);
            }

            EspalierException.Require(!checkpoint.Contains(name), $"{checkpoint.Folder} holds {name} packed and dense; pack the model again.");
            entries.Add(name, entry);
        }

        Names = [.. checkpoint.Names
            .Select(n => n.EndsWith(Stream, StringComparison.Ordinal) && entries.ContainsKey(n[..^Stream.Length]) ? n[..^Stream.Length] : n)
            .Where(n => !IsPart(n, Rows) && !IsPart(n, Scales))];
    }

    /// <inheritdoc/>
    public IReadOnlyList<string> Names { get; }

    /// <summary>The names of the weights that are packed.</summary>
    public IReadOnlyCollection<string> PackedNames => entries.Keys;

    /// <summary>The bytes of all tensors as stored.</summary>
    public long TotalBytes => checkpoint.TotalBytes;

    /// <summary>Whether a checkpoint is packed.</summary>
    public static bool IsPacked(Checkpoint checkpoint) => checkpoint.Metadata.GetValueOrDefault("format") == Format;

    /// <summary>Opens a packed model's folder and checks what it names.</summary>
    /// <param name="path">The folder.</param>
    /// <exception cref="EspalierException">When it is not packed, or damaged.</exception>
    public static PackedSource Open(string path)
    {
        Checkpoint checkpoint = Checkpoint.Open(path);
        try
        {
            EspalierException.Require(IsPacked(checkpoint), $"{path} is no packed model; make one with `espalier pack`.");
            return new PackedSource(checkpoint);
        }
        catch
        {
            checkpoint.Dispose();
            throw;
        }
    }

    /// <summary>Reads an opened checkpoint as packed; it becomes this source's own.</summary>
    internal static PackedSource Of(Checkpoint checkpoint) => new(checkpoint);

    /// <summary>Opens a model's folder, packed, in NormalFloat or dense, for reading dense tensors; the caller disposes it.</summary>
    /// <param name="path">The folder.</param>
    public static ITensorSource OpenAny(string path)
    {
        Checkpoint checkpoint = Checkpoint.Open(path);
        if (NfSource.Is(checkpoint))
        {
            return NfSource.Of(checkpoint);
        }

        if (!IsPacked(checkpoint))
        {
            return checkpoint;
        }

        checkpoint.Dispose();
        return Open(path);
    }

    /// <inheritdoc/>
    public bool Contains(string name) => entries.ContainsKey(name) || (checkpoint.Contains(name) && Names.Contains(name));

    /// <inheritdoc/>
    public TensorInfo Info(string name) => entries.TryGetValue(name, out Entry? entry)
        ? ElementTypes.Plan(name, entry.DenseType, entry.Transposed ? [entry.Columns, entry.Rows] : [entry.Rows, entry.Columns])
        : checkpoint.Info(name);

    /// <inheritdoc/>
    public ICompactWeight? ReadCompact(string name, WeightLayout layout) =>
        entries.TryGetValue(name, out Entry? entry) ? new PackedWeight(ReadPacked(name), byInput: entry.Transposed != (layout is WeightLayout.InOut)) : null;

    /// <summary>Reads one weight as it is packed; the caller disposes it.</summary>
    /// <param name="name">One of <see cref="PackedNames"/>.</param>
    /// <exception cref="EspalierException">When it is damaged.</exception>
    public PackedMatrix ReadPacked(string name)
    {
        Entry entry = entries[name];
        float[]? scales = entry.HasRowScales ? Read<float>(name + Scales, entry.Rows) : null;
        SafeTensorsFile file = checkpoint.FileOf(name + Stream);
        long bytes = file.Info(name + Stream).ByteCount;
        return PackedMatrix.FromParts(name, entry.Code, entry.Type, entry.Rows, entry.Columns, Read<int>(name + Rows, entry.Rows + 1), scales, bytes, packed =>
        {
            const int piece = 16 << 20;
            for (long at = 0; at < bytes; at += piece)
            {
                file.ReadBytes(name + Stream, at, new Span<byte>(packed.Stream + at, (int)Math.Min(piece, bytes - at)));
            }
        });
    }

    /// <inheritdoc/>
    public Tensor Read(string name, ScalarType? type = null)
    {
        if (!entries.TryGetValue(name, out Entry? entry))
        {
            return checkpoint.Read(name, type);
        }

        using var scope = NewDisposeScope();
        using PackedMatrix packed = ReadPacked(name);
        Tensor dense = packed.ToTensor();
        return (entry.Transposed ? dense.t().contiguous() : dense).to(type ?? entry.DenseType).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose() => checkpoint.Dispose();

    private bool IsPart(string name, string suffix) => name.EndsWith(suffix, StringComparison.Ordinal) && entries.ContainsKey(name[..^suffix.Length]);

    private void Require(string name, string suffix, string type, int? count)
    {
        EspalierException.Require(checkpoint.Contains(name + suffix), $"{checkpoint.Folder} names the packed weight {name} but holds no {name + suffix}; pack the model again.");
        TensorInfo info = checkpoint.Info(name + suffix);
        EspalierException.Require(info.ElementType == type && info.Shape.Count == 1 && (count is null || info.Shape[0] == count),
            $"{name + suffix} in {checkpoint.Folder} is {info.ElementType} [{string.Join(", ", info.Shape)}] where {type} [{count?.ToString(CultureInfo.InvariantCulture) ?? "bytes"}] is needed; pack the model again.");
    }

    private T[] Read<T>(string name, int count)
        where T : unmanaged
    {
        var values = new T[count];
        checkpoint.FileOf(name).ReadBytes(name, 0, MemoryMarshal.AsBytes(values.AsSpan()));
        return values;
    }

    /// <summary>What the metadata says of a packed weight: "int4 2048x512", then "dense" or "2:4" where it has no bit masks, then "transposed" where the model stores [in, out].</summary>
    internal sealed record Entry(MatrixCode Code, PackedType Type, int Rows, int Columns, bool Transposed)
    {
        private const string Turned = "transposed";

        public ScalarType DenseType => Type switch { PackedType.BFloat16 => ScalarType.BFloat16, PackedType.Float16 => ScalarType.Float16, _ => ScalarType.Float32 };

        public bool HasRowScales => RowCodec.HasRowScales(Code, Type);

        public static Entry Parse(string name, string text)
        {
            string[] words = text.Split(' '), sides = words.Length > 1 ? words[1].Split('x') : [];
            bool turned = words.Length > 2 && words[^1] == Turned;
            string[] code = turned ? words[2..^1] : words.Length > 2 ? words[2..] : [];
            int rows = 0, columns = 0;
            EspalierException.Require(
                sides.Length == 2 && int.TryParse(sides[0], NumberStyles.None, CultureInfo.InvariantCulture, out rows) && rows < int.MaxValue
                && int.TryParse(sides[1], NumberStyles.None, CultureInfo.InvariantCulture, out columns) && columns <= int.MaxValue - 64 && code.Length <= 1,
                $"The packed weight {name} is described as '{text}' instead of, for example, 'int4 2048x512'; the file is damaged.");
            var entry = new Entry(code.Length == 0 ? MatrixCode.Bitmask : MatrixCodes.Parse(code[0]), PackedTypes.Parse(words[0]), rows, columns, turned);
            EspalierException.Require(MatrixCodes.Has(entry.Code, entry.Type), $"The packed weight {name} is described as '{text}', but there is no 2:4 code of {words[0]}; the file is damaged.");
            return entry;
        }

        public override string ToString() => string.Create(CultureInfo.InvariantCulture,
            $"{PackedTypes.WordOf(Type)} {Rows}x{Columns}{(Code is MatrixCode.Bitmask ? "" : " " + MatrixCodes.WordOf(Code))}{(Transposed ? " " + Turned : "")}");
    }
}
