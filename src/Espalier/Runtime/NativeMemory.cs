using System.Runtime.InteropServices;

namespace Espalier.Runtime;

/// <summary>The C library's heap, which holds on to freed tensors.</summary>
public static partial class NativeMemory
{
    private static bool _frugal;

    private static readonly bool HasTrim = RuntimeInformation.IsOSPlatform(OSPlatform.Linux);

    /// <summary>
    /// Gives freed heap memory back to the system: called between the blocks of a streamed model, whose tensors of some
    /// megabytes would otherwise stay resident as gaps. Costs a few milliseconds; does nothing where the C library lacks it.
    /// </summary>
    public static void Trim()
    {
        if (_frugal)
        {
            // Masks and file buffers are managed arrays that nobody holds any more.
            GC.Collect(GC.MaxGeneration, GCCollectionMode.Aggressive, blocking: true, compacting: true);
        }

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

    /// <summary>
    /// From now on tensors of a megabyte and more go back to the system when they are freed. Costs page faults on every such
    /// tensor, so it is for models that are streamed because they are large, not for training.
    /// </summary>
    /// <returns>Ends the mode when disposed.</returns>
    public static IDisposable ReturnLargeTensors()
    {
        SetMapThreshold(1 << 20);
        _frugal = true;
        return new Restore();
    }

    private static void SetMapThreshold(int bytes)
    {
        if (!HasTrim)
        {
            return;
        }

        try
        {
            _ = MallOpt(MapThreshold, bytes);
        }
        catch (EntryPointNotFoundException)
        {
            // As above.
        }
    }

    private sealed class Restore : IDisposable
    {
        /// <summary>The most that glibc lets its own adaptive threshold grow to.</summary>
        private const int LargestThreshold = 32 << 20;

        public void Dispose()
        {
            SetMapThreshold(LargestThreshold);
            _frugal = false;
        }
    }

    private const int MapThreshold = -3; // M_MMAP_THRESHOLD

    [LibraryImport("libc", EntryPoint = "mallopt")]
    private static partial int MallOpt(int parameter, int value);

    [LibraryImport("libc", EntryPoint = "malloc_trim")]
    private static partial int MallocTrim(nuint pad);
}
