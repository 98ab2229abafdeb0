using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using TorchSharp;

namespace Espalier.Runtime;

/// <summary>
/// Keeps convolutions right on virtual machines that hide the sizes of the processor's caches (Firecracker on AMD, for example). The oneDNN in libtorch 2.10
/// (3.7.1) takes such a cache for one of a single byte, orders the loops that lay out weights accordingly, and then fills up with zeros what it has
/// just written: wherever channels are no multiple of its block, outputs and gradients are wrong, silently.
/// </summary>
/// <remarks>
/// oneDNN asks the processor once and keeps the answer in its data. On Linux the sizes that the processor does tell elsewhere (leaves 0x80000005 and 0x80000006) are
/// written there. Where no such answer is found, libtorch computes convolutions without oneDNN; on other systems oneDNN is held to its kernels for SSE 4.1, which lay out
/// nothing. `espalier doctor` computes convolutions and says whether they are right, whatever the reason.
/// </remarks>
public static class HiddenCaches
{
    /// <summary>The environment variable that limits oneDNN; where it is set by hand, nothing is done about hidden caches.</summary>
    public const string LimitVariable = "ONEDNN_MAX_CPU_ISA";

    private const string Limit = "SSE41";
    private const int CacheLeaf = unchecked((int)0x8000001D), HighestLeaf = unchecked((int)0x80000000), FirstLevelLeaf = unchecked((int)0x80000005), SecondLevelLeaf = unchecked((int)0x80000006);
    private const int CacheType = 0x1F, Levels = 3, MostLevels = 10, KiB = 1024;
    private const uint ThirdLevelPerCore = 2048 * KiB;
    private static bool toTell;

    /// <summary>Whether this processor hides them in the way that oneDNN misreads.</summary>
    public static bool Found { get; } = Detect();

    /// <summary>What was done about it; null where nothing had to be, or the variable was set by hand.</summary>
    public static string? Remedy { get; private set; }

    /// <summary>To be called before libtorch is loaded.</summary>
    internal static void BeforeLoading()
    {
        if (!Found || Environment.GetEnvironmentVariable(LimitVariable) is not null)
        {
            return;
        }

        if (OperatingSystem.IsLinux())
        {
            toTell = true;
        }
        else
        {
            Environment.SetEnvironmentVariable(LimitVariable, Limit);
            Remedy = $"oneDNN is held to {Limit}";
        }
    }

    /// <summary>To be called when all of libtorch is loaded, before anything is computed.</summary>
    /// <param name="torchCpu">The loaded libtorch_cpu.</param>
    internal static void AfterLoading(nint torchCpu)
    {
        if (!Found)
        {
            return;
        }

        // NNPACK needs the sizes as well: libtorch would try it at every small convolution, and print each time that it cannot.
        _ = SwitchOff(torchCpu, "_ZN2at7Context20setUserEnabledNNPACKEb");
        if (!toTell)
        {
            return;
        }

        using (torch.Tensor some = torch.ones(2, 2))
        {
            using torch.Tensor product = some.matmul(some); // makes oneDNN ask
        }

        if (Tell())
        {
            Remedy = "oneDNN is told the sizes";
        }
        else if (SwitchOff(torchCpu, "_ZN2at7Context20setUserEnabledMkldnnEb"))
        {
            Remedy = "libtorch convolves without oneDNN";
        }
    }

    /// <summary>Switches off what libtorch's global context calls <paramref name="name"/>; false where this libtorch has no such switch.</summary>
    private static unsafe bool SwitchOff(nint torchCpu, string name)
    {
        if (!NativeLibrary.TryGetExport(torchCpu, "_ZN2at13globalContextEv", out nint context) || !NativeLibrary.TryGetExport(torchCpu, name, out nint enable))
        {
            return false;
        }

        ((delegate* unmanaged<nint, byte, void>)enable)(((delegate* unmanaged<nint>)context)(), 0);
        return true;
    }

    /// <summary>Writes the sizes to where oneDNN keeps its (Xbyak's <c>Cpu</c>: bytes of data caches, cores that share each, number of levels); false unless there is exactly one such place.</summary>
    private static unsafe bool Tell()
    {
        int[] hidden = [.. Enumerable.Repeat(1, Levels), .. new int[MostLevels - Levels], .. Enumerable.Repeat(1, Levels), .. new int[MostLevels - Levels], Levels];
        ReadOnlySpan<byte> pattern = MemoryMarshal.AsBytes<int>(hidden);
        byte* place = null;
        foreach ((nint start, nint end) in DataOfTorch())
        {
            var data = new ReadOnlySpan<byte>((void*)start, checked((int)(end - start)));
            for (int at = data.IndexOf(pattern), next; at >= 0; at = next < 0 ? -1 : at + 1 + next)
            {
                if (place != null)
                {
                    return false;
                }

                place = (byte*)start + at;
                next = data[(at + 1)..].IndexOf(pattern);
            }
        }

        if (place == null)
        {
            return false;
        }

        uint first = (uint)X86Base.CpuId(FirstLevelLeaf, 0).Ecx >> 24, second = (uint)X86Base.CpuId(SecondLevelLeaf, 0).Ecx >> 16;
        var sizes = (uint*)place;
        (sizes[0], sizes[1], sizes[2]) = ((first == 0 ? 32 : first) * KiB, (second == 0 ? 512 : second) * KiB, ThirdLevelPerCore);
        return true;
    }

    /// <summary>The writable parts of libtorch_cpu in this process: those of its file, and the one behind them that starts as zeros.</summary>
    private static IEnumerable<(nint Start, nint End)> DataOfTorch()
    {
        nint endOfLast = 0;
        foreach (string line in File.ReadLines("/proc/self/maps"))
        {
            string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            string[] ends = words[0].Split('-');
            (nint start, nint end) = (nint.Parse(ends[0], NumberStyles.HexNumber, CultureInfo.InvariantCulture), nint.Parse(ends[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture));
            bool ofFile = line.EndsWith("/libtorch_cpu.so", StringComparison.Ordinal);
            if (ofFile || (words.Length == 5 && start == endOfLast))
            {
                if (words[1].StartsWith("rw", StringComparison.Ordinal))
                {
                    yield return (start, end);
                }

                endOfLast = end;
            }
        }
    }

    private static bool Detect()
    {
        if (!X86Base.IsSupported)
        {
            return false;
        }

        (_, int b, int c, int d) = X86Base.CpuId(0, 0);
        bool amd = (b, d, c) is (0x68747541, 0x69746E65, 0x444D4163) or (0x6F677948, 0x6E65476E, 0x656E6975); // AuthenticAMD, HygonGenuine
        return amd && (uint)X86Base.CpuId(HighestLeaf, 0).Eax >= unchecked((uint)CacheLeaf) && (X86Base.CpuId(CacheLeaf, 0).Eax & CacheType) == 0;
    }
}
