using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>Stored scales of weights times those of inputs, for many blocks at once: one number per block is then left to the inner loop.</summary>
internal static unsafe class BlockScales
{
    /// <summary>The blocks whose products a kernel makes before it multiplies them.</summary>
    public const int Chunk = 64;

    /// <summary>The products of scales of some blocks of a row with one vector of a few.</summary>
    /// <param name="row">The row.</param>
    /// <param name="placeBytes">The bytes per block that say where values belong.</param>
    /// <param name="scaleCount">The scales per block: 0 (the inputs' own are copied), 1 or 2.</param>
    /// <param name="x">The inputs.</param>
    /// <param name="vector">Which of them.</param>
    /// <param name="start">The first block.</param>
    /// <param name="count">How many.</param>
    /// <param name="products">Room for them.</param>
    /// <returns>What is to be added where weights are offset.</returns>
    public static float OfRow(byte* row, int placeBytes, int scaleCount, PackedInput x, int vector, int start, int count, float* products)
    {
        long block = (vector * (long)x.Blocks) + start;
        if (scaleCount == 0)
        {
            new ReadOnlySpan<float>(x.Scales + block, count).CopyTo(new Span<float>(products, count));
            return 0;
        }

        ushort* stored = (ushort*)(row + (x.Blocks * (long)placeBytes)) + (start * scaleCount);
        return scaleCount == 1
            ? Multiply(stored, x.Scales + block, x.Offsets + block, count, products)
            : Multiply(stored, x.HalfScales + (2 * block), x.HalfOffsets + (2 * block), 2 * count, products);
    }

    /// <summary>Multiplies scales.</summary>
    /// <param name="stored">bfloat16 scales of weights.</param>
    /// <param name="scales">As many scales of inputs.</param>
    /// <param name="offsets">As many offsets (<see cref="PackedInput.Offsets"/>).</param>
    /// <param name="count">How many.</param>
    /// <param name="products">Room for them.</param>
    /// <returns>The sum of stored scales × offsets.</returns>
    public static float Multiply(ushort* stored, float* scales, float* offsets, int count, float* products) =>
        Vector256.Sum(MultiplySpread(stored, scales, offsets, count, products));

    /// <summary>As <see cref="Multiply"/>, with the sum spread over lanes; made to stand in a loop without calls.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> MultiplySpread(ushort* stored, float* scales, float* offsets, int count, float* products)
    {
        Vector256<float> sums = default;
        int i = 0;
        for (; i + 8 <= count; i += 8)
        {
            (Vector128<uint> low, Vector128<uint> high) = Vector128.Widen(Vector128.Load(stored + i));
            Vector256<float> weights = (Vector256.Create(low, high) << 16).AsSingle();
            (weights * Vector256.Load(scales + i)).Store(products + i);
            sums += weights * Vector256.Load(offsets + i);
        }

        for (; i < count; i++)
        {
            float weight = Weight(stored[i]);
            products[i] = weight * scales[i];
            sums += Vector256.CreateScalar(weight * offsets[i]);
        }

        return sums;
    }

    /// <summary>The same in vectors of 16.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> MultiplyWide(ushort* stored, float* scales, float* offsets, int count, float* products)
    {
        Vector512<float> sums = default;
        int i = 0;
        for (; i + 16 <= count; i += 16)
        {
            Vector512<float> weights = (Avx512F.ConvertToVector512UInt32(Vector256.Load(stored + i)) << 16).AsSingle();
            (weights * Vector512.Load(scales + i)).Store(products + i);
            sums = Avx512F.FusedMultiplyAdd(weights, Vector512.Load(offsets + i), sums);
        }

        for (; i < count; i++)
        {
            float weight = Weight(stored[i]);
            products[i] = weight * scales[i];
            sums += Vector512.CreateScalar(weight * offsets[i]);
        }

        return sums;
    }

    // bfloat16 is the upper half of a float32.
    private static float Weight(ushort stored) => BitConverter.UInt32BitsToSingle((uint)stored << 16);
}
