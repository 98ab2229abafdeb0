using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;

namespace Espalier.Sparsity.Packed;

/// <summary>How float weights of a code come to their columns, eight at a time. A table lookup gives 0 for what lies outside its 16 bytes.</summary>
internal unsafe interface IPlacesNeon
{
    /// <summary>The bytes per block that say where values belong.</summary>
    static abstract int PlaceBytes { get; }

    /// <summary>Eight floats, the first four as the result; moves the address behind those taken.</summary>
    static abstract Vector128<float> Floats(byte* place, ref byte* values, out Vector128<float> upper);

    /// <summary>Eight 16-bit values.</summary>
    static abstract Vector128<uint> Words(byte* place, ref byte* values);
}

/// <summary>By a bit mask: bytes are looked up in the order that a table has for the mask.</summary>
internal readonly unsafe struct MasksNeon : IPlacesNeon
{
    private static readonly byte* Quads = ExpandTables.Quads, WordOrders = ExpandTables.Words;

    public static int PlaceBytes => 8;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Floats(byte* place, ref byte* values, out Vector128<float> upper)
    {
        uint low = *place & 15u, high = (uint)*place >> 4;
        byte* next = values + (BitOperations.PopCount(low) * 4);
        Vector128<float> lower = AdvSimd.Arm64.VectorTableLookup(Vector128.Load(values), Vector128.Load(Quads + (low * 16))).AsSingle();
        upper = AdvSimd.Arm64.VectorTableLookup(Vector128.Load(next), Vector128.Load(Quads + (high * 16))).AsSingle();
        values = next + (BitOperations.PopCount(high) * 4);
        return lower;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<uint> Words(byte* place, ref byte* values)
    {
        uint mask = *place;
        Vector128<byte> moved = AdvSimd.Arm64.VectorTableLookup(Vector128.Load(values), Vector128.Load(WordOrders + (mask * 16)));
        values += BitOperations.PopCount(mask) * 2;
        return moved.AsUInt32();
    }
}

/// <summary>They lie there already.</summary>
internal readonly unsafe struct DenseNeon : IPlacesNeon
{
    public static int PlaceBytes => 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Floats(byte* place, ref byte* values, out Vector128<float> upper)
    {
        values += 32;
        upper = Vector128.Load((float*)(values - 16));
        return Vector128.Load((float*)(values - 32));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<uint> Words(byte* place, ref byte* values)
    {
        values += 16;
        return Vector128.Load((uint*)(values - 16));
    }
}

/// <summary>float32 weights.</summary>
internal sealed unsafe class NeonFloatKernel<TPlaces> : PairKernel
    where TPlaces : struct, IPlacesNeon
{
    public override void Four(byte* row, int columns, PackedInput x, int from, float* products)
    {
        int width = x.Blocks * RowCodec.Block;
        float* x0 = x.Values + ((long)from * width), x1 = x0 + width, x2 = x1 + width, x3 = x2 + width;
        byte* values = row + (x.Blocks * TPlaces.PlaceBytes);
        Vector128<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int j = 0; j < width; j += 8, row++)
        {
            Vector128<float> a = TPlaces.Floats(row, ref values, out Vector128<float> b);
            sum0 = Add(a, b, x0 + j, sum0);
            sum1 = Add(a, b, x1 + j, sum1);
            sum2 = Add(a, b, x2 + j, sum2);
            sum3 = Add(a, b, x3 + j, sum3);
        }

        (products[0], products[1], products[2], products[3]) = (Vector128.Sum(sum0), Vector128.Sum(sum1), Vector128.Sum(sum2), Vector128.Sum(sum3));
    }

    protected override (float First, float Second) Pair(byte* first, byte* second, PackedInput x, byte* ahead)
    {
        byte* v0 = first + (x.Blocks * TPlaces.PlaceBytes), v1 = second + (x.Blocks * TPlaces.PlaceBytes);
        Vector128<float> sum0 = default, sum1 = default;
        for (int e = 0; e < x.Blocks * 8; e++)
        {
            Vector128<float> a = TPlaces.Floats(first + e, ref v0, out Vector128<float> b), c = TPlaces.Floats(second + e, ref v1, out Vector128<float> d);
            sum0 = Add(a, b, x.Values + (e * 8), sum0);
            sum1 = Add(c, d, x.Values + (e * 8), sum1);
        }

        return (Vector128.Sum(sum0), Vector128.Sum(sum1));
    }

    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        byte* values = row + (blocks * TPlaces.PlaceBytes);
        for (int b = 0; b < blocks; b++)
        {
            float* block = b < blocks - 1 ? to + (b * (long)RowCodec.Block) : last;
            for (int part = 0; part < 8; part++, row++)
            {
                TPlaces.Floats(row, ref values, out Vector128<float> upper).Store(block + (part * 8));
                upper.Store(block + (part * 8) + 4);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Add(Vector128<float> a, Vector128<float> b, float* x, Vector128<float> sum) =>
        AdvSimd.FusedMultiplyAdd(AdvSimd.FusedMultiplyAdd(sum, a, Vector128.Load(x)), b, Vector128.Load(x + 4));
}

/// <summary>16-bit weights, eight at a time.</summary>
internal sealed unsafe class NeonHalfKernel<THalves, TPlaces> : PairKernel
    where THalves : struct, IHalves
    where TPlaces : struct, IPlacesNeon
{
    public override void Four(byte* row, int columns, PackedInput x, int from, float* products)
    {
        int width = x.Blocks * RowCodec.Block;
        float* x0 = x.Values + ((long)from * width), x1 = x0 + width, x2 = x1 + width, x3 = x2 + width;
        byte* values = row + (x.Blocks * TPlaces.PlaceBytes);
        Vector128<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int step = 0; step < width / 8; step++, row++)
        {
            Vector128<uint> w = TPlaces.Words(row, ref values);
            Vector128<float> even = THalves.Even(w), odd = THalves.Odd(w);
            int j = ((step >> 3) * 64) + ((step & 7) * 4);
            sum0 = Add(even, odd, x0 + j, sum0);
            sum1 = Add(even, odd, x1 + j, sum1);
            sum2 = Add(even, odd, x2 + j, sum2);
            sum3 = Add(even, odd, x3 + j, sum3);
        }

        (products[0], products[1], products[2], products[3]) = (Vector128.Sum(sum0), Vector128.Sum(sum1), Vector128.Sum(sum2), Vector128.Sum(sum3));
    }

    protected override (float First, float Second) Pair(byte* first, byte* second, PackedInput x, byte* ahead)
    {
        byte* v0 = first + (x.Blocks * TPlaces.PlaceBytes), v1 = second + (x.Blocks * TPlaces.PlaceBytes);
        Vector128<float> sum0 = default, sum1 = default;
        for (int step = 0; step < x.Blocks * 8; step++, first++, second++)
        {
            Vector128<uint> w0 = TPlaces.Words(first, ref v0), w1 = TPlaces.Words(second, ref v1);
            float* at = x.Values + ((step >> 3) * 64) + ((step & 7) * 4);
            sum0 = Add(THalves.Even(w0), THalves.Odd(w0), at, sum0);
            sum1 = Add(THalves.Even(w1), THalves.Odd(w1), at, sum1);
        }

        return (Vector128.Sum(sum0), Vector128.Sum(sum1));
    }

    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        byte* values = row + (blocks * TPlaces.PlaceBytes);
        for (int b = 0; b < blocks; b++)
        {
            float* block = b < blocks - 1 ? to + (b * (long)RowCodec.Block) : last;
            for (int part = 0; part < 8; part++, row++)
            {
                Vector128<uint> w = TPlaces.Words(row, ref values);
                Vector128<float> even = THalves.Even(w), odd = THalves.Odd(w);
                AdvSimd.Arm64.ZipLow(even, odd).Store(block + (part * 8));
                AdvSimd.Arm64.ZipHigh(even, odd).Store(block + (part * 8) + 4);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Add(Vector128<float> even, Vector128<float> odd, float* x, Vector128<float> sum) =>
        AdvSimd.FusedMultiplyAdd(AdvSimd.FusedMultiplyAdd(sum, even, Vector128.Load(x)), odd, Vector128.Load(x + 32));
}
