using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>How integer weights of a code and type come to their columns, 64 at a time. What a loop needs is loaded before it, by <see cref="Load"/>.</summary>
internal unsafe interface IIntegers256<TSelf>
    where TSelf : struct, IIntegers256<TSelf>
{
    /// <summary>The bytes per block that say where values belong.</summary>
    static abstract int PlaceBytes { get; }

    /// <summary>The scales per block.</summary>
    static abstract int ScaleCount { get; }

    /// <summary>Whether weights come as code + 8, without a sign.</summary>
    static abstract bool IsOffset { get; }

    /// <summary>Whether values must become bytes first, many blocks at a time.</summary>
    static virtual bool Opens => false;

    /// <summary>The cache lines of two rows per block, rounded up for a matrix with half its weights.</summary>
    static abstract int LinesAhead { get; }

    /// <summary>With its constants in registers.</summary>
    static abstract TSelf Load();

    /// <summary>Writes the values of some blocks as bytes, where values must be opened.</summary>
    /// <param name="places">What says where their values belong.</param>
    /// <param name="values">The values.</param>
    /// <param name="blocks">How many blocks.</param>
    /// <param name="room">Room for 64 bytes for each block and 64 more.</param>
    /// <returns>The address behind the values.</returns>
    static virtual byte* Open(byte* places, byte* values, int blocks, byte* room) => values;

    /// <summary>The next block's weights, the first 32 as the result; moves the address behind its values.</summary>
    Vector256<sbyte> Take(byte* place, ref byte* values, out Vector256<sbyte> second);
}

/// <summary>4-bit values as bytes.</summary>
internal static class Nibbles256
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Low(Vector256<byte> pairs) => pairs & Vector256.Create((byte)0x0F);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> High(Vector256<byte> pairs) => (pairs.AsUInt16() >>> 4).AsByte() & Vector256.Create((byte)0x0F);
}

/// <summary>
/// Bit masks, in two ways at once that need different parts of the processor: for the first 32 columns the number of columns kept before each, which is the order
/// of a byte shuffle, is computed in a vector; for the others orders are read from tables. Either way alone is slower.
/// </summary>
internal readonly unsafe struct Masks64
{
    private static readonly byte* Bits = Constants.Keep(32, i => 1 << (i % 8)), Bytes = Constants.Keep(32, i => i / 8), Ones = Constants.Keep(32, _ => 1),
        NextFour = Constants.Keep(32, i => i % 8 < 4 ? 0x80 : (i & 8) + 3), NextEight = Constants.Keep(32, i => i % 16 < 8 ? 0x80 : 7);

    private readonly Vector256<byte> bits, bytes, nextFour, nextEight;
    private readonly Vector256<int> ones;
    private readonly byte* low, high;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Masks64()
    {
        (bits, bytes, ones, nextFour, nextEight) = (Vector256.Load(Bits), Vector256.Load(Bytes), Vector256.Load((int*)Ones), Vector256.Load(NextFour), Vector256.Load(NextEight));
        low = ExpandTables.InRegister(ExpandTables.Low);
        high = ExpandTables.InRegister(ExpandTables.High);
    }

    /// <summary>The bytes of a block's 64 columns, 0 where none is kept, the first 32 as the result; moves the address behind its values.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector256<byte> Take(byte* place, ref byte* values, out Vector256<byte> second)
    {
        byte* v = values + Popcnt.X64.PopCount(*(uint*)place);
        Vector256<byte> first = ThirtyTwo(place, values);
        Vector128<byte> c = Sixteen(place + 4, ref v), d = Sixteen(place + 6, ref v);
        values = v;
        second = Vector256.Create(c, d);
        return first;
    }

    // A product with 0x01010101 sums the bytes of each four columns; the sums of earlier fours and eights are then added to later ones.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private Vector256<byte> ThirtyTwo(byte* place, byte* values)
    {
        Vector256<byte> kept = Avx2.CompareEqual(Avx2.Shuffle(Avx2.BroadcastScalarToVector256((uint*)place).AsByte(), bytes) & bits, bits);
        Vector256<byte> counts = Avx2.MultiplyLow(Avx2.Abs(kept.AsSByte()).AsInt32(), ones).AsByte();
        counts += Avx2.Shuffle(counts, nextFour);
        counts += Avx2.Shuffle(counts, nextEight);
        Vector256<byte> lanes = Vector256.Create(Vector128.Load(values), Vector128.Load(values + Popcnt.X64.PopCount(*(ushort*)place)));
        return Avx2.Shuffle(lanes, counts + kept) & kept;
    }

    // Two orders of eight bytes; the second one's table is of values that stand eight bytes further.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private Vector128<byte> Sixteen(byte* place, ref byte* values)
    {
        ulong first = place[0], second = place[1];
        byte* next = values + Popcnt.X64.PopCount(first);
        Vector128<byte> both = Sse2.LoadHigh(Vector128.CreateScalar(*(ulong*)values).AsDouble(), (double*)next).AsByte();
        Vector128<byte> order = Sse2.LoadHigh(Vector128.CreateScalar(*(ulong*)(low + first * 8)).AsDouble(), (double*)(high + second * 8)).AsByte();
        values = next + Popcnt.X64.PopCount(second);
        return Ssse3.Shuffle(both, order);
    }
}

/// <summary>int8 with masks.</summary>
internal readonly unsafe struct MaskedBytes256 : IIntegers256<MaskedBytes256>
{
    private readonly Masks64 masks;

    private MaskedBytes256(Masks64 masks) => this.masks = masks;

    public static int PlaceBytes => 8;

    public static int ScaleCount => 0;

    public static bool IsOffset => false;

    public static int LinesAhead => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static MaskedBytes256 Load() => new(new Masks64());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector256<sbyte> Take(byte* place, ref byte* values, out Vector256<sbyte> second)
    {
        Vector256<byte> first = masks.Take(place, ref values, out Vector256<byte> next);
        second = next.AsSByte();
        return first.AsSByte();
    }
}

/// <summary>int4 with masks.</summary>
internal readonly unsafe struct MaskedNibbles256 : IIntegers256<MaskedNibbles256>
{
    private readonly Masks64 masks;

    private MaskedNibbles256(Masks64 masks) => this.masks = masks;

    public static int PlaceBytes => 8;

    public static int ScaleCount => 1;

    public static bool IsOffset => true;

    public static bool Opens => true;

    public static int LinesAhead => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static MaskedNibbles256 Load() => new(new Masks64());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* Open(byte* places, byte* values, int blocks, byte* room)
    {
        for (int b = 0; b < blocks; b++)
        {
            // All that 64 columns can have: to ask how many there are would be guessed wrong too often.
            Bytes(values).Store(room);
            Bytes(values + 16).Store(room + 32);
            int count = BitOperations.PopCount(((ulong*)places)[b]);
            room += count;
            values += (count + 1) >> 1;
        }

        return values;
    }

    // Codes in two's complement turn into code + 8 by their highest bit, and what is not kept into 8.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector256<sbyte> Take(byte* place, ref byte* values, out Vector256<sbyte> second)
    {
        Vector256<byte> first = masks.Take(place, ref values, out Vector256<byte> next), eight = Vector256.Create((byte)8);
        second = (next ^ eight).AsSByte();
        return (first ^ eight).AsSByte();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<byte> Bytes(byte* pairs)
    {
        Vector256<ushort> wide = Avx2.ConvertToVector256Int16(pairs).AsUInt16();
        return ((wide | wide << 4) & Vector256.Create((ushort)0x0F0F)).AsByte();
    }
}

/// <summary>Dense int8.</summary>
internal readonly unsafe struct DenseBytes256 : IIntegers256<DenseBytes256>
{
    public static int PlaceBytes => 0;

    public static int ScaleCount => 1;

    public static bool IsOffset => false;

    public static int LinesAhead => 3;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static DenseBytes256 Load() => default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector256<sbyte> Take(byte* place, ref byte* values, out Vector256<sbyte> second)
    {
        values += 64;
        second = Vector256.Load((sbyte*)values - 32);
        return Vector256.Load((sbyte*)values - 64);
    }
}

/// <summary>Dense int4: lower halves of bytes are the first 32 columns.</summary>
internal readonly unsafe struct DenseNibbles256 : IIntegers256<DenseNibbles256>
{
    public static int PlaceBytes => 0;

    public static int ScaleCount => 2;

    public static bool IsOffset => true;

    public static int LinesAhead => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static DenseNibbles256 Load() => default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector256<sbyte> Take(byte* place, ref byte* values, out Vector256<sbyte> second)
    {
        Vector256<byte> pairs = Vector256.Load(values) ^ Vector256.Create((byte)0x88);
        values += 32;
        second = Nibbles256.High(pairs).AsSByte();
        return Nibbles256.Low(pairs).AsSByte();
    }
}

/// <summary>The 2:4 code, 32 columns at a time: the three bits of each group choose one of eight orders of four bytes.</summary>
internal readonly unsafe struct Groups32
{
    // Each half of a vector holds all 16 values, of which it needs eight.
    private static readonly byte* Shifts = Constants.Keep(32, i => i % 4 == 0 ? i / 4 * 3 : 0), Firsts = Constants.Keep(32, i => i / 4 * 2);

    /// <summary>Orders by code with 0x80, which brings 0, for what is not kept.</summary>
    public static readonly byte* OrNothing = Constants.Keep(32, i => Order(i / 4, i % 4, 0x80));

    /// <summary>Orders with 8, which brings a value of the eight that a half does not need.</summary>
    public static readonly byte* OrOther = Constants.Keep(32, i => Order(i / 4, i % 4, 8));

    private readonly Vector256<uint> shifts, orders;
    private readonly Vector256<byte> firsts;

    private Groups32(byte* orders, byte* shifts, byte* firsts) =>
        (this.orders, this.shifts, this.firsts) = (Vector256.Load((uint*)orders), Vector256.Load((uint*)shifts), Vector256.Load(firsts));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Groups32 Load(byte* orders) => new(orders, Shifts, Firsts);

    /// <summary>The order of a byte shuffle, from 16 values that stand in both halves.</summary>
    /// <param name="codes">24 bits.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector256<byte> At(byte* codes) =>
        Avx2.PermuteVar8x32(orders, Avx2.ShiftRightLogicalVariable(Avx2.BroadcastScalarToVector256((uint*)codes), shifts)).AsByte() + firsts;

    private static int Order(int code, int column, int none)
    {
        uint pair = TwoOfFour.Pairs[code];
        return (pair >> column & 1) == 0 ? none : BitOperations.PopCount(pair & ((1u << column) - 1));
    }
}

/// <summary>2:4 int8.</summary>
internal readonly unsafe struct GroupBytes256 : IIntegers256<GroupBytes256>
{
    private readonly Groups32 groups;

    private GroupBytes256(Groups32 groups) => this.groups = groups;

    public static int PlaceBytes => TwoOfFour.BlockBytes;

    public static int ScaleCount => 0;

    public static bool IsOffset => false;

    public static int LinesAhead => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static GroupBytes256 Load() => new(Groups32.Load(Groups32.OrNothing));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector256<sbyte> Take(byte* place, ref byte* values, out Vector256<sbyte> second)
    {
        Vector256<byte> first = Avx2.BroadcastVector128ToVector256(values), next = Avx2.BroadcastVector128ToVector256(values + 16);
        values += 32;
        second = Avx2.Shuffle(next, groups.At(place + 3)).AsSByte();
        return Avx2.Shuffle(first, groups.At(place)).AsSByte();
    }
}

/// <summary>2:4 int4: lower halves of bytes are the values of the first 32 columns.</summary>
internal readonly unsafe struct GroupNibbles256 : IIntegers256<GroupNibbles256>
{
    private readonly Groups32 groups;

    private GroupNibbles256(Groups32 groups) => this.groups = groups;

    public static int PlaceBytes => TwoOfFour.BlockBytes;

    public static int ScaleCount => 1;

    public static bool IsOffset => true;

    public static int LinesAhead => 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static GroupNibbles256 Load() => new(Groups32.Load(Groups32.OrOther));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector256<sbyte> Take(byte* place, ref byte* values, out Vector256<sbyte> second)
    {
        Vector256<byte> pairs = Avx2.BroadcastVector128ToVector256(values) ^ Vector256.Create((byte)0x88);
        values += 16;
        second = Eights(Nibbles256.High(pairs), groups.At(place + 3));
        return Eights(Nibbles256.Low(pairs), groups.At(place));
    }

    // What is not kept is code 0, an 8: these stand where the other half of the vector has its values.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<sbyte> Eights(Vector256<byte> values, Vector256<byte> order) =>
        Avx2.Shuffle(Avx2.Blend(values.AsUInt32(), Vector256.Create(0x08080808u), 0b0011_1100).AsByte(), order).AsSByte();
}
