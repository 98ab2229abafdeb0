using System.Runtime.InteropServices;

namespace Espalier.Sparsity.Packed;

/// <summary>Input vectors in the arrangement that kernels read; room is kept from call to call.</summary>
/// <remarks>
/// Vectors are padded with zeros to whole blocks of 64, and more than one vector to a multiple of 4. Float values: as they come (float32
/// weights), or for 16-bit weights the 32 even columns of a block before its 32 odd ones, because two 16-bit weights share a 32-bit lane.
/// Integer weights: per 64 columns a scale with which the largest input becomes ±127, and the rounded inputs as size, sign (0 or -1) and both in one.
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
        for (int j = 0; j < columns; j++)
        {
            to[(j & ~63) + (j & 1) * 32 + ((j & 63) >> 1)] = from[j];
        }
    }

    private void Quantise(float* from, int columns, long to, int block)
    {
        for (int start = 0; start < columns; start += RowCodec.Block, block++)
        {
            var part = new ReadOnlySpan<float>(from + start, Math.Min(RowCodec.Block, columns - start));
            float scale = Quantiser.Int8Scale(part), inverse = 1 / scale;
            Scales[block] = scale;
            for (int j = 0; j < part.Length; j++)
            {
                int code = (int)MathF.Round(Math.Clamp(part[j] * inverse, -127, 127));
                long at = to + start + j;
                Codes[at] = (sbyte)code;
                Sizes[at] = (byte)Math.Abs(code);
                Signs[at] = (sbyte)(code >> 31);
            }
        }
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
