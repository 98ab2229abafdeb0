using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Sparsity.Packed;

/// <summary>Fetches what comes next. Rows are too short for the processor to read ahead by itself: it stops at the end of each and of each page.</summary>
internal static unsafe class ReadAhead
{
    /// <summary>How many bytes behind the beginning of the next rows fetching begins: two short rows take less time than memory does to answer.</summary>
    public const int Lead = 2048;

    /// <summary>Fetches cache lines, without a loop inside the loop.</summary>
    /// <param name="from">The first byte.</param>
    /// <param name="lines">How many: 1 to 4.</param>
    /// <param name="near">Into the first cache, else the second: what is read fast would wait for the first one's few places.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Lines(byte* from, int lines, bool near)
    {
        Line(from, near);
        if (lines > 1)
        {
            Line(from + 64, near);
        }

        if (lines > 2)
        {
            Line(from + 128, near);
        }

        if (lines > 3)
        {
            Line(from + 192, near);
        }
    }

    /// <summary>Fetches all from one address to another into the second cache.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Range(byte* from, byte* end)
    {
        if (Sse.IsSupported)
        {
            for (; from < end; from += 64)
            {
                Sse.Prefetch1(from);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Line(byte* from, bool near)
    {
        if (near)
        {
            Sse.Prefetch0(from);
        }
        else
        {
            Sse.Prefetch1(from);
        }
    }
}
