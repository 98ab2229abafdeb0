using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Espalier.Sparsity.Packed;

/// <summary>Input vectors in the arrangement that kernels read; room is kept from call to call.</summary>
/// <remarks>
/// Vectors are padded with zeros to whole blocks of 64, and more than one vector to a multiple of 4. Float values: as they come (float32
/// weights), or for 16-bit weights the 32 even columns of a block before its 32 odd ones, because two 16-bit weights share a 32-bit lane.
/// Integer weights: per 64 columns a scale with which the largest input becomes ±127, and the rounded inputs as size, sign (0 or -1) and both in one;
/// also what must be added where a kernel reads 4-bit codes as code + 8: minus eight times the sum of the block's inputs.
/// </remarks>
internal sealed unsafe class PackedInput : IDisposable
{
    private nuint room;
    private byte* memory;
    private int[] last = [];
    private (bool Integers, bool Floats, int Columns) lastKind = (false, false, -1);

    /// <summary>The blocks of one vector.</summary>
    public int Blocks { get; private set; }

    /// <summary>The float values of vector 0; the next vector is 64 × <see cref="Blocks"/> further.</summary>
    public float* Values { get; private set; }

    /// <summary>|x| rounded.</summary>
    public byte* Sizes { get; private set; }

    /// <summary>-1 where x is negative, else 0.</summary>
    public sbyte* Signs { get; private set; }

    /// <summary>x rounded.</summary>
    public sbyte* Codes { get; private set; }

    /// <summary>The scale of each block.</summary>
    public float* Scales { get; private set; }

    /// <summary>-8 × the scale × the sum of the codes of each block.</summary>
    public float* Offsets { get; private set; }

    /// <summary>The scale of each half of a block, which is the block's.</summary>
    public float* HalfScales { get; private set; }

    /// <summary><see cref="Offsets"/> of each half of a block.</summary>
    public float* HalfOffsets { get; private set; }

    /// <summary>Arranges vectors for weights of a type.</summary>
    /// <param name="type">The type of the weights.</param>
    /// <param name="x">The vectors [count, columns].</param>
    /// <param name="columns">The width.</param>
    /// <param name="count">How many.</param>
    public void Arrange(PackedType type, float* x, int columns, int count)
    {
        if (count == 1 && IsArranged(type, x, columns))
        {
            return;
        }

        Blocks = RowCodec.Blocks(columns);
        nuint width = (nuint)Blocks * RowCodec.Block, padded = count == 1 ? 1u : ((nuint)count + 3) / 4 * 4, all = width * padded;
        bool integers = PackedTypes.IsInteger(type);
        lastKind = count == 1 ? lastKind : (false, false, -1);
        Reserve(all * 4 + 64);
        Values = (float*)memory;
        Sizes = memory;
        Signs = (sbyte*)(memory + all);
        Codes = (sbyte*)(memory + all * 2);
        Scales = (float*)(memory + all * 3);
        Offsets = Scales + all / 64;
        HalfScales = Offsets + all / 64;
        HalfOffsets = HalfScales + all / 32;
        if (columns % RowCodec.Block != 0 || count != (int)padded)
        {
            // What no column fills.
            NativeMemory.Clear(memory, all * 4);
        }

        for (int c = 0; c < count; c++)
        {
            float* from = x + (long)c * columns;
            long to = c * (long)width;
            if (integers)
            {
                Quantise(from, columns, to, c * Blocks);
            }
            else if (type is PackedType.Float32)
            {
                new ReadOnlySpan<float>(from, columns).CopyTo(new Span<float>(Values + to, columns));
            }
            else
            {
                Split(from, columns, Values + to);
            }
        }
    }

    // Queries, keys and values are made of one vector, so are both halves of gated neurons: to compare is far cheaper than to arrange again.
    private bool IsArranged(PackedType type, float* x, int columns)
    {
        var kind = (PackedTypes.IsInteger(type), type is PackedType.Float32, columns);
        var now = MemoryMarshal.Cast<byte, int>(new ReadOnlySpan<byte>(x, columns * sizeof(float)));
        if (kind == lastKind && now.SequenceEqual(last.AsSpan(0, columns)))
        {
            return true;
        }

        if (last.Length < columns)
        {
            last = new int[columns];
        }

        now.CopyTo(last);
        lastKind = kind;
        return false;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lastKind = (false, false, -1);
        NativeMemory.AlignedFree(memory);
        memory = null;
        room = 0;
    }

    private static void Split(float* from, int columns, float* to)
    {
        int j = 0;
        for (; j + 8 <= columns; j += 8)
        {
            Vector128<ulong> first = Vector128.Load((ulong*)(from + j)), second = Vector128.Load((ulong*)(from + j + 4));
            float* at = to + (j & ~63) + ((j & 63) >> 1);
            Vector128.Narrow(first, second).AsSingle().Store(at);
            Vector128.Narrow(first >> 32, second >> 32).AsSingle().Store(at + 32);
        }

        for (; j < columns; j++)
        {
            to[(j & ~63) + (j & 1) * 32 + ((j & 63) >> 1)] = from[j];
        }
    }

    private void Quantise(float* from, int columns, long to, int block)
    {
        float* part = stackalloc float[RowCodec.Block];
        for (int start = 0; start < columns; start += RowCodec.Block, block++)
        {
            int length = Math.Min(RowCodec.Block, columns - start);
            if (length == RowCodec.Block)
            {
                QuantiseBlock(from + start, to + start, block);
                continue;
            }

            var rest = new Span<float>(part, RowCodec.Block);
            rest.Clear();
            new ReadOnlySpan<float>(from + start, length).CopyTo(rest);
            QuantiseBlock(part, to + start, block);
        }
    }

    private void QuantiseBlock(float* part, long at, int block)
    {
        Vector256<float> largest = default;
        for (int j = 0; j < RowCodec.Block; j += 8)
        {
            largest = Vector256.Max(largest, Vector256.Abs(Vector256.Load(part + j)));
        }

        Vector128<float> four = Vector128.Max(largest.GetLower(), largest.GetUpper());
        float scale = Math.Max(Math.Max(four[0], four[1]), Math.Max(four[2], four[3])) / 127;
        scale = scale > 0 ? scale : 1;
        Vector256<float> inverse = Vector256.Create(1 / scale);
        for (int half = 0; half < 2; half++, part += 32, at += 32)
        {
            Vector256<int> a = Round(part, inverse), b = Round(part + 8, inverse), c = Round(part + 16, inverse), d = Round(part + 24, inverse);
            Vector256<sbyte> codes = Vector256.Narrow(Vector256.Narrow(a, b), Vector256.Narrow(c, d));
            codes.Store(Codes + at);
            Vector256.Abs(codes).AsByte().Store(Sizes + at);
            (codes >> 7).Store(Signs + at);
            HalfScales[block * 2 + half] = scale;
            HalfOffsets[block * 2 + half] = -8 * scale * Vector256.Sum(a + b + c + d);
        }

        Scales[block] = scale;
        Offsets[block] = HalfOffsets[block * 2] + HalfOffsets[block * 2 + 1];
    }

    private static Vector256<int> Round(float* x, Vector256<float> inverse)
    {
        Vector256<float> scaled = Vector256.Load(x) * inverse;
        return Vector256.ConvertToInt32(Vector256.Round(Vector256.Min(Vector256.Max(scaled, Vector256.Create(-127f)), Vector256.Create(127f))));
    }

    private void Reserve(nuint bytes)
    {
        if (bytes > room)
        {
            NativeMemory.AlignedFree(memory);
            memory = null;
            room = bytes;
            memory = (byte*)NativeMemory.AlignedAlloc(bytes, 64);
        }
    }
}
