using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>2:4 values that can be taken two blocks at a time, in their own order.</summary>
internal unsafe interface IGroups512<TSelf> : IIntegers512<TSelf>
    where TSelf : struct, IGroups512<TSelf>
{
    /// <summary>The bytes of a block's values.</summary>
    static abstract int ValueBytes { get; }

    /// <summary>The 64 values of two blocks; 4-bit ones as code + 8.</summary>
    Vector512<sbyte> TwoBlocks(byte* values);
}

/// <summary>
/// The 2:4 code in vectors: VBMI's multishift cuts the three bits of each group out of the stream, and a table makes of them the
/// columns of values (inputs are then moved to the values).
/// </summary>
internal readonly unsafe struct Columns512
{
    private static readonly byte* Bytes = Constants.Keep(64, i => (12 * (i / 8) / 8) + (i % 8 % 2)), Shifts = Constants.Keep(64, i => (12 * (i / 8) % 8) + (3 * (i % 8 / 2))),
        Second = Constants.Keep(64, i => i % 2 * 8), Table = Constants.Keep(64, i => Column(i % 8, i % 16 / 8)), Base = Constants.Keep(64, i => i / 2 * 4), Sevens = Constants.Keep(64, _ => 7);

    private readonly Vector512<byte> bytes, shifts, second, table, first, seven;

    private Columns512(byte* bytes, byte* shifts, byte* second, byte* table, byte* first, byte* seven) =>
        (this.bytes, this.shifts, this.second, this.table, this.first, this.seven)
            = (Vector512.Load(bytes), Vector512.Load(shifts), Vector512.Load(second), Vector512.Load(table), Vector512.Load(first), Vector512.Load(seven));

    /// <summary>With its constants in registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Columns512 Load() => new(Bytes, Shifts, Second, Table, Base, Sevens);

    /// <summary>The column of each of the 64 values of two blocks: 0 to 127.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<byte> At(byte* places)
    {
        Vector512<byte> spread = Avx512BW.Shuffle(Avx512F.BroadcastVector128ToVector512((uint*)places).AsByte(), bytes);
        Vector512<byte> codes = (Avx512Vbmi.MultiShift(shifts, spread.AsUInt64()) & seven) | second;
        return Avx512BW.Shuffle(table, codes) | first;
    }

    private static int Column(int code, int which)
    {
        uint pair = TwoOfFour.Pairs[code];
        return System.Numerics.BitOperations.TrailingZeroCount(which == 0 ? pair : pair & (pair - 1)) & 3;
    }
}

/// <summary>The same for the other way: a table makes of the three bits the values of columns.</summary>
internal readonly unsafe struct Orders512
{
    private static readonly byte* Bytes = Constants.Keep(64, i => (6 * (i / 8) / 8) + (i % 8 % 2)), Shifts = Constants.Keep(64, i => (6 * (i / 8) % 8) + (3 * (i % 8 / 4))),
        InGroup = Constants.Keep(64, i => i % 4 * 8), Table = Constants.Keep(64, i => i < 32 ? Order(i % 8, i / 8) : 0x80), Base = Constants.Keep(64, i => i % 16 / 4 * 2), Sevens = Constants.Keep(64, _ => 7);

    private readonly Vector512<byte> bytes, shifts, inGroup, table, first, seven;

    private Orders512(byte* bytes, byte* shifts, byte* inGroup, byte* table, byte* first, byte* seven) =>
        (this.bytes, this.shifts, this.inGroup, this.table, this.first, this.seven)
            = (Vector512.Load(bytes), Vector512.Load(shifts), Vector512.Load(inGroup), Vector512.Load(table), Vector512.Load(first), Vector512.Load(seven));

    /// <summary>With its constants in registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Orders512 Load() => new(Bytes, Shifts, InGroup, Table, Base, Sevens);

    /// <summary>Of each of a block's 64 columns, which of the eight values of its 16 columns it has; 0x80 for none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public Vector512<byte> At(byte* place)
    {
        Vector512<byte> spread = Avx512BW.Shuffle(Avx512F.BroadcastVector128ToVector512((uint*)place).AsByte(), bytes);
        Vector512<byte> codes = (Avx512Vbmi.MultiShift(shifts, spread.AsUInt64()) & seven) | inGroup;
        return Avx512Vbmi.PermuteVar64x8(table, codes) | first;
    }

    private static int Order(int code, int column)
    {
        uint pair = TwoOfFour.Pairs[code];
        return (pair >> column & 1) == 0 ? 0x80 : (pair & ((1u << column) - 1)) == 0 ? 0 : 1;
    }
}
