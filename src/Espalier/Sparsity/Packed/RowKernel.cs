namespace Espalier.Sparsity.Packed;

/// <summary>The products of rows of one type with arranged inputs, in the instructions of one set.</summary>
internal abstract unsafe class RowKernel
{
    /// <summary>Two rows with one vector: two streams are in flight, and each input is loaded once.</summary>
    /// <param name="first">A row.</param>
    /// <param name="second">Another row (or the same).</param>
    /// <param name="columns">The width of the matrix.</param>
    /// <param name="x">The input.</param>
    /// <returns>Both products, without the rows' own scales.</returns>
    public abstract (float First, float Second) Pair(byte* first, byte* second, int columns, PackedInput x);

    /// <summary>One row with four vectors.</summary>
    /// <param name="row">The row.</param>
    /// <param name="columns">The width of the matrix.</param>
    /// <param name="x">The inputs.</param>
    /// <param name="from">The first of the four.</param>
    /// <param name="products">The four products, without the row's own scale.</param>
    public abstract void Four(byte* row, int columns, PackedInput x, int from, float* products);
}

/// <summary>Plain code for every type: what the others are measured against, and what runs where there are no vector instructions for them.</summary>
internal sealed unsafe class ScalarKernel(PackedType type) : RowKernel
{
    public override (float First, float Second) Pair(byte* first, byte* second, int columns, PackedInput x) =>
        (One(first, columns, x, 0), One(second, columns, x, 0));

    public override void Four(byte* row, int columns, PackedInput x, int from, float* products)
    {
        for (int c = 0; c < 4; c++)
        {
            products[c] = One(row, columns, x, from + c);
        }
    }

    private float One(byte* row, int columns, PackedInput x, int vector)
    {
        byte* values = row + RowCodec.HeaderBytes(type, columns);
        double sum = 0;
        for (int b = 0; b < x.Blocks; b++)
        {
            long at = (vector * (long)x.Blocks + b) * RowCodec.Block;
            ulong mask = ((ulong*)row)[b];
            int count = System.Numerics.BitOperations.PopCount(mask);
            double dot = 0;
            for (int i = 0; i < count; i++, mask &= mask - 1)
            {
                int j = System.Numerics.BitOperations.TrailingZeroCount(mask);
                dot += RowCodec.Value(type, values, i) * (double)(type switch
                {
                    PackedType.Int8 or PackedType.Int4 => x.Codes[at + j],
                    PackedType.Float32 => x.Values[at + j],
                    _ => x.Values[at + (j & 1) * 32 + (j >> 1)],
                });
            }

            sum += type switch
            {
                PackedType.Int8 => dot * x.Scales[vector * x.Blocks + b],
                PackedType.Int4 => dot * x.Scales[vector * x.Blocks + b] * Quantiser.FromBFloat16(((ushort*)(row + x.Blocks * 8))[b]),
                _ => dot,
            };
            values += RowCodec.ValueBytes(type, count);
        }

        return (float)sum;
    }
}
