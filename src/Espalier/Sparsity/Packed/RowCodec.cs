using System.Numerics;
using System.Runtime.Intrinsics;

namespace Espalier.Sparsity.Packed;

/// <summary>
/// One row of a packed matrix as bytes (docs/packed-format.md): per 64 columns where the kept values belong (a mask, three bits per group of four,
/// or nothing), then scales of integers in bfloat16, then the kept values in the order of their columns, then zeros up to a multiple of 8
/// bytes. Everything is little-endian.
/// </summary>
internal static unsafe class RowCodec
{
    /// <summary>The columns of a mask word.</summary>
    public const int Block = 64;

    /// <summary>Bytes behind the last row that a kernel may read, zeros.</summary>
    public const int Padding = 64;

    public static int Blocks(int columns) => (columns + Block - 1) / Block;

    /// <summary>The bytes per block that say where values belong.</summary>
    public static int PlaceBytes(MatrixCode code) => code switch { MatrixCode.Bitmask => 8, MatrixCode.Dense => 0, _ => TwoOfFour.BlockBytes };

    /// <summary>The scales per block: a dense block of 4-bit values has two.</summary>
    public static int ScaleCount(MatrixCode code, PackedType type) => (type, code) switch
    {
        (PackedType.Int4, MatrixCode.Dense) => 2,
        (PackedType.Int4, _) or (PackedType.Int8, MatrixCode.Dense) => 1,
        _ => 0,
    };

    /// <summary>Whether a row has one float32 scale beside the stream.</summary>
    public static bool HasRowScales(MatrixCode code, PackedType type) => type is PackedType.Int8 && code is not MatrixCode.Dense;

    /// <summary>Where the values begin.</summary>
    public static long HeaderBytes(MatrixCode code, PackedType type, int columns) => Blocks(columns) * (long)(PlaceBytes(code) + ScaleCount(code, type) * 2);

    /// <summary>The bytes of one block's values.</summary>
    public static int ValueBytes(PackedType type, int kept) => type switch
    {
        PackedType.Float32 => kept * 4,
        PackedType.BFloat16 or PackedType.Float16 => kept * 2,
        PackedType.Int8 => kept,
        _ => (kept + 1) / 2,
    };

    /// <summary>The bytes of a row; the masks are asked only for a bit mask.</summary>
    public static long RowBytes(MatrixCode code, PackedType type, int columns, ReadOnlySpan<ulong> masks)
    {
        long bytes = HeaderBytes(code, type, columns);
        if (code is MatrixCode.Bitmask)
        {
            foreach (ulong mask in masks)
            {
                bytes += ValueBytes(type, BitOperations.PopCount(mask));
            }
        }
        else
        {
            bytes += Blocks(columns) * (long)ValueBytes(type, code is MatrixCode.Dense ? Block : Block / 2);
        }

        return (bytes + 7) & ~7L;
    }

    /// <summary>The masks of a row: bit j of word b is set where column 64 b + j is not zero.</summary>
    public static void Masks(ReadOnlySpan<float> row, Span<ulong> masks)
    {
        masks.Clear();
        int whole = row.Length / Block * Block;
        for (int j = 0; j < whole; j += 8)
        {
            ulong zero = Vector256.Equals(Vector256.Create(row.Slice(j, 8)), Vector256<float>.Zero).ExtractMostSignificantBits();
            masks[j / Block] |= (~zero & 0xFF) << (j % Block);
        }

        for (int j = whole; j < row.Length; j++)
        {
            masks[j / Block] |= (row[j] != 0 ? 1ul : 0ul) << (j % Block);
        }
    }

    /// <summary>The columns of a stored block that have values, as a mask.</summary>
    public static ulong Mask(MatrixCode code, byte* row, int block) => code switch
    {
        MatrixCode.Bitmask => ((ulong*)row)[block],
        MatrixCode.Dense => ~0ul,
        _ => TwoOfFour.Read(row + block * (long)TwoOfFour.BlockBytes),
    };

    /// <summary>Writes a row; the memory holds zeros before.</summary>
    /// <param name="code">How places are named.</param>
    /// <param name="type">The type of the values.</param>
    /// <param name="row">The weights.</param>
    /// <param name="masks">Its masks.</param>
    /// <param name="to">Room for the row.</param>
    /// <returns>The row's scale (int8 that is not dense), else 1.</returns>
    public static float Encode(MatrixCode code, PackedType type, ReadOnlySpan<float> row, ReadOnlySpan<ulong> masks, byte* to)
    {
        byte* values = to + HeaderBytes(code, type, row.Length);
        ushort* scales = (ushort*)(to + masks.Length * (long)PlaceBytes(code));
        float rowScale = HasRowScales(code, type) ? Quantiser.FromBFloat16(Quantiser.Int8StoredScale(row)) : 1;
        int scaleCount = ScaleCount(code, type);
        Span<float> kept = stackalloc float[Block];
        for (int b = 0; b < masks.Length; b++)
        {
            ulong mask = Place(code, masks[b], to, b);
            int count = 0;
            for (ulong left = mask; left != 0; left &= left - 1)
            {
                int column = b * Block + BitOperations.TrailingZeroCount(left);
                kept[count++] = column < row.Length ? row[column] : 0;
            }

            int part = scaleCount == 2 ? Block / 2 : Math.Max(1, count);
            for (int from = 0; from < count; from += part)
            {
                Span<float> values1 = kept.Slice(from, part);
                float scale = rowScale;
                if (scaleCount > 0)
                {
                    *scales = type is PackedType.Int4 ? Quantiser.Int4Scale(values1) : Quantiser.Int8StoredScale(values1);
                    scale = Quantiser.FromBFloat16(*scales++);
                }

                for (int i = from; i < from + part; i++)
                {
                    Put(code, type, values, i, kept[i], scale);
                }
            }

            scales += count == 0 ? scaleCount : 0;
            values += ValueBytes(type, count);
        }

        return rowScale;
    }

    /// <summary>Reads a row back.</summary>
    /// <param name="code">How places are named.</param>
    /// <param name="type">The type of the values.</param>
    /// <param name="from">The row.</param>
    /// <param name="scale">Its scale (int8 that is not dense).</param>
    /// <param name="row">The weights, all columns.</param>
    public static void Decode(MatrixCode code, PackedType type, byte* from, float scale, Span<float> row)
    {
        row.Clear();
        int blocks = Blocks(row.Length), scaleCount = ScaleCount(code, type);
        byte* values = from + HeaderBytes(code, type, row.Length);
        ushort* scales = (ushort*)(from + blocks * (long)PlaceBytes(code));
        for (int b = 0; b < blocks; b++, scales += scaleCount)
        {
            ulong mask = Mask(code, from, b);
            int count = BitOperations.PopCount(mask);
            for (int i = 0; i < count; i++, mask &= mask - 1)
            {
                int column = b * Block + BitOperations.TrailingZeroCount(mask);
                if (column < row.Length)
                {
                    row[column] = Value(code, type, values, i) * (scaleCount == 0 ? scale : Quantiser.FromBFloat16(scales[i * scaleCount / Block]));
                }
            }

            values += ValueBytes(type, count);
        }
    }

    /// <summary>The i-th value of a block at an address, without its scale.</summary>
    public static float Value(MatrixCode code, PackedType type, byte* values, int i)
    {
        switch (type)
        {
            case PackedType.Float32: return ((float*)values)[i];
            case PackedType.BFloat16: return Quantiser.FromBFloat16(((ushort*)values)[i]);
            case PackedType.Float16: return (float)((Half*)values)[i];
            case PackedType.Int8: return (sbyte)values[i];
            default:
                (int at, int shift) = Nibble(code, i);
                return (sbyte)(values[at] >> shift << 4) >> 4;
        }
    }

    // Two values in a byte: neighbours behind a bit mask, elsewhere those of a block's first and second half, which needs no shuffle.
    private static (int At, int Shift) Nibble(MatrixCode code, int i) => code switch
    {
        MatrixCode.Bitmask => (i / 2, i % 2 * 4),
        MatrixCode.Dense => (i % 32, i / 32 * 4),
        _ => (i % 16, i / 16 * 4),
    };

    private static void Put(MatrixCode code, PackedType type, byte* values, int i, float weight, float scale)
    {
        switch (type)
        {
            case PackedType.Float32:
                ((float*)values)[i] = weight;
                break;
            case PackedType.BFloat16:
                ((ushort*)values)[i] = Quantiser.ToBFloat16(weight);
                break;
            case PackedType.Float16:
                ((Half*)values)[i] = (Half)weight;
                break;
            case PackedType.Int8:
                values[i] = (byte)Quantiser.Code(weight, scale, 127, 127);
                break;
            default:
                (int at, int shift) = Nibble(code, i);
                values[at] |= (byte)((Quantiser.Code(weight, scale, 8, 7) & 15) << shift);
                break;
        }
    }

    // Writes where a block's values belong, and says which columns have one.
    private static ulong Place(MatrixCode code, ulong mask, byte* row, int block)
    {
        switch (code)
        {
            case MatrixCode.Bitmask:
                ((ulong*)row)[block] = mask;
                return mask;
            case MatrixCode.Dense:
                return ~0ul;
            default:
                ulong complete = TwoOfFour.Complete(mask);
                TwoOfFour.Write(complete, row + block * (long)TwoOfFour.BlockBytes);
                return complete;
        }
    }
}
