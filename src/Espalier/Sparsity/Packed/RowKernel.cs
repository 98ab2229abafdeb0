using System.Runtime.CompilerServices;

namespace Espalier.Sparsity.Packed;

/// <summary>The products of rows of one code and type with arranged inputs, in the instructions of one set.</summary>
internal abstract unsafe class RowKernel
{
    /// <summary>Rows with one vector.</summary>
    /// <param name="rows">The rows, the input and where the products go.</param>
    /// <param name="first">The first of the rows.</param>
    /// <param name="end">Where they end.</param>
    public abstract void Rows(in RowSet rows, int first, int end);

    /// <summary>One row with four vectors.</summary>
    /// <param name="row">The row.</param>
    /// <param name="columns">The width of the matrix.</param>
    /// <param name="x">The inputs.</param>
    /// <param name="from">The first of the four.</param>
    /// <param name="products">The four products, without the row's own scale.</param>
    public abstract void Four(byte* row, int columns, PackedInput x, int from, float* products);

    /// <summary>One row as dense float32 weights.</summary>
    /// <param name="row">The row.</param>
    /// <param name="scale">Its own scale; 1 for none.</param>
    /// <param name="columns">The width of the matrix.</param>
    /// <param name="to">Room for all columns.</param>
    public void Expand(byte* row, float scale, int columns, float* to)
    {
        int blocks = RowCodec.Blocks(columns), rest = columns % RowCodec.Block;
        if (rest == 0)
        {
            ExpandBlocks(row, scale, blocks, to, to + (blocks - 1) * (long)RowCodec.Block);
            return;
        }

        float* last = stackalloc float[RowCodec.Block];
        ExpandBlocks(row, scale, blocks, to, last);
        new ReadOnlySpan<float>(last, rest).CopyTo(new Span<float>(to + columns - rest, rest));
    }

    /// <summary>Writes all blocks of a row but the last one after another, and the last elsewhere.</summary>
    protected abstract void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last);
}

/// <summary>Kernels that take two rows with one vector: two streams are in flight, and each input is loaded once.</summary>
internal abstract unsafe class PairKernel : RowKernel
{
    public sealed override void Rows(in RowSet rows, int first, int end)
    {
        for (int i = first; i < end; i += 2)
        {
            int a = rows.Row(i), b = rows.Row(Math.Min(i + 1, end - 1));
            byte* ahead = rows.Ahead(i + 2, end);
            if (!ReadsAhead && rows.Which is null)
            {
                ReadAhead.Range(ahead, rows.Ahead(i + 4, end));
            }

            (float one, float two) = Pair(rows.At(a), rows.At(b), rows.X, ahead + ReadAhead.Lead);
            rows.Output[a] = one * rows.Scales[a];
            rows.Output[b] = two * rows.Scales[b];
        }
    }

    /// <summary>Whether <see cref="Pair"/> itself fetches the rows that come next.</summary>
    protected virtual bool ReadsAhead => false;

    /// <summary>Two rows, which may be the same.</summary>
    /// <param name="first">A row.</param>
    /// <param name="second">Another row.</param>
    /// <param name="x">The input.</param>
    /// <param name="ahead">The rows that come next: what is to be fetched into the cache meanwhile, where <see cref="ReadsAhead"/>.</param>
    /// <returns>Both products, without the rows' own scales.</returns>
    protected abstract (float First, float Second) Pair(byte* first, byte* second, PackedInput x, byte* ahead);
}

/// <summary>Rows of a packed matrix on their way to products with one vector.</summary>
internal readonly unsafe struct RowSet
{
    /// <summary>The matrix's stream.</summary>
    public required byte* Stream { get; init; }

    /// <summary>Where rows begin in it, in words of 8 bytes, and where the last one ends.</summary>
    public required int* Starts { get; init; }

    /// <summary>The rows' own scales.</summary>
    public required float* Scales { get; init; }

    /// <summary>The numbers of the rows; null for all.</summary>
    public int* Which { get; init; }

    /// <summary>The products, by row.</summary>
    public required float* Output { get; init; }

    /// <summary>The vector, arranged.</summary>
    public required PackedInput X { get; init; }

    /// <summary>The number of the i-th row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public int Row(int i) => Which is null ? i : Which[i];

    /// <summary>The first byte of a row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* At(int row) => Stream + Starts[row] * 8L;

    /// <summary>Where the i-th row begins, or the last one of a share ends.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* Ahead(int i, int end) => Which is null ? At(Math.Min(i, end)) : At(Which[Math.Min(i, end - 1)]);
}
