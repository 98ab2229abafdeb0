using System.Runtime.InteropServices;

namespace Espalier.Runtime;

/// <summary>The C library's heap, which holds on to freed tensors.</summary>
public static partial class NativeMemory
{
    private static readonly bool HasTrim = RuntimeInformation.IsOSPlatform(OSPlatform.Linux);

    /// <summary>
    /// Gives freed heap memory back to the system: called between the blocks of a streamed model, whose tensors of some
    /// megabytes would otherwise stay resident as gaps. Costs a few milliseconds; does nothing where the C library lacks it.
    /// </summary>
    public static void Trim()
    {
        if (!HasTrim)
        {
            return;
        }

        try
        {
            _ = MallocTrim(0);
        }
        catch (EntryPointNotFoundException)
        {
            // musl has no malloc_trim and keeps no such gaps.
        }
    }

    [LibraryImport("libc", EntryPoint = "malloc_trim")]
    private static partial int MallocTrim(nuint pad);
}
