using System.Numerics;

namespace Espalier.Sparsity.Packed;

/// <summary>
/// One row of a packed matrix as bytes (docs/packed-format.md): a 64-bit mask per 64 columns, in int4 then a bfloat16 scale per 64
/// columns, then the kept values in the order of their columns (int4: two in a byte, the lower half first; each 64 columns begin on a byte),
/// then zeros up to a multiple of 8 bytes. Everything is little-endian.
/// </summary>
internal static unsafe class RowCodec
{
    /// <summary>The columns of a mask word.</summary>
    public const int Block = 64;

    /// <summary>Bytes behind the last row that a kernel may read, zeros.</summary>
    public const int Padding = 64;

    public static int Blocks(int columns) => (columns + Block - 1) / Block;

    /// <summary>Where the values begin.</summary>
    public static int HeaderBytes(PackedType type, int columns) => Blocks(columns) * (type is PackedType.Int4 ? 10 : 8);

    /// <summary>The bytes of one block's values.</summary>
    public static int ValueBytes(PackedType type, int kept) => type switch
    {
        PackedType.Float32 => kept * 4,
        PackedType.BFloat16 or PackedType.Float16 => kept * 2,
        PackedType.Int8 => kept,
        _ => (kept + 1) / 2,
    };

    /// <summary>The bytes of a row, from its masks.</summary>
    public static long RowBytes(PackedType type, int columns, ReadOnlySpan<ulong> masks)
    {
        long bytes = HeaderBytes(type, columns);
        foreach (ulong mask in masks)
        {
            bytes += ValueBytes(type, BitOperations.PopCount(mask));
        }

        return (bytes + 7) & ~7L;
    }

    /// <summary>The masks of a row: bit j of word b is set where column 64 b + j is not zero.</summary>
    public static void Masks(ReadOnlySpan<float> row, Span<ulong> masks)
    {
        masks.Clear();
        for (int j = 0; j < row.Length; j++)
        {
            masks[j / Block] |= (row[j] != 0 ? 1ul : 0ul) << (j % Block);
        }
    }

    /// <summary>Writes a row; the memory holds zeros before.</summary>
    /// <param name="type">The type of the values.</param>
    /// <param name="row">The weights.</param>
    /// <param name="masks">Its masks.</param>
    /// <param name="to">Room for the row.</param>
    /// <returns>The row's scale (int8), else 1.</returns>
    public static float Encode(PackedType type, ReadOnlySpan<float> row, ReadOnlySpan<ulong> masks, byte* to)
    {
        masks.CopyTo(new Span<ulong>(to, masks.Length));
        byte* values = to + HeaderBytes(type, row.Length);
        float scale = type is PackedType.Int8 ? Quantiser.Int8RowScale(row) : 1;
        Span<float> kept = stackalloc float[Block];
        for (int b = 0; b < masks.Length; b++)
        {
            int count = 0;
            for (ulong mask = masks[b]; mask != 0; mask &= mask - 1)
            {
                kept[count++] = row[b * Block + BitOperations.TrailingZeroCount(mask)];
            }

            Span<float> block = kept[..count];
            switch (type)
            {
                case PackedType.Float32:
                    block.CopyTo(new Span<float>(values, count));
                    break;
                case PackedType.BFloat16:
                    for (int i = 0; i < count; i++)
                    {
                        ((ushort*)values)[i] = Quantiser.ToBFloat16(block[i]);
                    }

                    break;
                case PackedType.Float16:
                    for (int i = 0; i < count; i++)
                    {
                        ((Half*)values)[i] = (Half)block[i];
                    }

                    break;
                case PackedType.Int8:
                    for (int i = 0; i < count; i++)
                    {
                        values[i] = (byte)Quantiser.Code(block[i], scale, 127, 127);
                    }

                    break;
                default:
                    ushort stored = Quantiser.Int4Scale(block);
                    ((ushort*)(to + masks.Length * 8))[b] = stored;
                    for (int i = 0; i < count; i++)
                    {
                        values[i / 2] |= (byte)((Quantiser.Code(block[i], Quantiser.FromBFloat16(stored), 8, 7) & 15) << (i % 2 * 4));
                    }

                    break;
            }

            values += ValueBytes(type, count);
        }

        return scale;
    }

    /// <summary>Reads a row back.</summary>
    /// <param name="type">The type of the values.</param>
    /// <param name="from">The row.</param>
    /// <param name="scale">Its scale (int8).</param>
    /// <param name="row">The weights, all columns.</param>
    public static void Decode(PackedType type, byte* from, float scale, Span<float> row)
    {
        row.Clear();
        int blocks = Blocks(row.Length);
        byte* values = from + HeaderBytes(type, row.Length);
        for (int b = 0; b < blocks; b++)
        {
            ulong mask = ((ulong*)from)[b];
            int count = BitOperations.PopCount(mask);
            float blockScale = type is PackedType.Int4 ? Quantiser.FromBFloat16(((ushort*)(from + blocks * 8))[b]) : scale;
            for (int i = 0; i < count; i++, mask &= mask - 1)
            {
                row[b * Block + BitOperations.TrailingZeroCount(mask)] = Value(type, values, i) * blockScale;
            }

            values += ValueBytes(type, count);
        }
    }

    /// <summary>The i-th value at an address, without its scale.</summary>
    public static float Value(PackedType type, byte* values, int i) => type switch
    {
        PackedType.Float32 => ((float*)values)[i],
        PackedType.BFloat16 => Quantiser.FromBFloat16(((ushort*)values)[i]),
        PackedType.Float16 => (float)((Half*)values)[i],
        PackedType.Int8 => (sbyte)values[i],
        _ => (sbyte)(values[i / 2] >> (i % 2 * 4) << 4) >> 4,
    };
}
