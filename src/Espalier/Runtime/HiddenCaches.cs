using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;

namespace Espalier.Runtime;

/// <summary>
/// Keeps convolutions right on virtual machines that hide the sizes of the processor's caches (Firecracker on AMD, for example). The oneDNN in libtorch 2.10
/// (3.7.1) takes such a cache for one of a single byte, orders the loops that lay out weights accordingly, and then fills up with zeros what it has
/// just written: wherever channels are no multiple of its block, outputs and gradients are wrong, silently. Its kernels for SSE 4.1 lay out nothing.
/// </summary>
/// <remarks>`espalier doctor` computes convolutions and says whether they are right, whatever the reason.</remarks>
public static partial class HiddenCaches
{
    /// <summary>The environment variable that limits oneDNN; set by hand it is left as it is.</summary>
    public const string LimitVariable = "ONEDNN_MAX_CPU_ISA";

    private const string Limit = "SSE41";
    private const int CacheLeaf = unchecked((int)0x8000001D), HighestLeaf = unchecked((int)0x80000000), CacheType = 0x1F;

    /// <summary>Whether this processor hides them in the way that oneDNN misreads.</summary>
    public static bool Found { get; } = Detect();

    /// <summary>Limits oneDNN where that is needed; must come before libtorch is loaded.</summary>
    internal static void WorkAround()
    {
        if (!Found)
        {
            return;
        }

        Set(LimitVariable, Limit);
    }

    /// <summary>Leaves out NNPACK, which needs the sizes as well: libtorch would try it at every small convolution, and print each time that it cannot.</summary>
    /// <param name="torchCpu">The loaded library. Does nothing where it does not export the switch under its Linux name.</param>
    internal static unsafe void WithoutNnpack(nint torchCpu)
    {
        if (Found && NativeLibrary.TryGetExport(torchCpu, "_ZN2at13globalContextEv", out nint context) && NativeLibrary.TryGetExport(torchCpu, "_ZN2at7Context20setUserEnabledNNPACKEb", out nint enable))
        {
            ((delegate* unmanaged<nint, byte, void>)enable)(((delegate* unmanaged<nint>)context)(), 0);
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

    private static void Set(string name, string value)
    {
        if (Environment.GetEnvironmentVariable(name) is not null)
        {
            return;
        }

        Environment.SetEnvironmentVariable(name, value);
        if (!OperatingSystem.IsWindows())
        {
            // .NET keeps a copy of the environment, and native code reads the process's own.
            _ = SetNative(name, value, 1);
        }
    }

    [LibraryImport("libc", EntryPoint = "setenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int SetNative(string name, string value, int overwrite);
}
