namespace Espalier.Sparsity.Packed;

/// <summary>The products of rows of one code and type with arranged inputs, in the instructions of one set.</summary>
internal abstract unsafe class RowKernel
{
    /// <summary>Two rows with one vector: two streams are in flight, and each input is loaded once.</summary>
    /// <param name="first">A row.</param>
    /// <param name="second">Another row (or the same).</param>
    /// <param name="columns">The width of the matrix.</param>
    /// <param name="x">The input.</param>
    /// <param name="ahead">The rows that come next: what is to be fetched into the cache meanwhile, where <see cref="ReadsAhead"/>.</param>
    /// <returns>Both products, without the rows' own scales.</returns>
    public abstract (float First, float Second) Pair(byte* first, byte* second, int columns, PackedInput x, byte* ahead);

    /// <summary>Whether <see cref="Pair"/> itself fetches the rows that come next.</summary>
    public virtual bool ReadsAhead => false;

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
