using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;
using Espalier.Checkpoints;
using Espalier.Runtime;
using Espalier.Sparsity.Packed;

namespace Espalier.Cli.Doctor;

/// <summary>The machine: system, processor, memory, folders.</summary>
internal static class SystemChecks
{
    private const long Gibibyte = 1L << 30;

    public static IEnumerable<Check> All()
    {
        yield return new Check("system", Health.Ok, $"{RuntimeInformation.OSDescription}, {RuntimeInformation.OSArchitecture}, .NET {Environment.Version}");
        yield return Processor();
        yield return Kernels();
        yield return Memory();
        foreach (Check check in ModelCache())
        {
            yield return check;
        }

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
        Add(Avx512Vbmi2.IsSupported, "AVX-512-VBMI2");
        Add(AdvSimd.IsSupported, "NEON");
        Add(Dp.IsSupported, "NEON dot product");
        string found = $"{Environment.ProcessorCount} cores, {(sets.Count > 0 ? string.Join(", ", sets) : "no vector instructions that Espalier uses")}";
        return sets.Count > 0
            ? new Check("processor", Health.Ok, found)
            : new Check("processor", Health.Warn, found, "Everything works, but the sparse kernels run in plain code, slowly.");
    }

    private static Check Kernels()
    {
        string supported = string.Join(", ", PackedKernels.Supported.Select(PackedKernels.WordOf));
        try
        {
            return new Check("packed kernels", Health.Ok, $"{PackedKernels.WordOf(PackedKernels.Current)} in use, of {supported} ({PackedKernels.Variable} forces one)");
        }
        catch (EspalierException wrong)
        {
            return new Check("packed kernels", Health.Fail, wrong.Message, "Correct the variable, or unset it.");
        }
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

    private static IEnumerable<Check> ModelCache()
    {
        HubOptions hub;
        string? fault = null;
        try
        {
            hub = HubOptions.FromEnvironment();
        }
        catch (EspalierException wrong)
        {
            (hub, fault) = (new HubOptions { CacheFolder = "" }, wrong.Message);
        }

        if (fault is not null)
        {
            yield return new Check("model cache", Health.Fail, fault, "Correct the variable, or unset it.");
            yield break;
        }

        string? because = new[] { "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME" }.FirstOrDefault(v => !string.IsNullOrWhiteSpace(Environment.GetEnvironmentVariable(v)));
        yield return Writable("model cache", hub.CacheFolder, "Set HF_HOME to a folder with room that you may write to; reading models from it works as it is.", because ?? "the usual place", unwritable: Health.Warn);
        yield return new Check("hub", Health.Ok, hub.Offline
            ? "HF_HUB_OFFLINE is set: models come from the cache only"
            : $"{hub.Endpoint}{(hub.Token is null ? "" : ", with a token")} (HF_HUB_OFFLINE=1 forbids the network)");
    }

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
