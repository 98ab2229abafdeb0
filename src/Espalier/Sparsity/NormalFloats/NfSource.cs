using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Sparsity.NormalFloats;

/// <summary>A model's folder whose matrices are in NormalFloat with a low-rank part beside, read as the dense tensors that they stand for.</summary>
/// <remarks>The format is docs/nf-format.md.</remarks>
public sealed class NfSource : ICompactSource, IDisposable
{
    /// <summary>What the metadata's <c>format</c> says.</summary>
    public const string Format = "espalier-nf-1";

    internal const string Matrix = "matrix:", Codes = ".nf_codes", Scales = ".nf_scales", Supers = ".nf_supers", OffsetPart = ".nf_offset", Left = ".low_out", Right = ".low_in";

    private static readonly string[] Parts = [Codes, Scales, Supers, OffsetPart, Left, Right];

    private readonly Checkpoint _checkpoint;
    private readonly Dictionary<string, Entry> _entries = new(StringComparer.Ordinal);

    private NfSource(Checkpoint checkpoint)
    {
        _checkpoint = checkpoint;
        foreach ((string key, string text) in checkpoint.Metadata.Where(m => m.Key.StartsWith(Matrix, StringComparison.Ordinal)))
        {
            string name = key[Matrix.Length..];
            Entry entry = Entry.Parse(name, text);
            string? missing = Parts[..(entry.Rank > 0 ? 6 : 4)].FirstOrDefault(p => !checkpoint.Contains(name + p));
            EspalierException.Require(missing is null, $"{checkpoint.Folder} names the quantised weight {name} but holds no {name}{missing}; write the model again.");
            RequireShape(name + OffsetPart, 1, null);
            if (entry.Rank > 0)
            {
                RequireShape(name + Left, entry.Rows, entry.Rank);
                RequireShape(name + Right, entry.Rank, entry.Columns);
            }

            EspalierException.Require(!checkpoint.Contains(name), $"{checkpoint.Folder} holds {name} quantised and dense; write the model again.");
            _entries.Add(name, entry);
        }

        Names = [.. checkpoint.Names.Where(n => !IsPart(n)), .. _entries.Keys];
    }

    /// <inheritdoc/>
    public IReadOnlyList<string> Names { get; }

    /// <summary>The names of the quantised weights.</summary>
    public IReadOnlyCollection<string> QuantisedNames => _entries.Keys;

    /// <summary>The bytes of all tensors as stored.</summary>
    public long TotalBytes => _checkpoint.TotalBytes;

    /// <summary>Whether a checkpoint is in this format.</summary>
    public static bool Is(Checkpoint checkpoint) => checkpoint.Metadata.GetValueOrDefault("format") == Format;

    /// <summary>Reads an opened checkpoint; it becomes this source's own.</summary>
    /// <param name="checkpoint">The checkpoint.</param>
    /// <exception cref="EspalierException">When it is damaged.</exception>
    internal static NfSource Of(Checkpoint checkpoint) => new(checkpoint);

    /// <summary>Opens a model's folder.</summary>
    /// <param name="path">The folder.</param>
    /// <exception cref="EspalierException">When it is in another format, or damaged.</exception>
    public static NfSource Open(string path)
    {
        Checkpoint checkpoint = Checkpoint.Open(path);
        try
        {
            EspalierException.Require(Is(checkpoint), $"{path} is no model in NormalFloat.");
            return new NfSource(checkpoint);
        }
        catch
        {
            checkpoint.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public bool Contains(string name) => _entries.ContainsKey(name) || (_checkpoint.Contains(name) && !IsPart(name));

    /// <inheritdoc/>
    public TensorInfo Info(string name) => _entries.TryGetValue(name, out Entry? entry)
        ? ElementTypes.Plan(name, ScalarType.Float32, entry.Transposed ? [entry.Columns, entry.Rows] : [entry.Rows, entry.Columns])
        : _checkpoint.Info(name);

    /// <inheritdoc/>
    /// <remarks>Matrices are kept as [out, in] whatever the layout.</remarks>
    public ICompactWeight? ReadCompact(string name, WeightLayout layout)
    {
        if (!_entries.TryGetValue(name, out Entry? entry))
        {
            return null;
        }

        EspalierException.Require(entry.Transposed == layout is WeightLayout.InOut, $"{name} was written for a model that stores it the other way round; write the model again.");
        NfMatrix quantised = ReadQuantised(name);
        if (entry.Rank == 0)
        {
            return quantised;
        }

        using var scope = NewDisposeScope();
        return new LowRankWeight(quantised, _checkpoint.Read(name + Left), _checkpoint.Read(name + Right));
    }

    /// <summary>Reads the quantised part of a weight.</summary>
    /// <param name="name">One of <see cref="QuantisedNames"/>.</param>
    /// <exception cref="EspalierException">When it is damaged.</exception>
    public NfMatrix ReadQuantised(string name)
    {
        Entry entry = _entries[name];
        using var scope = NewDisposeScope();
        float[] supers = [.. _checkpoint.Read(name + Supers, ScalarType.Float32).data<float>()];
        return new NfMatrix(entry.Format, entry.Rows, entry.Columns, Bytes(name + Codes), Bytes(name + Scales), supers, _checkpoint.Read(name + OffsetPart, ScalarType.Float32).item<float>());
    }

    /// <inheritdoc/>
    public Tensor Read(string name, ScalarType? type = null)
    {
        if (!_entries.TryGetValue(name, out Entry? entry))
        {
            return _checkpoint.Read(name, type);
        }

        using var scope = NewDisposeScope();
        using ICompactWeight weight = ReadCompact(name, entry.Transposed ? WeightLayout.InOut : WeightLayout.OutIn)!;
        Tensor dense = weight.ToDense();
        return (entry.Transposed ? dense.t().contiguous() : dense).to(type ?? ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose() => _checkpoint.Dispose();

    private bool IsPart(string name) => Parts.Any(p => name.EndsWith(p, StringComparison.Ordinal) && _entries.ContainsKey(name[..^p.Length]));

    // One number where only rows are asked for.
    private void RequireShape(string name, int rows, int? columns)
    {
        IReadOnlyList<long> shape = _checkpoint.Info(name).Shape;
        EspalierException.Require(columns is null ? shape.Aggregate(1L, (a, b) => a * b) == rows : shape.SequenceEqual([rows, columns.Value]),
            $"{name} in {_checkpoint.Folder} has the shape [{string.Join(", ", shape)}] where {(columns is null ? "one number" : $"[{rows}, {columns}]")} is needed; the file is damaged.");
    }

    private byte[] Bytes(string name)
    {
        SafeTensorsFile file = _checkpoint.FileOf(name);
        var bytes = new byte[file.Info(name).ByteCount];
        file.ReadBytes(name, 0, bytes);
        return bytes;
    }

    /// <summary>What the metadata says of a weight: "192x96 rank 8 nf3 u8 bf16 16x64", then "transposed" where the model stores [in, out].</summary>
    internal sealed record Entry(NfFormat Format, int Rows, int Columns, int Rank, bool Transposed)
    {
        private const string Turned = " transposed";

        public static Entry Parse(string name, string text)
        {
            bool turned = text.EndsWith(Turned, StringComparison.Ordinal);
            string[] words = (turned ? text[..^Turned.Length] : text).Split(' ', 4), sides = words[0].Split('x');
            int rows = 0, columns = 0, rank = 0;
            EspalierException.Require(
                words.Length == 4 && words[1] == "rank" && sides.Length == 2 && Number(sides[0], out rows) && Number(sides[1], out columns) && Number(words[2], out rank),
                $"The quantised weight {name} is described as '{text}' instead of, for example, '192x96 rank 8 nf3 u8 bf16 16x64'; the file is damaged.");
            return new Entry(NfFormat.Parse(words[3]), rows, columns, rank, turned);

            static bool Number(string word, out int value) => int.TryParse(word, NumberStyles.None, CultureInfo.InvariantCulture, out value);
        }

        public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Rows}x{Columns} rank {Rank} {Format}{(Transposed ? Turned : "")}");
    }
}
