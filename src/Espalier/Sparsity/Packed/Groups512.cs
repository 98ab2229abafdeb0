using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>2:4 values that can be taken two blocks at a time, in their own order.</summary>
internal unsafe interface IGroups512 : IIntegers512
{
    /// <summary>The bytes of a block's values.</summary>
    static abstract int ValueBytes { get; }

    /// <summary>The 64 values of two blocks; 4-bit ones as code + 8.</summary>
    static abstract Vector512<sbyte> TwoBlocks(byte* values);
}

/// <summary>
/// The 2:4 code in vectors: VBMI's multishift cuts the three bits of each group out of the stream, and a table makes of them either the
/// columns of values (inputs are then moved to the values) or the values of columns.
/// </summary>
internal static unsafe class Groups512
{
    private static readonly Vector512<byte>
        ColumnBytes = Bytes(i => (12 * (i / 8) / 8) + i % 8 % 2), ColumnShifts = Bytes(i => 12 * (i / 8) % 8 + 3 * (i % 8 / 2)),
        Second = Bytes(i => i % 2 * 8), ColumnTable = Bytes(i => Column(i % 8, i % 16 / 8)), ColumnBase = Bytes(i => i / 2 * 4),
        OrderBytes = Bytes(i => (6 * (i / 8) / 8) + i % 8 % 2), OrderShifts = Bytes(i => 6 * (i / 8) % 8 + 3 * (i % 8 / 4)),
        InGroup = Bytes(i => i % 4 * 8), OrderTable = Bytes(i => i < 32 ? Order(i % 8, i / 8) : 0x80), OrderBase = Bytes(i => i % 16 / 4 * 2);

    /// <summary>The column of each of the 64 values of two blocks: 0 to 127.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> Columns(byte* places)
    {
        Vector512<byte> codes = Codes(places, ColumnBytes, ColumnShifts, Second);
        return Avx512BW.Shuffle(ColumnTable, codes) | ColumnBase;
    }

    /// <summary>Of each of a block's 64 columns, which of the eight values of its 16 columns it has; 0x80 for none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> Orders(byte* place)
    {
        Vector512<byte> codes = Codes(place, OrderBytes, OrderShifts, InGroup);
        return Avx512Vbmi.PermuteVar64x8(OrderTable, codes) | OrderBase;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<byte> Codes(byte* places, Vector512<byte> bytes, Vector512<byte> shifts, Vector512<byte> which)
    {
        Vector128<byte> sixteen = Vector128.Load(places);
        Vector512<byte> spread = Avx512BW.Shuffle(Vector512.Create(Vector256.Create(sixteen, sixteen), Vector256.Create(sixteen, sixteen)), bytes);
        return (Avx512Vbmi.MultiShift(shifts, spread.AsUInt64()) & Vector512.Create((byte)7)) | which;
    }

    private static int Column(int code, int which)
    {
        uint pair = TwoOfFour.Pairs[code];
        return System.Numerics.BitOperations.TrailingZeroCount(which == 0 ? pair : pair & (pair - 1)) & 3;
    }

    private static int Order(int code, int column)
    {
        uint pair = TwoOfFour.Pairs[code];
        return (pair >> column & 1) == 0 ? 0x80 : (pair & ((1u << column) - 1)) == 0 ? 0 : 1;
    }

    private static Vector512<byte> Bytes(Func<int, int> at)
    {
        Span<byte> bytes = stackalloc byte[64];
        for (int i = 0; i < 64; i++)
        {
            bytes[i] = (byte)at(i);
        }

        return Vector512.Create<byte>(bytes);
    }
}
