using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Loader;

namespace Espalier.Tests.Fuzzing;

/// <summary>
/// The branches that a reading took, where the library was instrumented with SharpFuzz (bench/fuzz.sh does it to a copy and names the
/// folder in ESPALIER_FUZZ_COVERAGE); nothing otherwise.
/// </summary>
internal static unsafe class Coverage
{
    private const int Size = 1 << 16;
    private static byte* map;
    private static readonly byte[] Seen = new byte[Size];

    /// <summary>Counts of branches seen.</summary>
    public static int Branches { get; private set; }

    [ModuleInitializer]
    internal static void Attach()
    {
        if (Environment.GetEnvironmentVariable("ESPALIER_FUZZ_COVERAGE") is not { Length: > 0 } folder)
        {
            return;
        }

        Assembly common = AssemblyLoadContext.Default.LoadFromAssemblyPath(Path.Combine(folder, "SharpFuzz.Common.dll"));
        AssemblyLoadContext.Default.Resolving += (_, name) => name.Name == "SharpFuzz.Common" ? common : null;
        map = (byte*)NativeMemory.AllocZeroed(Size);
        common.GetType("SharpFuzz.Common.Trace", throwOnError: true)!.GetField("SharedMem")!.SetValue(null, Pointer.Box(map, typeof(byte*)));
    }

    /// <summary>Forgets what other readers did.</summary>
    public static void Reset()
    {
        Array.Clear(Seen);
        Branches = 0;
    }

    /// <summary>Forgets the last reading.</summary>
    public static void Begin()
    {
        if (map is not null)
        {
            new Span<byte>(map, Size).Clear();
        }
    }

    /// <summary>Whether the last reading took a branch, or took it some other order of times, as none did before.</summary>
    public static bool IsNew()
    {
        bool found = false;
        for (int i = 0; map is not null && i < Size; i++)
        {
            if (map[i] == 0)
            {
                continue;
            }

            byte bucket = (byte)(1 << (31 - int.LeadingZeroCount(map[i])));
            if ((Seen[i] & bucket) == 0)
            {
                Branches += Seen[i] == 0 ? 1 : 0;
                Seen[i] |= bucket;
                found = true;
            }
        }

        return found;
    }
}
