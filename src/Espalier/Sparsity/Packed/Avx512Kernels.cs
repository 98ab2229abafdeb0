using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>What the AVX-512 kernels share: masks as vectors, and values expanded in a register (VBMI2, AVX-512F).</summary>
internal static unsafe class Expand512
{
    /// <summary>16 floats at their columns; moves the address behind those taken.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Floats(uint mask, ref byte* values)
    {
        Vector512<uint> bits = Vector512.Create(1u, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768);
        Vector512<float> all = Vector512.Load((float*)values);
        values += BitOperations.PopCount(mask) * 4;
        return Avx512F.Expand(Vector512<float>.Zero, Vector512.Equals(Vector512.Create(mask) & bits, bits).AsSingle(), all);
    }

    /// <summary>32 16-bit values at their columns.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<uint> Words(uint mask, ref byte* values)
    {
        Vector512<byte> spread = Vector512.Create(0ul, 0, 0x0101010101010101, 0x0101010101010101, 0x0202020202020202, 0x0202020202020202, 0x0303030303030303, 0x0303030303030303).AsByte();
        Vector512<ushort> bits = Vector512.Create(0x0008000400020001ul, 0x0080004000200010, 0x0008000400020001, 0x0080004000200010, 0x0008000400020001, 0x0080004000200010, 0x0008000400020001, 0x0080004000200010).AsUInt16();
        Vector512<ushort> keep = Vector512.Equals(Avx512BW.Shuffle(Vector512.Create(mask).AsByte(), spread).AsUInt16() & bits, bits);
        Vector512<ushort> all = Vector512.Load((ushort*)values);
        values += BitOperations.PopCount(mask) * 2;
        return Avx512Vbmi2.Expand(Vector512<ushort>.Zero, keep, all).AsUInt32();
    }

    /// <summary>64 bytes at their columns, and others where there is none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<sbyte> Bytes(ulong mask, Vector512<byte> all, Vector512<byte> others)
    {
        Vector512<byte> spread = Vector512.Create(
            0ul, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303, 0x0404040404040404, 0x0505050505050505, 0x0606060606060606, 0x0707070707070707).AsByte();
        Vector512<byte> bits = Vector512.Create(0x8040201008040201ul).AsByte();
        Vector512<byte> keep = Vector512.Equals(Avx512BW.Shuffle(Vector512.Create(mask).AsByte(), spread) & bits, bits);
        return Avx512Vbmi2.Expand(others, keep, all).AsSByte();
    }
}

/// <summary>How float weights of a code come to their columns.</summary>
internal unsafe interface IPlaces512
{
    /// <summary>The bytes per block that say where values belong.</summary>
    static abstract int PlaceBytes { get; }

    /// <summary>16 floats; moves the address behind those taken.</summary>
    static abstract Vector512<float> Floats(byte* place, ref byte* values);

    /// <summary>32 16-bit values.</summary>
    static abstract Vector512<uint> Words(byte* place, ref byte* values);
}

/// <summary>By a bit mask.</summary>
internal readonly unsafe struct Masks512 : IPlaces512
{
    public static int PlaceBytes => 8;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Floats(byte* place, ref byte* values) => Expand512.Floats(*(ushort*)place, ref values);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<uint> Words(byte* place, ref byte* values) => Expand512.Words(*(uint*)place, ref values);
}

/// <summary>They lie there already.</summary>
internal readonly unsafe struct Dense512 : IPlaces512
{
    public static int PlaceBytes => 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Floats(byte* place, ref byte* values)
    {
        values += 64;
        return Vector512.Load((float*)(values - 64));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<uint> Words(byte* place, ref byte* values)
    {
        values += 64;
        return Vector512.Load((uint*)(values - 64));
    }
}

/// <summary>float32 weights.</summary>
internal sealed unsafe class Avx512FloatKernel<TPlaces> : RowKernel
    where TPlaces : struct, IPlaces512
{
    public override (float First, float Second) Pair(byte* first, byte* second, int columns, PackedInput input)
    {
        float* x = input.Values;
        int quarters = input.Blocks * 4;
        byte* v0 = first + input.Blocks * TPlaces.PlaceBytes, v1 = second + input.Blocks * TPlaces.PlaceBytes;
        Vector512<float> sum0 = default, sum1 = default;
        for (int q = 0; q < quarters; q++, first += 2, second += 2, x += 16)
        {
            Vector512<float> at = Vector512.Load(x);
            sum0 = Avx512F.FusedMultiplyAdd(TPlaces.Floats(first, ref v0), at, sum0);
            sum1 = Avx512F.FusedMultiplyAdd(TPlaces.Floats(second, ref v1), at, sum1);
        }

        return (Vector512.Sum(sum0), Vector512.Sum(sum1));
    }

    public override void Four(byte* row, int columns, PackedInput input, int from, float* products)
    {
        int width = input.Blocks * RowCodec.Block;
        float* x0 = input.Values + (long)from * width, x1 = x0 + width, x2 = x1 + width, x3 = x2 + width;
        byte* values = row + input.Blocks * TPlaces.PlaceBytes;
        Vector512<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int j = 0; j < width; j += 16, row += 2)
        {
            Vector512<float> w = TPlaces.Floats(row, ref values);
            sum0 = Avx512F.FusedMultiplyAdd(w, Vector512.Load(x0 + j), sum0);
            sum1 = Avx512F.FusedMultiplyAdd(w, Vector512.Load(x1 + j), sum1);
            sum2 = Avx512F.FusedMultiplyAdd(w, Vector512.Load(x2 + j), sum2);
            sum3 = Avx512F.FusedMultiplyAdd(w, Vector512.Load(x3 + j), sum3);
        }

        (products[0], products[1], products[2], products[3]) = (Vector512.Sum(sum0), Vector512.Sum(sum1), Vector512.Sum(sum2), Vector512.Sum(sum3));
    }

    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        byte* values = row + blocks * TPlaces.PlaceBytes;
        for (int b = 0; b < blocks; b++)
        {
            float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
            for (int part = 0; part < 4; part++, row += 2)
            {
                TPlaces.Floats(row, ref values).Store(block + part * 16);
            }
        }
    }
}

/// <summary>16-bit weights.</summary>
internal sealed unsafe class Avx512HalfKernel<THalves, TPlaces> : RowKernel
    where THalves : struct, IHalves
    where TPlaces : struct, IPlaces512
{
    public override (float First, float Second) Pair(byte* first, byte* second, int columns, PackedInput input)
    {
        float* x = input.Values, end = x + input.Blocks * RowCodec.Block;
        byte* v0 = first + input.Blocks * TPlaces.PlaceBytes, v1 = second + input.Blocks * TPlaces.PlaceBytes;
        Vector512<float> even0 = default, odd0 = default, even1 = default, odd1 = default;
        for (; x < end; x += 64)
        {
            for (int half = 0; half < 2; half++, first += 4, second += 4)
            {
                Vector512<float> even = Vector512.Load(x + half * 16), odd = Vector512.Load(x + 32 + half * 16);
                Vector512<uint> w0 = TPlaces.Words(first, ref v0), w1 = TPlaces.Words(second, ref v1);
                even0 = Avx512F.FusedMultiplyAdd(THalves.Even(w0), even, even0);
                odd0 = Avx512F.FusedMultiplyAdd(THalves.Odd(w0), odd, odd0);
                even1 = Avx512F.FusedMultiplyAdd(THalves.Even(w1), even, even1);
                odd1 = Avx512F.FusedMultiplyAdd(THalves.Odd(w1), odd, odd1);
            }
        }

        return (Vector512.Sum(even0 + odd0), Vector512.Sum(even1 + odd1));
    }

    public override void Four(byte* row, int columns, PackedInput input, int from, float* products)
    {
        int width = input.Blocks * RowCodec.Block;
        float* x0 = input.Values + (long)from * width, x1 = x0 + width, x2 = x1 + width, x3 = x2 + width;
        byte* values = row + input.Blocks * TPlaces.PlaceBytes;
        Vector512<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
        for (int step = 0; step < width / 32; step++, row += 4)
        {
            Vector512<uint> w = TPlaces.Words(row, ref values);
            Vector512<float> even = THalves.Even(w), odd = THalves.Odd(w);
            int j = (step >> 1) * 64 + (step & 1) * 16;
            sum0 = Add(even, odd, x0 + j, sum0);
            sum1 = Add(even, odd, x1 + j, sum1);
            sum2 = Add(even, odd, x2 + j, sum2);
            sum3 = Add(even, odd, x3 + j, sum3);
        }

        (products[0], products[1], products[2], products[3]) = (Vector512.Sum(sum0), Vector512.Sum(sum1), Vector512.Sum(sum2), Vector512.Sum(sum3));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Add(Vector512<float> even, Vector512<float> odd, float* x, Vector512<float> sum) =>
        Avx512F.FusedMultiplyAdd(odd, Vector512.Load(x + 32), Avx512F.FusedMultiplyAdd(even, Vector512.Load(x), sum));

    protected override void ExpandBlocks(byte* row, float scale, int blocks, float* to, float* last)
    {
        byte* values = row + blocks * TPlaces.PlaceBytes;
        for (int b = 0; b < blocks; b++)
        {
            float* block = b < blocks - 1 ? to + b * (long)RowCodec.Block : last;
            for (int half = 0; half < 2; half++, row += 4)
            {
                Vector512<ushort> words = TPlaces.Words(row, ref values).AsUInt16();
                THalves.Even(Avx512F.ConvertToVector512UInt32(words.GetLower())).Store(block + half * 32);
                THalves.Even(Avx512F.ConvertToVector512UInt32(words.GetUpper())).Store(block + half * 32 + 16);
            }
        }
    }
}
