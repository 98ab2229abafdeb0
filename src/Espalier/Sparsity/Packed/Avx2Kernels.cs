using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>How float weights of a code come to their columns, eight at a time.</summary>
internal unsafe interface IPlaces256
{
    /// <summary>The bytes per block that say where values belong.</summary>
    static abstract int PlaceBytes { get; }

    /// <summary>Eight floats; moves the address behind those taken.</summary>
    static abstract Vector256<float> Floats(byte* place, ref byte* values);

    /// <summary>Eight 16-bit values.</summary>
    static abstract Vector128<byte> Words(byte* place, ref byte* values);
}

/// <summary>By a bit mask: a permutation of floats, a shuffle of 16-bit values.</summary>
internal readonly unsafe struct Masks256 : IPlaces256
{
    private static readonly byte* Orders = ExpandTables.Low, WordOrders = ExpandTables.Words;

    public static int PlaceBytes => 8;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Floats(byte* place, ref byte* values)
    {
        // Sign extension makes "none" negative: the permutation ignores upper bits, the comparison clears what it brought.
        uint mask = *place;
        Vector256<int> lanes = Avx2.ConvertToVector256Int32((sbyte*)(Orders + mask * 8));
        Vector256<float> moved = Avx2.PermuteVar8x32(Vector256.Load((float*)values), lanes);
        values += BitOperations.PopCount(mask) * 4;
        return Avx.AndNot((lanes >> 31).AsSingle(), moved);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<byte> Words(byte* place, ref byte* values)
    {
        uint mask = *place;
        Vector128<byte> moved = Ssse3.Shuffle(Vector128.Load(values), Vector128.Load(WordOrders + mask * 16));
        values += BitOperations.PopCount(mask) * 2;
        return moved;
    }
}

/// <summary>They lie there already.</summary>
internal readonly unsafe struct Dense256 : IPlaces256
{
    public static int PlaceBytes => 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Floats(byte* place, ref byte* values)
    {
        values += 32;
        return Vector256.Load((float*)(values - 32));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<byte> Words(byte* place, ref byte* values)
    {
        values += 16;
        return Vector128.Load(values - 16);
    }
}

/// <summary>float32 weights, eight at a time.</summary>
internal sealed unsafe class Avx2FloatKernel<TPlaces> : PairKernel
    where TPlaces : struct, IPlaces256
{
    protected override (float First, float Second) Pair(byte* first, byte* second, PackedInput input, byte* ahead)
    {
        float* x = input.Values;
        int eighths = input.Blocks * 8;
        byte* v0 = first + input.Blocks * TPlaces.PlaceBytes, v1 = second + input.Blocks * TPlaces.PlaceBytes;
        Vector256<float> sum0 = default, sum1 = default;
        for (int e = 0; e < eighths; e++, x += 8)
        {
            Vector256<float> at = Vector256.Load(x);
            sum0 = Fma.MultiplyAdd(TPlaces.Floats(first + e, ref v0), at, sum0);
            sum1 = Fma.MultiplyAdd(TPlaces.Floats(second + e, ref v1), at, sum1);
        }

        return (Vector256.Sum(sum0), Vector256.Sum(sum1));
    }

    public override void Four(byte* row, int columns, PackedInput input, int from, float* products)
    {
        int width = input.Blocks * RowCodec.Block;
        float* x0 = input.Values + (long)from * width, x1 = x0 + width, x2 = x1 + width, x3 = x2 + width;
        byte* values = row + input.Blocks * TPlaces.PlaceBytes;
        Vector256<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int j = 0; j < width; j += 8, row++)
        {
            Vector256<float> w = TPlaces.Floats(row, ref values);
            sum0 = Fma.MultiplyAdd(w, Vector256.Load(x0 + j), sum0);
            sum1 = Fma.MultiplyAdd(w, Vector256.Load(x1 + j), sum1);
            sum2 = Fma.MultiplyAdd(w, Vector256.Load(x2 + j), sum2);
            sum3 = Fma.MultiplyAdd(w, Vector256.Load(x3 + j), sum3);
        }

        (products[0], products[1], products[2], products[3]) = (Vector256.Sum(sum0), Vector256.Sum(sum1), Vector256.Sum(sum2), Vector256.Sum(sum3));
    }

    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        byte* values = row + blocks * TPlaces.PlaceBytes;
        for (int b = 0; b < blocks; b++)
        {
            float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
            for (int part = 0; part < 8; part++, row++)
            {
                TPlaces.Floats(row, ref values).Store(block + part * 8);
            }
        }
    }
}

/// <summary>16-bit weights, sixteen at a time.</summary>
internal sealed unsafe class Avx2HalfKernel<THalves, TPlaces> : PairKernel
    where THalves : struct, IHalves
    where TPlaces : struct, IPlaces256
{
    protected override (float First, float Second) Pair(byte* first, byte* second, PackedInput input, byte* ahead)
    {
        float* x = input.Values, end = x + input.Blocks * RowCodec.Block;
        byte* v0 = first + input.Blocks * TPlaces.PlaceBytes, v1 = second + input.Blocks * TPlaces.PlaceBytes;
        Vector256<float> even0 = default, odd0 = default, even1 = default, odd1 = default;
        for (; x < end; x += 64)
        {
            for (int part = 0; part < 4; part++, first += 2, second += 2)
            {
                Vector256<float> even = Vector256.Load(x + part * 8), odd = Vector256.Load(x + 32 + part * 8);
                Vector256<uint> w0 = Take(first, ref v0), w1 = Take(second, ref v1);
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
        byte* values = row + input.Blocks * TPlaces.PlaceBytes;
        Vector256<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int step = 0; step < width / 16; step++, row += 2)
        {
            Vector256<uint> w = Take(row, ref values);
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
    private static Vector256<uint> Take(byte* places, ref byte* values)
    {
        Vector128<byte> low = TPlaces.Words(places, ref values);
        return Vector256.Create(low, TPlaces.Words(places + 1, ref values)).AsUInt32();
    }

    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        byte* values = row + blocks * TPlaces.PlaceBytes;
        for (int b = 0; b < blocks; b++)
        {
            float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
            for (int part = 0; part < 8; part++, row++)
            {
                THalves.Even(Avx2.ConvertToVector256Int32(TPlaces.Words(row, ref values).AsUInt16()).AsUInt32()).Store(block + part * 8);
            }
        }
    }
}
