using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>Stored scales of weights times those of inputs, for many blocks at once: one number per block is then left to the inner loop.</summary>
internal static unsafe class BlockScales
{
    /// <summary>The blocks whose products a kernel makes before it multiplies them.</summary>
    public const int Chunk = 64;

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
