using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Espalier.Sparsity.Packed;

/// <summary>Tables by mask bits that say where each of as many columns finds its value among the kept ones; 0x80 (pshufb: zero) where none was.</summary>
internal static unsafe class ExpandTables
{
    /// <summary>Orders of 16-bit values, 16 bytes each.</summary>
    public static readonly byte* Words = Make(8, 2, 0);

    /// <summary>Orders of bytes, 8 bytes each.</summary>
    public static readonly byte* Low = Make(8, 1, 0);

    /// <summary>The same for values that lie 8 bytes further.</summary>
    public static readonly byte* High = Make(8, 1, 8);

    /// <summary>By four mask bits: orders of 32-bit values, 16 bytes each.</summary>
    public static readonly byte* Quads = Make(4, 4, 0);

    /// <summary>
    /// The same address, forgotten where it came from: the compiler knows those of static tables and would write one anew before each use; this one it keeps in a register.
    /// </summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static byte* InRegister(byte* table) => table;

    private static byte* Make(int columns, int size, int shift)
    {
        int masks = 1 << columns, width = columns * size;
        byte* table = (byte*)NativeMemory.AlignedAlloc((nuint)(masks * width), 64);
        for (int mask = 0; mask < masks; mask++)
        {
            for (int column = 0, next = 0; column < columns; column++)
            {
                bool kept = (mask >> column & 1) != 0;
                for (int b = 0; b < size; b++)
                {
                    table[mask * width + column * size + b] = kept ? (byte)(next * size + b + shift) : (byte)0x80;
                }

                next += kept ? 1 : 0;
            }
        }

        return table;
    }

    /// <summary>By the six bits of two 2:4 groups: orders of bytes, 8 bytes each.</summary>
    public static readonly byte* Groups = MakeGroups(0);

    /// <summary>The same for values that lie 4 bytes further, moved to the upper columns.</summary>
    public static readonly byte* NextGroups = MakeGroups(4);

    private static byte* MakeGroups(int shift)
    {
        byte* table = (byte*)NativeMemory.AlignedAlloc(64 * 8, 64), by = Make(8, 1, shift);
        for (int codes = 0; codes < 64; codes++)
        {
            int mask = TwoOfFour.Pairs[codes & 7] | TwoOfFour.Pairs[codes >> 3] << 4;
            *(ulong*)(table + codes * 8) = *(ulong*)(by + mask * 8);
        }

        NativeMemory.AlignedFree(by);
        return table;
    }
}
