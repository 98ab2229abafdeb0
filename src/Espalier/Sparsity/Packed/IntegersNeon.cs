using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;

namespace Espalier.Sparsity.Packed;

/// <summary>How integer weights of a code and type come to their columns, 64 at a time, with their signs.</summary>
internal unsafe interface IIntegersNeon
{
    /// <summary>The bytes per block that say where values belong.</summary>
    static abstract int PlaceBytes { get; }

    /// <summary>The scales per block.</summary>
    static abstract int ScaleCount { get; }

    /// <summary>Prepares some blocks: where their values lie as bytes. Moves the address behind them, unless that is where they lie.</summary>
    static abstract byte* Open(byte* places, ref byte* values, int blocks, byte* room);

    /// <summary>The next block's weights; moves the address behind them.</summary>
    static abstract Block64 Take(byte* place, ref byte* opened);
}

/// <summary>What the ways of 4-bit values share.</summary>
internal static unsafe class NibblesNeon
{
    /// <summary>The lower half of each byte, two's complement, as a signed byte.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<sbyte> Low(Vector128<byte> pairs) => ((pairs & Vector128.Create((byte)15)) ^ Vector128.Create((byte)8)).AsSByte() - Vector128.Create((sbyte)8);

    /// <summary>The upper half.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<sbyte> High(Vector128<byte> pairs) => pairs.AsSByte() >> 4;
}

/// <summary>int8 with masks: per 16 columns two 8-byte orders out of tables make one lookup.</summary>
internal readonly unsafe struct MaskedBytesNeon : IIntegersNeon
{
    private static readonly byte* Low = ExpandTables.Low, High = ExpandTables.High;

    public static int PlaceBytes => 8;

    public static int ScaleCount => 0;

    public static byte* Open(byte* places, ref byte* values, int blocks, byte* room) => values;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Block64 Take(byte* place, ref byte* opened)
    {
        ulong mask = *(ulong*)place;
        byte* v = opened;
        var block = new Block64(Sixteen(mask, ref v), Sixteen(mask >> 16, ref v), Sixteen(mask >> 32, ref v), Sixteen(mask >> 48, ref v));
        opened = v;
        return block;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<sbyte> Sixteen(ulong mask, ref byte* values)
    {
        uint m0 = (byte)mask, m1 = (byte)(mask >> 8);
        byte* next = values + BitOperations.PopCount(m0);
        var both = Vector128.Create(*(ulong*)values, *(ulong*)next);
        var order = Vector128.Create(*(ulong*)(Low + (m0 * 8)), *(ulong*)(High + (m1 * 8)));
        values = next + BitOperations.PopCount(m1);
        return AdvSimd.Arm64.VectorTableLookup(both.AsByte(), order.AsByte()).AsSByte();
    }
}

/// <summary>int4 with masks: many blocks become bytes first, then as int8.</summary>
internal readonly unsafe struct MaskedNibblesNeon : IIntegersNeon
{
    public static int PlaceBytes => 8;

    public static int ScaleCount => 1;

    public static byte* Open(byte* places, ref byte* values, int blocks, byte* room)
    {
        byte* to = room, from = values;
        for (int b = 0; b < blocks; b++)
        {
            int count = BitOperations.PopCount(((ulong*)places)[b]);
            for (int at = 0; at < count; at += 32)
            {
                Vector128<byte> pairs = Vector128.Load(from + (at / 2));
                Vector128<sbyte> low = NibblesNeon.Low(pairs), high = NibblesNeon.High(pairs);
                AdvSimd.Arm64.ZipLow(low, high).Store((sbyte*)to + at);
                AdvSimd.Arm64.ZipHigh(low, high).Store((sbyte*)to + at + 16);
            }

            to += count;
            from += (count + 1) >> 1;
        }

        values = from;
        return room;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Block64 Take(byte* place, ref byte* opened) => MaskedBytesNeon.Take(place, ref opened);
}

/// <summary>Dense int8.</summary>
internal readonly unsafe struct DenseBytesNeon : IIntegersNeon
{
    public static int PlaceBytes => 0;

    public static int ScaleCount => 1;

    public static byte* Open(byte* places, ref byte* values, int blocks, byte* room) => values;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Block64 Take(byte* place, ref byte* opened)
    {
        sbyte* v = (sbyte*)opened;
        opened += 64;
        return new Block64(Vector128.Load(v), Vector128.Load(v + 16), Vector128.Load(v + 32), Vector128.Load(v + 48));
    }
}

/// <summary>Dense int4: lower halves of bytes are the first 32 columns.</summary>
internal readonly unsafe struct DenseNibblesNeon : IIntegersNeon
{
    public static int PlaceBytes => 0;

    public static int ScaleCount => 2;

    public static byte* Open(byte* places, ref byte* values, int blocks, byte* room) => values;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Block64 Take(byte* place, ref byte* opened)
    {
        Vector128<byte> a = Vector128.Load(opened), b = Vector128.Load(opened + 16);
        opened += 32;
        return new Block64(NibblesNeon.Low(a), NibblesNeon.Low(b), NibblesNeon.High(a), NibblesNeon.High(b));
    }
}

/// <summary>2:4 int8: as with masks, but where values lie is known beforehand.</summary>
internal readonly unsafe struct GroupBytesNeon : IIntegersNeon
{
    private static readonly byte* Groups = ExpandTables.Groups, NextGroups = ExpandTables.NextGroups;

    public static int PlaceBytes => TwoOfFour.BlockBytes;

    public static int ScaleCount => 0;

    public static byte* Open(byte* places, ref byte* values, int blocks, byte* room) => values;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Block64 Take(byte* place, ref byte* opened)
    {
        ulong codes = TwoOfFour.Codes(place);
        byte* v = opened;
        opened += 32;
        return new Block64(Sixteen(codes, v), Sixteen(codes >> 12, v + 8), Sixteen(codes >> 24, v + 16), Sixteen(codes >> 36, v + 24));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<sbyte> Sixteen(ulong codes, byte* values)
    {
        var order = Vector128.Create(*(ulong*)(Groups + (((uint)codes & 63) * 8)), *(ulong*)(NextGroups + (((uint)codes >> 6 & 63) * 8)));
        return AdvSimd.Arm64.VectorTableLookup(Vector128.Create(*(ulong*)values, 0).AsByte(), order.AsByte()).AsSByte();
    }
}

/// <summary>2:4 int4: many blocks become bytes first, then as int8.</summary>
internal readonly unsafe struct GroupNibblesNeon : IIntegersNeon
{
    public static int PlaceBytes => TwoOfFour.BlockBytes;

    public static int ScaleCount => 1;

    public static byte* Open(byte* places, ref byte* values, int blocks, byte* room)
    {
        for (int b = 0; b < blocks; b++, values += 16)
        {
            Vector128<byte> pairs = Vector128.Load(values);
            NibblesNeon.Low(pairs).Store((sbyte*)room + (b * 32));
            NibblesNeon.High(pairs).Store((sbyte*)room + (b * 32) + 16);
        }

        return room;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Block64 Take(byte* place, ref byte* opened) => GroupBytesNeon.Take(place, ref opened);
}
