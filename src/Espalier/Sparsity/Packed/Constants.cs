using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Espalier.Sparsity.Packed;

/// <summary>Constants, kept in memory and loaded before a loop: the compiler would else read each anew in every turn, and there are few reads per cycle.</summary>
internal static unsafe class Constants
{
    /// <summary>Keeps a vector; the memory is never given back.</summary>
    /// <param name="size">Its bytes.</param>
    /// <param name="at">Each byte by its place.</param>
    public static byte* Keep(int size, Func<int, int> at)
    {
        byte* memory = (byte*)NativeMemory.AlignedAlloc((nuint)size, (nuint)size);
        for (int i = 0; i < size; i++)
        {
            memory[i] = (byte)at(i);
        }

        return memory;
    }

    /// <summary>Keeps a vector of 64 bytes.</summary>
    public static byte* Keep(Vector512<byte> vector) => Keep(64, i => vector[i]);
}
