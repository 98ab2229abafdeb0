using System.Numerics;
using Espalier.Runtime;
using TorchSharp;
using static TorchSharp.torch;
using NativeMemory = System.Runtime.InteropServices.NativeMemory;

namespace Espalier.Sparsity.Packed;

/// <summary>
/// A weight matrix [rows = out, columns = in] that holds only some of its columns, row by row: places and values in one stream
/// (docs/packed-format.md). It lives in memory of its own, outside the collector's.
/// </summary>
/// <remarks>Reading and multiplying are safe from several threads at once.</remarks>
public sealed unsafe class PackedMatrix : IDisposable
{
    private readonly int[] rowWords;
    private readonly float[] scales;
    private byte* stream;

    private PackedMatrix(MatrixCode code, PackedType type, int rows, int columns, int[] rowWords, float[] scales)
    {
        (Code, Type, Rows, Columns, this.rowWords, this.scales) = (code, type, rows, columns, rowWords, scales);
        StreamBytes = rowWords[^1] * 8L + RowCodec.Padding;
        stream = (byte*)NativeMemory.AlignedAlloc((nuint)StreamBytes, 64);
    }

    /// <summary>How it says which columns are stored.</summary>
    public MatrixCode Code { get; }

    /// <summary>The type of the values.</summary>
    public PackedType Type { get; }

    /// <summary>The number of outputs.</summary>
    public int Rows { get; }

    /// <summary>The number of inputs.</summary>
    public int Columns { get; }

    /// <summary>The bytes of masks, values and per-block scales, with the padding behind the last row.</summary>
    public long StreamBytes { get; }

    /// <summary>All bytes that are stored for it: the stream, where rows begin, and the scales of rows.</summary>
    public long StoredBytes => StreamBytes + rowWords.Length * 4L + (HasRowScales ? scales.Length * 4L : 0);

    /// <summary>Stored bits per weight of the dense matrix.</summary>
    public double BitsPerWeight => Rows * (long)Columns == 0 ? 0 : StoredBytes * 8.0 / (Rows * (double)Columns);

    /// <summary>Whether <see cref="Scales"/> says anything.</summary>
    internal bool HasRowScales => RowCodec.HasRowScales(Code, Type);

    /// <summary>Where rows begin, in words of 8 bytes; one more than there are rows.</summary>
    internal ReadOnlySpan<int> RowWords => rowWords;

    /// <summary>A scale per row (int8 that is not dense); 1 elsewhere.</summary>
    internal ReadOnlySpan<float> Scales => scales;

    /// <summary>The stream's address.</summary>
    internal byte* Stream
    {
        get
        {
            RequireOpen();
            return stream;
        }
    }

    /// <summary>Packs a matrix. A weight that is not zero is kept, also where the type rounds it to zero.</summary>
    /// <param name="weights">[rows, columns], row by row.</param>
    /// <param name="rows">The number of outputs.</param>
    /// <param name="columns">The number of inputs.</param>
    /// <param name="type">How values are stored.</param>
    /// <param name="code">How places are named; null: the code that takes the fewest bytes.</param>
    /// <exception cref="EspalierException">When a weight is not finite or too large for the type, or the code has no room for the weights.</exception>
    public static PackedMatrix Pack(ReadOnlySpan<float> weights, int rows, int columns, PackedType type, MatrixCode? code = null)
    {
        if (weights.Length != (long)rows * columns)
        {
            throw new ArgumentException($"{weights.Length} weights are not {rows} x {columns}.", nameof(weights));
        }

        fixed (float* first = weights)
        {
            return Pack(first, rows, columns, type, code);
        }
    }

    internal static PackedMatrix Pack(float* weights, int rows, int columns, PackedType type, MatrixCode? asked)
    {
        MatrixPlan plan = MatrixPlan.Make(weights, rows, columns, type, asked);
        var packed = new PackedMatrix(plan.Code, type, rows, columns, plan.RowWords, new float[rows]) { Zeros = plan.Zeros };
        NativeMemory.Clear(packed.stream, (nuint)packed.StreamBytes);
        Parallel.For(0, rows, () => new ulong[RowCodec.Blocks(columns)], (r, _, masks) =>
        {
            var row = new ReadOnlySpan<float>(weights + (long)r * columns, columns);
            RowCodec.Masks(row, masks);
            packed.scales[r] = RowCodec.Encode(plan.Code, type, row, masks, packed.stream + plan.RowWords[r] * 8L);
            return masks;
        }, _ => { });
        return packed;
    }

    /// <summary>Takes a matrix from its stored parts and checks them: no content of a file makes a kernel read elsewhere.</summary>
    /// <exception cref="EspalierException">Where the parts contradict each other.</exception>
    internal static PackedMatrix FromParts(string name, MatrixCode code, PackedType type, int rows, int columns, int[] rowWords, float[]? scales, long streamBytes, Action<PackedMatrix> fill)
    {
        void Sound(bool condition, string what) =>
            EspalierException.Require(condition, $"The packed weight {name} is damaged: {what}; pack the model again.");
        Sound(MatrixCodes.Has(code, type), $"there is no {MatrixCodes.WordOf(code)} code of {PackedTypes.WordOf(type)}");
        Sound(rowWords.Length == rows + 1 && rowWords[0] == 0, $"it has {rowWords.Length - 1} row positions for {rows} rows");
        Sound(rowWords.Zip(rowWords.Skip(1)).All(p => p.First <= p.Second), "its row positions are not ascending");
        Sound(streamBytes == rowWords[^1] * 8L + RowCodec.Padding, $"its stream has {streamBytes} bytes where its rows need {rowWords[^1] * 8L + RowCodec.Padding}");
        Sound(!RowCodec.HasRowScales(code, type) || (scales is not null && scales.Length == rows && scales.All(float.IsFinite)), "its scales are not one finite number per row");
        if (scales is null)
        {
            scales = new float[rows];
            Array.Fill(scales, 1);
        }

        var packed = new PackedMatrix(code, type, rows, columns, rowWords, scales);
        try
        {
            fill(packed);
            int blocks = RowCodec.Blocks(columns);
            ulong unused = columns % RowCodec.Block == 0 ? 0 : ~0ul << (columns % RowCodec.Block);
            for (int r = 0; r < rows; r++)
            {
                long length = (rowWords[r + 1] - rowWords[r]) * 8L;
                byte* row = packed.stream + rowWords[r] * 8L;
                Sound(length >= RowCodec.HeaderBytes(code, type, columns), $"row {r} is too short for its masks");
                ReadOnlySpan<ulong> masks = code is MatrixCode.Bitmask ? new(row, blocks) : [];
                Sound(length == RowCodec.RowBytes(code, type, columns, masks), $"the length of row {r} does not fit its masks");
                Sound(masks.Length == 0 || (masks[^1] & unused) == 0, $"row {r} keeps columns beyond {columns}");
                for (int b = 0; code is MatrixCode.TwoOfFour && b < blocks; b++)
                {
                    Sound(BitOperations.PopCount(RowCodec.Mask(code, row, b)) == RowCodec.Block / 2, $"a group of row {r} has a code that names no columns");
                }
            }

            return packed;
        }
        catch
        {
            packed.Dispose();
            throw;
        }
    }

    /// <summary>How many values are stored for columns of the matrix.</summary>
    public long Kept
    {
        get
        {
            long kept = 0;
            ulong last = Columns % RowCodec.Block == 0 ? ~0ul : ~(~0ul << (Columns % RowCodec.Block));
            int blocks = RowCodec.Blocks(Columns);
            for (int r = 0; r < Rows; r++)
            {
                for (int b = 0; b < blocks; b++)
                {
                    kept += BitOperations.PopCount(RowCodec.Mask(Code, Stream + rowWords[r] * 8L, b) & (b == blocks - 1 ? last : ~0ul));
                }
            }

            return kept;
        }
    }

    /// <summary>How many weights were zero when it was packed; 0 for one that was read.</summary>
    internal long Zeros { get; private init; }

    /// <summary>The whole matrix as a dense float32 tensor [rows, columns]; the caller disposes it.</summary>
    public Tensor ToTensor()
    {
        Tensor dense = torch.empty([Rows, Columns], dtype: torch.float32);
        float* to = TensorMemory.Pointer<float>(dense);
        for (int r = 0; r < Rows; r++)
        {
            Unpack(r, new Span<float>(to + (long)r * Columns, Columns));
        }

        return dense;
    }

    /// <summary>One row as dense weights.</summary>
    /// <param name="row">Its number.</param>
    /// <param name="weights">Room for all columns.</param>
    public void Unpack(int row, Span<float> weights)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)row, (uint)Rows, nameof(row));
        ArgumentOutOfRangeException.ThrowIfNotEqual(weights.Length, Columns, nameof(weights));
        RowCodec.Decode(Code, Type, Stream + rowWords[row] * 8L, scales[row], weights);
    }

    internal void RequireOpen() => ObjectDisposedException.ThrowIf(stream is null, this);

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.AlignedFree(stream);
        stream = null;
    }
}
