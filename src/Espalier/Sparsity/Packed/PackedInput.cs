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
        Blocks = RowCodec.Blocks(columns);
        nuint width = (nuint)Blocks * RowCodec.Block, padded = count == 1 ? 1u : ((nuint)count + 3) / 4 * 4, all = width * padded;
        bool integers = PackedTypes.IsInteger(type);
        Reserve(all * 4 + 64);
        Values = (float*)memory;
        Sizes = memory;
        Signs = (sbyte*)(memory + all);
        Codes = (sbyte*)(memory + all * 2);
        Scales = (float*)(memory + all * 3);
        Offsets = Scales + all / 64;
        HalfScales = Offsets + all / 64;
        HalfOffsets = HalfScales + all / 32;
        NativeMemory.Clear(memory, all * 4);
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

    /// <inheritdoc/>
    public void Dispose()
    {
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
        Vector128<float> largest = default;
        for (int j = 0; j < RowCodec.Block; j += 4)
        {
            largest = Vector128.Max(largest, Vector128.Abs(Vector128.Load(part + j)));
        }

        float scale = Math.Max(Math.Max(largest[0], largest[1]), Math.Max(largest[2], largest[3])) / 127;
        scale = scale > 0 ? scale : 1;
        Vector128<float> inverse = Vector128.Create(1 / scale);
        for (int half = 0; half < 2; half++)
        {
            Vector128<int> sum = default;
            for (int j = half * 32; j < half * 32 + 32; j += 16)
            {
                Vector128<int> a = Round(part + j, inverse), b = Round(part + j + 4, inverse), c = Round(part + j + 8, inverse), d = Round(part + j + 12, inverse);
                sum += a + b + c + d;
                Vector128<sbyte> codes = Vector128.Narrow(Vector128.Narrow(a, b), Vector128.Narrow(c, d));
                codes.Store(Codes + at + j);
                Vector128.Abs(codes).AsByte().Store(Sizes + at + j);
                (codes >> 7).Store(Signs + at + j);
            }

            HalfScales[block * 2 + half] = scale;
            HalfOffsets[block * 2 + half] = -8 * scale * Vector128.Sum(sum);
        }

        Scales[block] = scale;
        Offsets[block] = HalfOffsets[block * 2] + HalfOffsets[block * 2 + 1];
    }

    private static Vector128<int> Round(float* x, Vector128<float> inverse)
    {
        Vector128<float> scaled = Vector128.Load(x) * inverse;
        return Vector128.ConvertToInt32(Vector128.Round(Vector128.Min(Vector128.Max(scaled, Vector128.Create(-127f)), Vector128.Create(127f))));
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
