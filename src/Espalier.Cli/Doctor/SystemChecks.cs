using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;
using Espalier.Runtime;

namespace Espalier.Cli.Doctor;

/// <summary>The machine: system, processor, memory, folders.</summary>
internal static class SystemChecks
{
    private const long Gibibyte = 1L << 30;

    public static IEnumerable<Check> All()
    {
        yield return new Check("system", Health.Ok, $"{RuntimeInformation.OSDescription}, {RuntimeInformation.OSArchitecture}, .NET {Environment.Version}");
        yield return Processor();
        yield return Memory();
        yield return CacheFolder();
        yield return Offline();
        yield return Writable("working folder", Directory.GetCurrentDirectory(), "Go to a folder that you may write to, or give --out a path elsewhere.");
        yield return Writable("temporary folder", Path.GetTempPath(), "Set TMPDIR to a folder that you may write to.");
    }

    private static Check Processor()
    {
        var sets = new List<string>();
        void Add(bool there, string name)
        {
            if (there)
            {
                sets.Add(name);
            }
        }

        Add(Avx2.IsSupported, "AVX2");
        Add(Fma.IsSupported, "FMA");
        Add(Avx512F.IsSupported, "AVX-512");
        Add(Avx512Vbmi.IsSupported, "AVX-512-VBMI");
        Add(AdvSimd.IsSupported, "NEON");
        Add(Dp.IsSupported, "NEON dot product");
        string found = $"{Environment.ProcessorCount} cores, {(sets.Count > 0 ? string.Join(", ", sets) : "no vector instructions that Espalier uses")}";
        return sets.Count > 0
            ? new Check("processor", Health.Ok, found)
            : new Check("processor", Health.Warn, found, "Everything works, but the sparse kernels run in plain code, slowly.");
    }

    private static Check Memory()
    {
        GCMemoryInfo memory = GC.GetGCMemoryInfo();
        long total = memory.TotalAvailableMemoryBytes, free = Available() ?? Math.Max(total - memory.MemoryLoadBytes, 0);
        string found = $"{Text.Bytes(total)}, about {Text.Bytes(free)} free";
        return free >= 2 * Gibibyte
            ? new Check("memory", Health.Ok, found)
            : new Check("memory", Health.Warn, found, "Small models only: close other programs, or use a smaller --batch and --context.");
    }

    // .NET knows the load only after a collection; Linux says it at any time.
    private static long? Available()
    {
        const string path = "/proc/meminfo";
        string? line = File.Exists(path) ? File.ReadLines(path).FirstOrDefault(l => l.StartsWith("MemAvailable:", StringComparison.Ordinal)) : null;
        return line is not null && long.TryParse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], out long kibibytes) ? kibibytes * 1024 : null;
    }

    /// <summary>Where downloaded models lie: HF_HUB_CACHE, else HF_HOME/hub, else the usual folder in the home directory.</summary>
    internal static (string Path, string Because) HubCache()
    {
        if (Environment.GetEnvironmentVariable("HF_HUB_CACHE") is { Length: > 0 } cache)
        {
            return (Path.GetFullPath(cache), "HF_HUB_CACHE");
        }

        if (Environment.GetEnvironmentVariable("HF_HOME") is { Length: > 0 } home)
        {
            return (Path.GetFullPath(Path.Combine(home, "hub")), "HF_HOME");
        }

        string user = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        return Environment.GetEnvironmentVariable("XDG_CACHE_HOME") is { Length: > 0 } xdg
            ? (Path.GetFullPath(Path.Combine(xdg, "huggingface", "hub")), "XDG_CACHE_HOME")
            : (Path.Combine(user, ".cache", "huggingface", "hub"), "the usual place");
    }

    private static Check CacheFolder()
    {
        var (path, because) = HubCache();
        return Writable("model cache", path, "Set HF_HOME to a folder with room that you may write to; reading models from it works as it is.", because, unwritable: Health.Warn);
    }

    private static Check Offline() =>
        Environment.GetEnvironmentVariable("HF_HUB_OFFLINE") is "1" or "true" or "TRUE" or "ON" or "YES"
            ? new Check("network", Health.Ok, "HF_HUB_OFFLINE is set: models come from the cache only")
            : new Check("network", Health.Ok, "models that are not in the cache are downloaded (HF_HUB_OFFLINE=1 forbids it)");

    private static Check Writable(string name, string folder, string advice, string? because = null, Health unwritable = Health.Fail)
    {
        string shown = because is null ? folder : $"{folder} ({because})";
        string existing = folder;
        while (!Directory.Exists(existing) && Path.GetDirectoryName(existing) is { } parent)
        {
            existing = parent;
        }

        try
        {
            string probe = Path.Combine(existing, $".espalier-{Guid.NewGuid():N}");
            using (new FileStream(probe, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1, FileOptions.DeleteOnClose))
            {
            }
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            return new Check(name, unwritable, $"{shown}: not writable", advice);
        }

        long free = new DriveInfo(existing).AvailableFreeSpace;
        string found = $"{shown}: writable, {Text.Bytes(free)} free";
        return free >= 2 * Gibibyte
            ? new Check(name, Health.Ok, found)
            : new Check(name, Health.Warn, found, "Less than 2 GiB of room is left; a model may not fit. Make room, or choose another folder.");
    }
}
