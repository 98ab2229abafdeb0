using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>How integer weights of a code and type come to their columns, 64 at a time.</summary>
internal unsafe interface IIntegers256
{
    /// <summary>The bytes per block that say where values belong.</summary>
    static abstract int PlaceBytes { get; }

    /// <summary>The scales per block.</summary>
    static abstract int ScaleCount { get; }

    /// <summary>Whether weights come as code + 8, without a sign.</summary>
    static abstract bool IsOffset { get; }

    /// <summary>Prepares some blocks: where their values lie as bytes. Moves the address behind them, unless that is where they lie.</summary>
    static abstract byte* Open(byte* places, ref byte* values, int blocks, byte* room);

    /// <summary>The next block's weights, the first 32 as the result; moves the address behind them.</summary>
    static abstract Vector256<sbyte> Take(byte* place, ref byte* opened, out Vector256<sbyte> second);
}

/// <summary>What the ways of 4-bit values share.</summary>
internal static unsafe class Nibbles256
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Low(Vector256<byte> pairs) => pairs & Vector256.Create((byte)0x0F);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> High(Vector256<byte> pairs) => (pairs.AsUInt16() >>> 4).AsByte() & Vector256.Create((byte)0x0F);
}

/// <summary>int8 with masks: per 16 columns two 8-byte orders out of tables make one byte shuffle.</summary>
internal readonly unsafe struct MaskedBytes256 : IIntegers256
{
    private static readonly byte* Low = ExpandTables.Low, High = ExpandTables.High;

    public static int PlaceBytes => 8;

    public static int ScaleCount => 0;

    public static bool IsOffset => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* Open(byte* places, ref byte* values, int blocks, byte* room) => values;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<sbyte> Take(byte* place, ref byte* opened, out Vector256<sbyte> second)
    {
        ulong mask = *(ulong*)place;
        byte* low = Low, high = High, v = opened;
        Vector128<byte> a = Sixteen(low, high, mask, ref v), b = Sixteen(low, high, mask >> 16, ref v);
        Vector128<byte> c = Sixteen(low, high, mask >> 32, ref v), d = Sixteen(low, high, mask >> 48, ref v);
        opened = v;
        second = Vector256.Create(c, d).AsSByte();
        return Vector256.Create(a, b).AsSByte();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<byte> Sixteen(byte* low, byte* high, ulong mask, ref byte* values)
    {
        uint m0 = (byte)mask, m1 = (byte)(mask >> 8);
        byte* next = values + BitOperations.PopCount(m0);
        Vector128<byte> both = Sse2.LoadHigh(Vector128.CreateScalar(*(ulong*)values).AsDouble(), (double*)next).AsByte();
        Vector128<byte> order = Sse2.LoadHigh(Vector128.CreateScalar(*(ulong*)(low + m0 * 8)).AsDouble(), (double*)(high + m1 * 8)).AsByte();
        values = next + BitOperations.PopCount(m1);
        return Ssse3.Shuffle(both, order);
    }
}

/// <summary>int4 with masks: many blocks become bytes first, then as int8.</summary>
internal readonly unsafe struct MaskedNibbles256 : IIntegers256
{
    public static int PlaceBytes => 8;

    public static int ScaleCount => 1;

    public static bool IsOffset => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* Open(byte* places, ref byte* values, int blocks, byte* room)
    {
        Vector256<byte> decode = Vector256.Create(0x0706050403020100ul, 0xFFFEFDFCFBFAF9F8, 0x0706050403020100, 0xFFFEFDFCFBFAF9F8).AsByte();
        byte* to = room, from = values;
        for (int b = 0; b < blocks; b++)
        {
            int count = BitOperations.PopCount(((ulong*)places)[b]);
            for (int at = 0; at < count; at += 32)
            {
                Vector256<ushort> wide = Avx2.ConvertToVector256Int16(from + at / 2).AsUInt16();
                Avx2.Shuffle(decode, ((wide | wide << 4) & Vector256.Create((ushort)0x0F0F)).AsByte()).Store(to + at);
            }

            to += count;
            from += (count + 1) >> 1;
        }

        values = from;
        return room;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<sbyte> Take(byte* place, ref byte* opened, out Vector256<sbyte> second) => MaskedBytes256.Take(place, ref opened, out second);
}

/// <summary>Dense int8.</summary>
internal readonly unsafe struct DenseBytes256 : IIntegers256
{
    public static int PlaceBytes => 0;

    public static int ScaleCount => 1;

    public static bool IsOffset => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* Open(byte* places, ref byte* values, int blocks, byte* room) => values;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<sbyte> Take(byte* place, ref byte* opened, out Vector256<sbyte> second)
    {
        opened += 64;
        second = Vector256.Load((sbyte*)opened - 32);
        return Vector256.Load((sbyte*)opened - 64);
    }
}

/// <summary>Dense int4: lower halves of bytes are the first 32 columns.</summary>
internal readonly unsafe struct DenseNibbles256 : IIntegers256
{
    public static int PlaceBytes => 0;

    public static int ScaleCount => 2;

    public static bool IsOffset => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* Open(byte* places, ref byte* values, int blocks, byte* room) => values;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<sbyte> Take(byte* place, ref byte* opened, out Vector256<sbyte> second)
    {
        Vector256<byte> pairs = Vector256.Load(opened) ^ Vector256.Create((byte)0x88);
        opened += 32;
        second = Nibbles256.High(pairs).AsSByte();
        return Nibbles256.Low(pairs).AsSByte();
    }
}

/// <summary>2:4 int8: as with masks, but where values lie is known beforehand.</summary>
internal readonly unsafe struct GroupBytes256 : IIntegers256
{
    private static readonly byte* Groups = ExpandTables.Groups, NextGroups = ExpandTables.NextGroups;

    public static int PlaceBytes => TwoOfFour.BlockBytes;

    public static int ScaleCount => 0;

    public static bool IsOffset => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* Open(byte* places, ref byte* values, int blocks, byte* room) => values;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<sbyte> Take(byte* place, ref byte* opened, out Vector256<sbyte> second)
    {
        ulong codes = *(ulong*)place;
        byte* low = Groups, high = NextGroups;
        Vector256<ulong> values = Vector256.Load((ulong*)opened);
        opened += 32;
        Vector256<byte> upper = Avx2.Permute4x64(values, 0b11_11_10_10).AsByte(), lower = Avx2.Permute4x64(values, 0b01_01_00_00).AsByte();
        second = Avx2.Shuffle(upper, Vector256.Create(Order(low, high, codes >> 24), Order(low, high, codes >> 36))).AsSByte();
        return Avx2.Shuffle(lower, Vector256.Create(Order(low, high, codes), Order(low, high, codes >> 12))).AsSByte();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<byte> Order(byte* low, byte* high, ulong codes) => Sse2.LoadHigh(
        Vector128.CreateScalar(*(ulong*)(low + ((uint)codes & 63) * 8)).AsDouble(), (double*)(high + ((uint)codes >> 6 & 63) * 8)).AsByte();
}

/// <summary>2:4 int4: many blocks become bytes first, then as int8.</summary>
internal readonly unsafe struct GroupNibbles256 : IIntegers256
{
    public static int PlaceBytes => TwoOfFour.BlockBytes;

    public static int ScaleCount => 1;

    public static bool IsOffset => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* Open(byte* places, ref byte* values, int blocks, byte* room)
    {
        Vector128<byte> decode = Vector128.Create(0x0706050403020100ul, 0xFFFEFDFCFBFAF9F8).AsByte();
        byte* from = values;
        for (int b = 0; b < blocks; b++, from += 16)
        {
            Vector128<byte> pairs = Vector128.Load(from);
            Vector256<byte> codes = Nibbles256.Low(Vector256.Create(pairs, (pairs.AsUInt16() >>> 4).AsByte()));
            Avx2.Shuffle(Vector256.Create(decode, decode), codes).Store(room + b * RowCodec.Block / 2);
        }

        values = from;
        return room;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<sbyte> Take(byte* place, ref byte* opened, out Vector256<sbyte> second) => GroupBytes256.Take(place, ref opened, out second);
}
