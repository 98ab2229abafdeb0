using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>How float weights of a code come to their columns, eight at a time.</summary>
internal unsafe interface IPlaces256<TSelf>
    where TSelf : struct, IPlaces256<TSelf>
{
    /// <summary>The bytes per block that say where values belong.</summary>
    static abstract int PlaceBytes { get; }

    /// <summary>The cache lines of 16-bit values of two rows per block, rounded up for a matrix with half its weights.</summary>
    static abstract int HalfLinesAhead { get; }

    /// <summary>With the address of its table in a register.</summary>
    static abstract TSelf Load();

    /// <summary>Eight floats; moves the address behind those taken.</summary>
    Vector256<float> Floats(byte* place, ref byte* values);

    /// <summary>Eight 16-bit values.</summary>
    Vector128<byte> Words(byte* place, ref byte* values);
}

/// <summary>By a bit mask: a permutation of floats, a shuffle of 16-bit values.</summary>
internal readonly unsafe struct Masks256 : IPlaces256<Masks256>
{
    private readonly byte* orders, wordOrders;

    private Masks256(byte* orders, byte* wordOrders)
    {
        this.orders = orders;
        this.wordOrders = wordOrders;
    }

    public static int PlaceBytes => 8;

    public static int HalfLinesAhead => 3;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Masks256 Load() => new(ExpandTables.InRegister(ExpandTables.Low), ExpandTables.InRegister(ExpandTables.Words));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector256<float> Floats(byte* place, ref byte* values)
    {
        // Sign extension makes "none" negative: the permutation ignores upper bits, the comparison clears what it brought.
        uint mask = *place;
        Vector256<int> lanes = Avx2.ConvertToVector256Int32((sbyte*)(orders + mask * 8));
        Vector256<float> moved = Avx2.PermuteVar8x32(Vector256.Load((float*)values), lanes);
        values += BitOperations.PopCount(mask) * 4;
        return Avx.AndNot((lanes >> 31).AsSingle(), moved);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector128<byte> Words(byte* place, ref byte* values)
    {
        // A count of 64 bits needs no extension to become part of an address, and twice the mask times eight no shift.
        ulong mask = *place;
        Vector128<byte> kept = Vector128.Load(values);
        values += Popcnt.X64.PopCount(mask) * 2;
        return Ssse3.Shuffle(kept, Vector128.Load(wordOrders + (mask + mask) * 8));
    }
}

/// <summary>They lie there already.</summary>
internal readonly unsafe struct Dense256 : IPlaces256<Dense256>
{
    public static int PlaceBytes => 0;

    public static int HalfLinesAhead => 4;

    public static Dense256 Load() => default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector256<float> Floats(byte* place, ref byte* values)
    {
        values += 32;
        return Vector256.Load((float*)(values - 32));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector128<byte> Words(byte* place, ref byte* values)
    {
        values += 16;
        return Vector128.Load(values - 16);
    }
}

/// <summary>float32 weights, eight at a time.</summary>
internal sealed unsafe class Avx2FloatKernel<TPlaces> : PairKernel
    where TPlaces : struct, IPlaces256<TPlaces>
{
    protected override (float First, float Second) Pair(byte* first, byte* second, PackedInput input, byte* ahead)
    {
        TPlaces places = TPlaces.Load();
        float* x = input.Values;
        int eighths = input.Blocks * 8;
        byte* v0 = first + input.Blocks * TPlaces.PlaceBytes, v1 = second + input.Blocks * TPlaces.PlaceBytes;
        Vector256<float> sum0 = default, sum1 = default;
        for (int e = 0; e < eighths; e++, x += 8)
        {
            Vector256<float> at = Vector256.Load(x);
            sum0 = Fma.MultiplyAdd(places.Floats(first + e, ref v0), at, sum0);
            sum1 = Fma.MultiplyAdd(places.Floats(second + e, ref v1), at, sum1);
        }

        return (Vector256.Sum(sum0), Vector256.Sum(sum1));
    }

    public override void Four(byte* row, int columns, PackedInput input, int from, float* products)
    {
        TPlaces places = TPlaces.Load();
        int width = input.Blocks * RowCodec.Block;
        float* x0 = input.Values + (long)from * width, x1 = x0 + width, x2 = x1 + width, x3 = x2 + width;
        byte* values = row + input.Blocks * TPlaces.PlaceBytes;
        Vector256<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int j = 0; j < width; j += 8, row++)
        {
            Vector256<float> w = places.Floats(row, ref values);
            sum0 = Fma.MultiplyAdd(w, Vector256.Load(x0 + j), sum0);
            sum1 = Fma.MultiplyAdd(w, Vector256.Load(x1 + j), sum1);
            sum2 = Fma.MultiplyAdd(w, Vector256.Load(x2 + j), sum2);
            sum3 = Fma.MultiplyAdd(w, Vector256.Load(x3 + j), sum3);
        }

        (products[0], products[1], products[2], products[3]) = (Vector256.Sum(sum0), Vector256.Sum(sum1), Vector256.Sum(sum2), Vector256.Sum(sum3));
    }

    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        TPlaces places = TPlaces.Load();
        byte* values = row + blocks * TPlaces.PlaceBytes;
        for (int b = 0; b < blocks; b++)
        {
            float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
            for (int part = 0; part < 8; part++, row++)
            {
                places.Floats(row, ref values).Store(block + part * 8);
            }
        }
    }
}

/// <summary>16-bit weights, sixteen at a time.</summary>
internal sealed unsafe class Avx2HalfKernel<THalves, TPlaces> : PairKernel
    where THalves : struct, IHalves
    where TPlaces : struct, IPlaces256<TPlaces>
{
    protected override bool ReadsAhead => true;

    protected override (float First, float Second) Pair(byte* first, byte* second, PackedInput input, byte* ahead)
    {
        TPlaces places = TPlaces.Load();
        float* x = input.Values, end = x + input.Blocks * RowCodec.Block;
        byte* v0 = first + input.Blocks * TPlaces.PlaceBytes, v1 = second + input.Blocks * TPlaces.PlaceBytes;
        Vector256<float> even0 = default, odd0 = default, even1 = default, odd1 = default;
        for (; x < end; x += RowCodec.Block, first += 8, second += 8, ahead += TPlaces.HalfLinesAhead * 64)
        {
            ReadAhead.Lines(ahead, TPlaces.HalfLinesAhead, near: false);
            Sixteen(places, x, first, ref v0, second, ref v1, ref even0, ref odd0, ref even1, ref odd1);
            Sixteen(places, x + 8, first + 2, ref v0, second + 2, ref v1, ref even0, ref odd0, ref even1, ref odd1);
            Sixteen(places, x + 16, first + 4, ref v0, second + 4, ref v1, ref even0, ref odd0, ref even1, ref odd1);
            Sixteen(places, x + 24, first + 6, ref v0, second + 6, ref v1, ref even0, ref odd0, ref even1, ref odd1);
        }

        return (Vector256.Sum(even0 + odd0), Vector256.Sum(even1 + odd1));
    }

    // Sixteen columns of two rows.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Sixteen(
        TPlaces places, float* x, byte* first, ref byte* v0, byte* second, ref byte* v1, ref Vector256<float> even0, ref Vector256<float> odd0, ref Vector256<float> even1, ref Vector256<float> odd1)
    {
        Vector256<float> even = Vector256.Load(x), odd = Vector256.Load(x + 32);
        Vector256<uint> w0 = Take(places, first, ref v0), w1 = Take(places, second, ref v1);
        even0 = Fma.MultiplyAdd(THalves.Even(w0), even, even0);
        odd0 = Fma.MultiplyAdd(THalves.Odd(w0), odd, odd0);
        even1 = Fma.MultiplyAdd(THalves.Even(w1), even, even1);
        odd1 = Fma.MultiplyAdd(THalves.Odd(w1), odd, odd1);
    }

    public override void Four(byte* row, int columns, PackedInput input, int from, float* products)
    {
        TPlaces places = TPlaces.Load();
        int width = input.Blocks * RowCodec.Block;
        float* x0 = input.Values + (long)from * width, x1 = x0 + width, x2 = x1 + width, x3 = x2 + width;
        byte* values = row + input.Blocks * TPlaces.PlaceBytes;
        Vector256<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int step = 0; step < width / 16; step++, row += 2)
        {
            Vector256<uint> w = Take(places, row, ref values);
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
    private static Vector256<uint> Take(TPlaces places, byte* place, ref byte* values)
    {
        Vector128<byte> low = places.Words(place, ref values);
        return Vector256.Create(low, places.Words(place + 1, ref values)).AsUInt32();
    }

    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        TPlaces places = TPlaces.Load();
        byte* values = row + blocks * TPlaces.PlaceBytes;
        for (int b = 0; b < blocks; b++)
        {
            float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
            for (int part = 0; part < 8; part++, row++)
            {
                THalves.Even(Avx2.ConvertToVector256Int32(places.Words(row, ref values).AsUInt16()).AsUInt32()).Store(block + part * 8);
            }
        }
    }
}
