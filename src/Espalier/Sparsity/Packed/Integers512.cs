using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>How integer weights of a code and type come to their columns, 64 at a time.</summary>
internal unsafe interface IIntegers512
{
    /// <summary>The bytes per block that say where values belong.</summary>
    static abstract int PlaceBytes { get; }

    /// <summary>The scales per block.</summary>
    static abstract int ScaleCount { get; }

    /// <summary>Whether weights come as code + 8, without a sign.</summary>
    static abstract bool IsOffset { get; }

    /// <summary>The next block's weights; moves the address behind its values.</summary>
    static abstract Vector512<sbyte> Take(byte* place, ref byte* values);
}

/// <summary>int8 with masks.</summary>
internal readonly unsafe struct MaskedBytes512 : IIntegers512
{
    public static int PlaceBytes => 8;

    public static int ScaleCount => 0;

    public static bool IsOffset => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<sbyte> Take(byte* place, ref byte* values)
    {
        ulong mask = *(ulong*)place;
        Vector512<byte> all = Vector512.Load(values);
        values += BitOperations.PopCount(mask);
        return Expand512.Bytes(mask, all, Vector512<byte>.Zero);
    }
}

/// <summary>int4 with masks.</summary>
internal readonly unsafe struct MaskedNibbles512 : IIntegers512
{
    public static int PlaceBytes => 8;

    public static int ScaleCount => 1;

    public static bool IsOffset => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<sbyte> Take(byte* place, ref byte* values)
    {
        ulong mask = *(ulong*)place;
        Vector512<ushort> wide = Avx512BW.ConvertToVector512UInt16(Vector256.Load(values));
        values += (BitOperations.PopCount(mask) + 1) >> 1;
        return Expand512.Bytes(mask, Nibbles512.Offset((wide | wide << 4).AsByte()), Vector512.Create((byte)8));
    }
}

/// <summary>Dense int8.</summary>
internal readonly unsafe struct DenseBytes512 : IIntegers512
{
    public static int PlaceBytes => 0;

    public static int ScaleCount => 1;

    public static bool IsOffset => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<sbyte> Take(byte* place, ref byte* values)
    {
        values += 64;
        return Vector512.Load((sbyte*)values - 64);
    }
}

/// <summary>Dense int4: lower halves of bytes are the first 32 columns.</summary>
internal readonly unsafe struct DenseNibbles512 : IIntegers512
{
    public static int PlaceBytes => 0;

    public static int ScaleCount => 2;

    public static bool IsOffset => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<sbyte> Take(byte* place, ref byte* values)
    {
        Vector256<byte> pairs = Vector256.Load(values);
        values += 32;
        return Nibbles512.Offset(Vector512.Create(pairs, (pairs.AsUInt16() >>> 4).AsByte())).AsSByte();
    }
}

/// <summary>2:4 int8, for several vectors and for dense rows; one vector has <see cref="Avx512GroupKernel{T}"/>.</summary>
internal readonly unsafe struct GroupBytes512 : IGroups512
{
    public static int PlaceBytes => TwoOfFour.BlockBytes;

    public static int ScaleCount => 0;

    public static bool IsOffset => false;

    public static int ValueBytes => 32;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<sbyte> Take(byte* place, ref byte* values)
    {
        Vector512<ulong> eights = Avx512F.PermuteVar8x64(Vector256.Load((ulong*)values).ToVector512Unsafe(), Vector512.Create(0ul, 0, 1, 1, 2, 2, 3, 3));
        values += 32;
        return Avx512BW.Shuffle(eights.AsByte(), Groups512.Orders(place)).AsSByte();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<sbyte> TwoBlocks(byte* values) => Vector512.Load((sbyte*)values);
}

/// <summary>2:4 int4: lower halves of a block's 16 bytes are its first 16 values.</summary>
internal readonly unsafe struct GroupNibbles512 : IGroups512
{
    public static int PlaceBytes => TwoOfFour.BlockBytes;

    public static int ScaleCount => 1;

    public static bool IsOffset => false;

    public static int ValueBytes => 16;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<sbyte> Take(byte* place, ref byte* values)
    {
        Vector512<ulong> eights = Avx512F.PermuteVar8x64(Vector128.Load((ulong*)values).ToVector256Unsafe().ToVector512Unsafe(), Vector512.Create(0ul, 0, 1, 1, 0, 0, 1, 1));
        values += 16;
        Vector512<byte> codes = Nibbles512.Offset(Avx512F.ShiftRightLogicalVariable(eights, Vector512.Create(0ul, 0, 0, 0, 4, 4, 4, 4)).AsByte());
        return Avx512BW.Shuffle(codes - Vector512.Create((byte)8), Groups512.Orders(place)).AsSByte();
    }

    /// <summary>As code + 8.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<sbyte> TwoBlocks(byte* values)
    {
        Vector512<ulong> pairs = Avx512F.PermuteVar8x64(Vector256.Load((ulong*)values).ToVector512Unsafe(), Vector512.Create(0ul, 1, 0, 1, 2, 3, 2, 3));
        return Nibbles512.Offset(Avx512F.ShiftRightLogicalVariable(pairs, Vector512.Create(0ul, 0, 4, 4, 0, 0, 4, 4)).AsByte()).AsSByte();
    }
}

/// <summary>What the ways of 4-bit values share.</summary>
internal static class Nibbles512
{
    /// <summary>The lower half of each byte, two's complement, as code + 8.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> Offset(Vector512<byte> pairs) => (pairs & Vector512.Create((byte)0x0F)) ^ Vector512.Create((byte)8);
}
