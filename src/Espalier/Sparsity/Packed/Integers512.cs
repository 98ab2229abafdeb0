using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>How integer weights of a code and type come to their columns, 64 at a time. What a loop needs is loaded before it, by <see cref="Load"/>.</summary>
internal unsafe interface IIntegers512<TSelf>
    where TSelf : struct, IIntegers512<TSelf>
{
    /// <summary>The bytes per block that say where values belong.</summary>
    static abstract int PlaceBytes { get; }

    /// <summary>The scales per block.</summary>
    static abstract int ScaleCount { get; }

    /// <summary>Whether weights come as code + 8, without a sign.</summary>
    static abstract bool IsOffset { get; }

    /// <summary>The cache lines of two rows per block, rounded up for a matrix with half its weights.</summary>
    static abstract int LinesAhead { get; }

    /// <summary>With its constants in registers.</summary>
    static abstract TSelf Load();

    /// <summary>The next block's weights; moves the address behind its values.</summary>
    Vector512<sbyte> Take(byte* place, ref byte* values);
}

/// <summary>int8 with masks.</summary>
internal readonly unsafe struct MaskedBytes512 : IIntegers512<MaskedBytes512>
{
    private readonly Bits512 bits;

    private MaskedBytes512(Bits512 bits) => this.bits = bits;

    public static int PlaceBytes => 8;

    public static int ScaleCount => 0;

    public static bool IsOffset => false;

    public static int LinesAhead => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static MaskedBytes512 Load() => new(Bits512.OfBytes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<sbyte> Take(byte* place, ref byte* values)
    {
        Vector512<byte> all = Vector512.Load(values);
        values += BitOperations.PopCount(*(ulong*)place);
        return Avx512Vbmi2.Expand(Vector512<byte>.Zero, bits.At(place), all).AsSByte();
    }
}

/// <summary>int4 with masks.</summary>
internal readonly unsafe struct MaskedNibbles512 : IIntegers512<MaskedNibbles512>
{
    private readonly Bits512 bits;
    private readonly Nibbles512 nibbles;

    private MaskedNibbles512(Bits512 bits, Nibbles512 nibbles) => (this.bits, this.nibbles) = (bits, nibbles);

    public static int PlaceBytes => 8;

    public static int ScaleCount => 1;

    public static bool IsOffset => true;

    public static int LinesAhead => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static MaskedNibbles512 Load() => new(Bits512.OfBytes, Nibbles512.Load(Nibbles512.Eights));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<sbyte> Take(byte* place, ref byte* values)
    {
        Vector512<ulong> eights = Avx512F.ConvertToVector512UInt64(Vector256.Load((uint*)values));
        values += (uint)(BitOperations.PopCount(*(ulong*)place) + 1) >> 1;
        return Avx512Vbmi2.Expand(nibbles.Eight, bits.At(place), nibbles.Offset(Avx512Vbmi.MultiShift(nibbles.Shifts, eights))).AsSByte();
    }
}

/// <summary>Dense int8.</summary>
internal readonly unsafe struct DenseBytes512 : IIntegers512<DenseBytes512>
{
    public static int PlaceBytes => 0;

    public static int ScaleCount => 1;

    public static bool IsOffset => false;

    public static int LinesAhead => 3;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static DenseBytes512 Load() => default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<sbyte> Take(byte* place, ref byte* values)
    {
        values += 64;
        return Vector512.Load((sbyte*)values - 64);
    }
}

/// <summary>Dense int4: lower halves of bytes are the first 32 columns.</summary>
internal readonly unsafe struct DenseNibbles512 : IIntegers512<DenseNibbles512>
{
    private static readonly byte* Halves = Constants.Keep(64, i => i % 8 == 0 && i >= 32 ? 4 : 0);

    private readonly Nibbles512 nibbles;

    private DenseNibbles512(Nibbles512 nibbles) => this.nibbles = nibbles;

    public static int PlaceBytes => 0;

    public static int ScaleCount => 2;

    public static bool IsOffset => true;

    public static int LinesAhead => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static DenseNibbles512 Load() => new(Nibbles512.Load(Halves));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<sbyte> Take(byte* place, ref byte* values)
    {
        Vector512<ulong> pairs = Avx512F.BroadcastVector256ToVector512((ulong*)values);
        values += 32;
        return nibbles.Offset(Avx512F.ShiftRightLogicalVariable(pairs, nibbles.Shifts.AsUInt64()).AsByte()).AsSByte();
    }
}

/// <summary>2:4 int8, for several vectors and for dense rows; one vector has <see cref="Avx512GroupKernel{T}"/>.</summary>
internal readonly unsafe struct GroupBytes512 : IGroups512<GroupBytes512>
{
    private static readonly byte* Eights = Constants.Keep(Vector512.Create(0ul, 0, 1, 1, 2, 2, 3, 3).AsByte());

    private readonly Orders512 orders;
    private readonly Vector512<ulong> eights;

    private GroupBytes512(Orders512 orders, Vector512<ulong> eights) => (this.orders, this.eights) = (orders, eights);

    public static int PlaceBytes => TwoOfFour.BlockBytes;

    public static int ScaleCount => 0;

    public static bool IsOffset => false;

    public static int LinesAhead => 2;

    public static int ValueBytes => 32;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static GroupBytes512 Load() => new(Orders512.Load(), Vector512.Load((ulong*)Eights));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<sbyte> Take(byte* place, ref byte* values)
    {
        Vector512<ulong> spread = Avx512F.PermuteVar8x64(Vector256.Load((ulong*)values).ToVector512Unsafe(), eights);
        values += 32;
        return Avx512BW.Shuffle(spread.AsByte(), orders.At(place)).AsSByte();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<sbyte> TwoBlocks(byte* values) => Vector512.Load((sbyte*)values);
}

/// <summary>2:4 int4: lower halves of a block's 16 bytes are its first 16 values.</summary>
internal readonly unsafe struct GroupNibbles512 : IGroups512<GroupNibbles512>
{
    private static readonly byte* Pairs = Constants.Keep(Vector512.Create(0ul, 1, 0, 1, 2, 3, 2, 3).AsByte()),
        PairShifts = Constants.Keep(Vector512.Create(0ul, 0, 4, 4, 0, 0, 4, 4).AsByte()),
        Eights = Constants.Keep(Vector512.Create(0ul, 0, 1, 1, 0, 0, 1, 1).AsByte()),
        EightShifts = Constants.Keep(Vector512.Create(0ul, 0, 0, 0, 4, 4, 4, 4).AsByte());

    private readonly Orders512 orders;
    private readonly Nibbles512 nibbles;
    private readonly Vector512<ulong> pairs, eights, shifts;

    private GroupNibbles512(Orders512 orders, Nibbles512 nibbles) =>
        (this.orders, this.nibbles, pairs, eights, shifts) = (orders, nibbles, Vector512.Load((ulong*)Pairs), Vector512.Load((ulong*)Eights), Vector512.Load((ulong*)EightShifts));

    public static int PlaceBytes => TwoOfFour.BlockBytes;

    public static int ScaleCount => 1;

    public static bool IsOffset => false;

    public static int LinesAhead => 1;

    public static int ValueBytes => 16;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static GroupNibbles512 Load() => new(Orders512.Load(), Nibbles512.Load(PairShifts));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<sbyte> Take(byte* place, ref byte* values)
    {
        Vector512<ulong> spread = Avx512F.PermuteVar8x64(Vector128.Load((ulong*)values).ToVector256Unsafe().ToVector512Unsafe(), eights);
        values += 16;
        Vector512<byte> codes = nibbles.Offset(Avx512F.ShiftRightLogicalVariable(spread, shifts).AsByte());
        return Avx512BW.Shuffle(codes - nibbles.Eight, orders.At(place)).AsSByte();
    }

    /// <summary>As code + 8.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<sbyte> TwoBlocks(byte* values)
    {
        Vector512<ulong> spread = Avx512F.PermuteVar8x64(Vector256.Load((ulong*)values).ToVector512Unsafe(), pairs);
        return nibbles.Offset(Avx512F.ShiftRightLogicalVariable(spread, nibbles.Shifts.AsUInt64()).AsByte()).AsSByte();
    }
}

/// <summary>What the ways of 4-bit values share: shifts that bring them to the lower halves of bytes, and the rest.</summary>
internal readonly unsafe struct Nibbles512
{
    /// <summary>Multishift of eight 4-bit values out of the lower half of each lane.</summary>
    public static readonly byte* Eights = Constants.Keep(64, i => i % 8 * 4);

    private static readonly byte* Fifteens = Constants.Keep(64, _ => 15), AllEight = Constants.Keep(64, _ => 8);

    private readonly Vector512<byte> fifteen;

    private Nibbles512(Vector512<byte> shifts) => (Shifts, fifteen, Eight) = (shifts, Vector512.Load(Fifteens), Vector512.Load(AllEight));

    /// <summary>The shifts that it was made with.</summary>
    public Vector512<byte> Shifts { get; }

    /// <summary>8 everywhere, the offset of a weight of 0.</summary>
    public Vector512<byte> Eight { get; }

    /// <summary>With its constants in registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Nibbles512 Load(byte* shifts) => new(Vector512.Load(shifts));

    /// <summary>The lower half of each byte, two's complement, as code + 8.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<byte> Offset(Vector512<byte> bytes) => (bytes & fifteen) ^ Eight;
}
