using System.Numerics;

namespace Espalier.Sparsity.Packed;

/// <summary>The 2:4 code: three bits per group of four columns name the two that are stored; 16 groups of a block take six bytes.</summary>
internal static unsafe class TwoOfFour
{
    /// <summary>The bytes of a block's 16 groups.</summary>
    public const int BlockBytes = 6;

    /// <summary>The columns of a group, as bits, by its code: 01, 02, 03, 12, 13, 23; two codes name nothing.</summary>
    public static ReadOnlySpan<byte> Pairs => [0b0011, 0b0101, 0b1001, 0b0110, 0b1010, 0b1100, 0, 0];

    /// <summary>Whether no group of four has more than two columns set.</summary>
    public static bool Fits(ulong mask)
    {
        // Counts of pairs, then of groups.
        ulong pairs = mask - (mask >> 1 & 0x5555555555555555), groups = (pairs & 0x3333333333333333) + (pairs >> 2 & 0x3333333333333333);
        return ((groups + 0x5555555555555555) & 0x8888888888888888) == 0;
    }

    /// <summary>The mask with exactly two columns set in each group: where there are fewer the first free ones join.</summary>
    public static ulong Complete(ulong mask)
    {
        ulong all = 0;
        for (int shift = 0; shift < 64; shift += 4)
        {
            uint group = (uint)(mask >> shift) & 15;
            while (BitOperations.PopCount(group) < 2)
            {
                group |= group + 1;
            }

            all |= (ulong)group << shift;
        }

        return all;
    }

    /// <summary>Writes the codes of a block whose mask is complete.</summary>
    public static void Write(ulong mask, byte* to)
    {
        ulong codes = 0;
        for (int group = 0; group < 16; group++)
        {
            codes |= (ulong)Pairs.IndexOf((byte)(mask >> (4 * group) & 15)) << (3 * group);
        }

        for (int i = 0; i < BlockBytes; i++)
        {
            to[i] = (byte)(codes >> (8 * i));
        }
    }

    /// <summary>The codes of a block in the lower 48 bits.</summary>
    public static ulong Codes(byte* from) => *(uint*)from | (ulong)*(ushort*)(from + 4) << 32;

    /// <summary>The mask of a block; a group whose code names nothing has no columns.</summary>
    public static ulong Read(byte* from)
    {
        ulong codes = Codes(from), mask = 0;
        for (int group = 0; group < 16; group++)
        {
            mask |= (ulong)Pairs[(int)(codes >> (3 * group) & 7)] << (4 * group);
        }

        return mask;
    }
}
