using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>What .NET lacks for 64-byte vectors.</summary>
internal static class Lanes512
{
    /// <summary>The sum of all lanes, folded in halves.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Vector512<float> lanes)
    {
        Vector256<float> eight = lanes.GetLower() + lanes.GetUpper();
        return Vector128.Sum(eight.GetLower() + eight.GetUpper());
    }
}

/// <summary>Bit masks as vectors (VBMI): multishift moves the bit of each column to the top of its element, where instructions look for it.</summary>
internal readonly unsafe struct Bits512
{
    // Element e of lane L gets the eight bits that end with bit 8 L + e (bytes) or 4 L + e (16-bit elements).
    private static readonly byte* ByBytes = Constants.Keep(64, i => (i + 57) & 63), ByWords = Constants.Keep(64, i => ((i / 2) + 57) & 63);

    private readonly Vector512<byte> shifts;

    private Bits512(Vector512<byte> shifts) => this.shifts = shifts;

    /// <summary>For 64 columns of bytes.</summary>
    public static Bits512 OfBytes
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => new(Vector512.Load(ByBytes));
    }

    /// <summary>For 32 columns of 16 bits.</summary>
    public static Bits512 OfWords
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => new(Vector512.Load(ByWords));
    }

    /// <summary>The mask at an address, read as 8 bytes: the top bit of each element.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<byte> At(byte* place) => Avx512Vbmi.MultiShift(shifts, Vector512.Create(*(double*)place).AsUInt64());
}

/// <summary>How float weights of a code come to their columns. What a loop needs is loaded before it, by <see cref="Load"/>.</summary>
internal unsafe interface IPlaces512<TSelf>
    where TSelf : struct, IPlaces512<TSelf>
{
    /// <summary>The bytes per block that say where values belong.</summary>
    static abstract int PlaceBytes { get; }

    /// <summary>With its constants in registers.</summary>
    static abstract TSelf Load();

    /// <summary>16 floats; moves the address behind those taken.</summary>
    Vector512<float> Floats(byte* place, ref byte* values);

    /// <summary>32 16-bit values.</summary>
    Vector512<uint> Words(byte* place, ref byte* values);
}

/// <summary>By a bit mask: values are expanded in a register (VBMI2, AVX-512F).</summary>
internal readonly unsafe struct Masks512 : IPlaces512<Masks512>
{
    private static readonly byte* Columns = Constants.Keep(Vector512.Create(1u, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768).AsByte());

    private readonly Bits512 words;
    private readonly Vector512<uint> columns;

    private Masks512(Bits512 words, Vector512<uint> columns) => (this.words, this.columns) = (words, columns);

    public static int PlaceBytes => 8;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Masks512 Load() => new(Bits512.OfWords, Vector512.Load((uint*)Columns));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<float> Floats(byte* place, ref byte* values)
    {
        // The upper half of the 32 bits belongs to the next columns and meets no bit here.
        Vector512<uint> keep = ~Vector512.Equals(Vector512.Create(*(uint*)place) & columns, Vector512<uint>.Zero);
        Vector512<float> all = Vector512.Load((float*)values);
        values += (uint)BitOperations.PopCount(*(ushort*)place) * 4;
        return Avx512F.Expand(Vector512<float>.Zero, keep.AsSingle(), all);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<uint> Words(byte* place, ref byte* values)
    {
        Vector512<ushort> all = Vector512.Load((ushort*)values);
        values += (uint)BitOperations.PopCount(*(uint*)place) * 2;
        return Avx512Vbmi2.Expand(Vector512<ushort>.Zero, words.At(place).AsUInt16(), all).AsUInt32();
    }
}

/// <summary>They lie there already.</summary>
internal readonly unsafe struct Dense512 : IPlaces512<Dense512>
{
    public static int PlaceBytes => 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Dense512 Load() => default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<float> Floats(byte* place, ref byte* values)
    {
        values += 64;
        return Vector512.Load((float*)(values - 64));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<uint> Words(byte* place, ref byte* values)
    {
        values += 64;
        return Vector512.Load((uint*)(values - 64));
    }
}

/// <summary>float32 weights.</summary>
internal sealed unsafe class Avx512FloatKernel<TPlaces> : PairKernel
    where TPlaces : struct, IPlaces512<TPlaces>
{
    protected override bool ReadsAhead => true;

    protected override (float First, float Second) Pair(byte* first, byte* second, PackedInput input, byte* ahead)
    {
        TPlaces places = TPlaces.Load();
        float* x = input.Values;
        int quarters = input.Blocks * 4;
        byte* v0 = first + input.Blocks * TPlaces.PlaceBytes, v1 = second + input.Blocks * TPlaces.PlaceBytes;
        Vector512<float> sum0 = default, sum1 = default;
        for (int q = 0; q < quarters; q++, first += 2, second += 2, x += 16, ahead += TPlaces.PlaceBytes > 0 ? 64 : 128)
        {
            ReadAhead.Lines(ahead, TPlaces.PlaceBytes > 0 ? 1 : 2, near: false);
            Vector512<float> at = Vector512.Load(x);
            sum0 = Avx512F.FusedMultiplyAdd(places.Floats(first, ref v0), at, sum0);
            sum1 = Avx512F.FusedMultiplyAdd(places.Floats(second, ref v1), at, sum1);
        }

        return (Lanes512.Sum(sum0), Lanes512.Sum(sum1));
    }

    public override void Four(byte* row, int columns, PackedInput input, int from, float* products)
    {
        TPlaces places = TPlaces.Load();
        int width = input.Blocks * RowCodec.Block;
        float* x0 = input.Values + (long)from * width, x1 = x0 + width, x2 = x1 + width, x3 = x2 + width;
        byte* values = row + input.Blocks * TPlaces.PlaceBytes;
        Vector512<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int j = 0; j < width; j += 16, row += 2)
        {
            Vector512<float> w = places.Floats(row, ref values);
            sum0 = Avx512F.FusedMultiplyAdd(w, Vector512.Load(x0 + j), sum0);
            sum1 = Avx512F.FusedMultiplyAdd(w, Vector512.Load(x1 + j), sum1);
            sum2 = Avx512F.FusedMultiplyAdd(w, Vector512.Load(x2 + j), sum2);
            sum3 = Avx512F.FusedMultiplyAdd(w, Vector512.Load(x3 + j), sum3);
        }

        (products[0], products[1], products[2], products[3]) = (Lanes512.Sum(sum0), Lanes512.Sum(sum1), Lanes512.Sum(sum2), Lanes512.Sum(sum3));
    }

    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        TPlaces places = TPlaces.Load();
        byte* values = row + blocks * TPlaces.PlaceBytes;
        for (int b = 0; b < blocks; b++)
        {
            float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
            for (int part = 0; part < 4; part++, row += 2)
            {
                places.Floats(row, ref values).Store(block + part * 16);
            }
        }
    }
}

/// <summary>16-bit weights.</summary>
internal sealed unsafe class Avx512HalfKernel<THalves, TPlaces> : PairKernel
    where THalves : struct, IHalves
    where TPlaces : struct, IPlaces512<TPlaces>
{
    protected override bool ReadsAhead => true;

    protected override (float First, float Second) Pair(byte* first, byte* second, PackedInput input, byte* ahead)
    {
        TPlaces places = TPlaces.Load();
        float* x = input.Values, end = x + input.Blocks * RowCodec.Block;
        byte* v0 = first + input.Blocks * TPlaces.PlaceBytes, v1 = second + input.Blocks * TPlaces.PlaceBytes;
        Vector512<float> even0 = default, odd0 = default, even1 = default, odd1 = default;
        for (; x < end; x += 64)
        {
            for (int half = 0; half < 2; half++, first += 4, second += 4, ahead += 128)
            {
                ReadAhead.Lines(ahead, 2, near: false);
                Vector512<float> even = Vector512.Load(x + half * 16), odd = Vector512.Load(x + 32 + half * 16);
                Vector512<uint> w0 = places.Words(first, ref v0), w1 = places.Words(second, ref v1);
                even0 = Avx512F.FusedMultiplyAdd(THalves.Even(w0), even, even0);
                odd0 = Avx512F.FusedMultiplyAdd(THalves.Odd(w0), odd, odd0);
                even1 = Avx512F.FusedMultiplyAdd(THalves.Even(w1), even, even1);
                odd1 = Avx512F.FusedMultiplyAdd(THalves.Odd(w1), odd, odd1);
            }
        }

        return (Lanes512.Sum(even0 + odd0), Lanes512.Sum(even1 + odd1));
    }

    public override void Four(byte* row, int columns, PackedInput input, int from, float* products)
    {
        TPlaces places = TPlaces.Load();
        int width = input.Blocks * RowCodec.Block;
        float* x0 = input.Values + (long)from * width, x1 = x0 + width, x2 = x1 + width, x3 = x2 + width;
        byte* values = row + input.Blocks * TPlaces.PlaceBytes;
        Vector512<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int step = 0; step < width / 32; step++, row += 4)
        {
            Vector512<uint> w = places.Words(row, ref values);
            Vector512<float> even = THalves.Even(w), odd = THalves.Odd(w);
            int j = (step >> 1) * 64 + (step & 1) * 16;
            sum0 = Add(even, odd, x0 + j, sum0);
            sum1 = Add(even, odd, x1 + j, sum1);
            sum2 = Add(even, odd, x2 + j, sum2);
            sum3 = Add(even, odd, x3 + j, sum3);
        }

        (products[0], products[1], products[2], products[3]) = (Lanes512.Sum(sum0), Lanes512.Sum(sum1), Lanes512.Sum(sum2), Lanes512.Sum(sum3));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Add(Vector512<float> even, Vector512<float> odd, float* x, Vector512<float> sum) =>
        Avx512F.FusedMultiplyAdd(odd, Vector512.Load(x + 32), Avx512F.FusedMultiplyAdd(even, Vector512.Load(x), sum));

    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        TPlaces places = TPlaces.Load();
        byte* values = row + blocks * TPlaces.PlaceBytes;
        for (int b = 0; b < blocks; b++)
        {
            float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
            for (int half = 0; half < 2; half++, row += 4)
            {
                Vector512<ushort> words = places.Words(row, ref values).AsUInt16();
                THalves.Even(Avx512F.ConvertToVector512UInt32(words.GetLower())).Store(block + half * 32);
                THalves.Even(Avx512F.ConvertToVector512UInt32(words.GetUpper())).Store(block + half * 32 + 16);
            }
        }
    }
}
