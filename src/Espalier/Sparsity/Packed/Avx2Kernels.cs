using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>Tables by eight mask bits that say where each of eight columns finds its value among the kept ones; 0x80 (pshufb: zero) where none was.</summary>
internal static unsafe class ExpandTables
{
    /// <summary>Orders of 16-bit values, 16 bytes each.</summary>
    public static readonly byte* Words = Make(16, 2, 0);

    /// <summary>Orders of bytes, 8 bytes each.</summary>
    public static readonly byte* Low = Make(8, 1, 0);

    /// <summary>The same for values that lie 8 bytes further.</summary>
    public static readonly byte* High = Make(8, 1, 8);

    private static byte* Make(int width, int size, int shift)
    {
        byte* table = (byte*)NativeMemory.AlignedAlloc((nuint)(256 * width), 64);
        for (int mask = 0; mask < 256; mask++)
        {
            for (int column = 0, next = 0; column < 8; column++)
            {
                bool kept = (mask >> column & 1) != 0;
                for (int b = 0; b < size; b++)
                {
                    table[mask * width + column * size + b] = kept ? (byte)(next * size + b + shift) : (byte)0x80;
                }

                next += kept ? 1 : 0;
            }
        }

        return table;
    }
}

/// <summary>float32 weights: eight at a time by a permutation.</summary>
internal sealed unsafe class Avx2FloatKernel : RowKernel
{
    private readonly byte* table = ExpandTables.Low;

    public override (float First, float Second) Pair(byte* first, byte* second, int columns, PackedInput input)
    {
        float* x = input.Values;
        int eighths = input.Blocks * 8;
        byte* v0 = first + eighths, v1 = second + eighths, orders = table;
        Vector256<float> sum0 = default, sum1 = default;
        for (int e = 0; e < eighths; e++, x += 8)
        {
            Vector256<float> at = Vector256.Load(x);
            sum0 = Fma.MultiplyAdd(Take(orders, first[e], ref v0), at, sum0);
            sum1 = Fma.MultiplyAdd(Take(orders, second[e], ref v1), at, sum1);
        }

        return (Vector256.Sum(sum0), Vector256.Sum(sum1));
    }

    public override void Four(byte* row, int columns, PackedInput input, int from, float* products)
    {
        int width = input.Blocks * RowCodec.Block;
        float* x0 = input.Values + (long)from * width, x1 = x0 + width, x2 = x1 + width, x3 = x2 + width;
        byte* values = row + input.Blocks * 8, orders = table;
        Vector256<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int j = 0; j < width; j += 8, row++)
        {
            Vector256<float> w = Take(orders, *row, ref values);
            sum0 = Fma.MultiplyAdd(w, Vector256.Load(x0 + j), sum0);
            sum1 = Fma.MultiplyAdd(w, Vector256.Load(x1 + j), sum1);
            sum2 = Fma.MultiplyAdd(w, Vector256.Load(x2 + j), sum2);
            sum3 = Fma.MultiplyAdd(w, Vector256.Load(x3 + j), sum3);
        }

        (products[0], products[1], products[2], products[3]) = (Vector256.Sum(sum0), Vector256.Sum(sum1), Vector256.Sum(sum2), Vector256.Sum(sum3));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Take(byte* orders, uint mask, ref byte* values)
    {
        // Sign extension makes "none" negative: the permutation ignores upper bits, the comparison clears what it brought.
        Vector256<int> lanes = Avx2.ConvertToVector256Int32((sbyte*)(orders + mask * 8));
        Vector256<float> moved = Avx2.PermuteVar8x32(Vector256.Load((float*)values), lanes);
        values += BitOperations.PopCount(mask) * 4;
        return Avx.AndNot((lanes >> 31).AsSingle(), moved);
    }
}

/// <summary>16-bit weights: eight by one byte shuffle, sixteen in flight.</summary>
internal sealed unsafe class Avx2HalfKernel<THalves> : RowKernel
    where THalves : struct, IHalves
{
    private readonly byte* table = ExpandTables.Words;

    public override (float First, float Second) Pair(byte* first, byte* second, int columns, PackedInput input)
    {
        float* x = input.Values, end = x + input.Blocks * RowCodec.Block;
        byte* v0 = first + input.Blocks * 8, v1 = second + input.Blocks * 8, orders = table;
        Vector256<float> even0 = default, odd0 = default, even1 = default, odd1 = default;
        for (; x < end; x += 64)
        {
            for (int part = 0; part < 4; part++, first += 2, second += 2)
            {
                Vector256<float> even = Vector256.Load(x + part * 8), odd = Vector256.Load(x + 32 + part * 8);
                Vector256<uint> w0 = Take(orders, first, ref v0), w1 = Take(orders, second, ref v1);
                even0 = Fma.MultiplyAdd(THalves.Even(w0), even, even0);
                odd0 = Fma.MultiplyAdd(THalves.Odd(w0), odd, odd0);
                even1 = Fma.MultiplyAdd(THalves.Even(w1), even, even1);
                odd1 = Fma.MultiplyAdd(THalves.Odd(w1), odd, odd1);
            }
        }

        return (Vector256.Sum(even0 + odd0), Vector256.Sum(even1 + odd1));
    }

    public override void Four(byte* row, int columns, PackedInput input, int from, float* products)
    {
        int width = input.Blocks * RowCodec.Block;
        float* x0 = input.Values + (long)from * width, x1 = x0 + width, x2 = x1 + width, x3 = x2 + width;
        byte* values = row + input.Blocks * 8, orders = table;
        Vector256<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int step = 0; step < width / 16; step++, row += 2)
        {
            Vector256<uint> w = Take(orders, row, ref values);
            Vector256<float> even = THalves.Even(w), odd = THalves.Odd(w);
            int j = (step >> 2) * 64 + (step & 3) * 8;
            sum0 = Add(even, odd, x0 + j, sum0);
            sum1 = Add(even, odd, x1 + j, sum1);
            sum2 = Add(even, odd, x2 + j, sum2);
            sum3 = Add(even, odd, x3 + j, sum3);
        }

        (products[0], products[1], products[2], products[3]) = (Vector256.Sum(sum0), Vector256.Sum(sum1), Vector256.Sum(sum2), Vector256.Sum(sum3));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Add(Vector256<float> even, Vector256<float> odd, float* x, Vector256<float> sum) =>
        Fma.MultiplyAdd(odd, Vector256.Load(x + 32), Fma.MultiplyAdd(even, Vector256.Load(x), sum));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<uint> Take(byte* orders, byte* masks, ref byte* values)
    {
        uint m0 = masks[0], m1 = masks[1];
        byte* next = values + BitOperations.PopCount(m0) * 2;
        Vector128<byte> low = Ssse3.Shuffle(Vector128.Load(values), Vector128.Load(orders + m0 * 16));
        Vector128<byte> high = Ssse3.Shuffle(Vector128.Load(next), Vector128.Load(orders + m1 * 16));
        values = next + BitOperations.PopCount(m1) * 2;
        return Vector256.Create(low, high).AsUInt32();
    }
}
