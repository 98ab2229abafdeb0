using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using Espalier.Runtime;

namespace Espalier.Tests.Fuzzing;

/// <summary>What a run found.</summary>
/// <param name="Inputs">Files read.</param>
/// <param name="Accepted">Of these, how many were read as sound.</param>
/// <param name="Behaviours">Distinct ends (sentences without their numbers and names, or branches seen where the code is instrumented).</param>
/// <param name="SlowestMs">The longest reading.</param>
/// <param name="LargestBytes">The most managed memory a reading asked for.</param>
/// <param name="Faults">What must not happen, with the file that shows it.</param>
internal sealed record FuzzResult(long Inputs, long Accepted, int Behaviours, double SlowestMs, long LargestBytes, IReadOnlyList<(string What, byte[] File)> Faults);

/// <summary>
/// Feeds changed files to one reader. A file that makes it behave in a new way joins the corpus of the run, so that changes add up: new are
/// branches where the library was instrumented (bench/fuzz.sh), and else the sentence, without numbers and names.
/// </summary>
internal sealed partial class FuzzRun(FuzzTarget target, int seed)
{
    private const double SlowMs = 1000;
    private const long FreeBytes = 48 << 20, BytesPerByte = 256, FreeAddresses = 1L << 30;

    private readonly Random random = new(seed);
    private readonly HashSet<string> behaviours = new(StringComparer.Ordinal);
    private readonly List<(string What, byte[] File)> faults = [];
    private readonly HashSet<string> faultKinds = new(StringComparer.Ordinal);
    private double slowest;
    private long largest, accepted, addresses;

    /// <summary>Runs.</summary>
    /// <param name="count">How many files.</param>
    /// <param name="corpus">Files to start from besides the seeds.</param>
    /// <param name="keep">Where files of new behaviour are kept; null: nowhere.</param>
    public FuzzResult Run(long count, IEnumerable<byte[]> corpus, string? keep = null)
    {
        string folder = Directory.Exists("/dev/shm") ? Path.Combine("/dev/shm", $"espalier-fuzz-{Guid.NewGuid():n}") : Directory.CreateTempSubdirectory("fuzz").FullName;
        Directory.CreateDirectory(folder);
        try
        {
            Coverage.Reset();
            target.Prepare(folder);
            string path = Path.Combine(folder, target.FileName);
            List<byte[]> files = [.. target.Seeds(), .. corpus];
            foreach (byte[] file in files)
            {
                Read(path, file, warm: true); // what is made once (tables, compiled patterns) is not the file's doing
            }

            addresses = PeakAddresses();
            accepted = 0;
            foreach (byte[] file in files)
            {
                Read(path, file);
            }

            var mutator = new Mutator(random);
            for (long i = files.Count; i < count; i++)
            {
                // Young members of the corpus are tried more often.
                int at = random.Next(2) == 0 ? random.Next(files.Count) : files.Count - 1 - random.Next(Math.Min(files.Count, 32));
                byte[] file = mutator.Change(files[at], files[random.Next(files.Count)], target.Kind);
                if (Read(path, file) && file.Length <= 1 << 14 && files.Count < 5000)
                {
                    files.Add(file);
                    if (keep is not null)
                    {
                        File.WriteAllBytes(Path.Combine(keep, Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(file))[..16]), file);
                    }
                }
            }

            return new FuzzResult(Math.Max(count, files.Count), accepted, behaviours.Count + Coverage.Branches, slowest, largest, faults);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>Reads one file; true when it did what none did before.</summary>
    private bool Read(string path, byte[] file, bool warm = false)
    {
        File.WriteAllBytes(path, file);
        if (Environment.GetEnvironmentVariable("ESPALIER_FUZZ_LAST") is { } last)
        {
            File.WriteAllBytes(last, file); // for a fault that ends the process
        }

        string end = "sound";
        using var hung = new Timer(_ => Environment.FailFast($"{target.Name}: a reading has not ended after two minutes: {Convert.ToBase64String(file)}"), null, TimeSpan.FromMinutes(2), Timeout.InfiniteTimeSpan);
        Coverage.Begin();
        long before = GC.GetAllocatedBytesForCurrentThread();
        long start = Stopwatch.GetTimestamp();
        try
        {
            target.Read(path);
            accepted++;
        }
        catch (EspalierException refused)
        {
            end = Plain().Replace(refused.Message.Replace(path, "", StringComparison.Ordinal), "#");
        }
        catch (Exception fault)
        {
            end = $"{fault.GetType().Name}: {fault.StackTrace?.Split('\n').FirstOrDefault(l => l.Contains("Espalier.", StringComparison.Ordinal))?.Trim()}";
            Fault($"{end}: {fault.Message}", end, file);
        }

        double ms = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        long bytes = GC.GetAllocatedBytesForCurrentThread() - before;
        hung.Change(Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
        if (warm)
        {
            return false;
        }

        if (ms > SlowMs && Again(path) > SlowMs)
        {
            // Twice, because this machine may have been busy.
            Fault(string.Create(CultureInfo.InvariantCulture, $"{ms:f0} ms"), "slow", file);
        }

        slowest = Math.Max(slowest, ms);
        largest = Math.Max(largest, bytes);
        if (bytes > FreeBytes + (BytesPerByte * file.Length))
        {
            Fault($"{bytes >> 20} MiB of managed memory for a file of {file.Length} bytes", "memory", file);
        }

        long peak = PeakAddresses();
        if (peak > addresses + FreeAddresses)
        {
            Fault($"{(peak - addresses) >> 20} MiB more address space for a file of {file.Length} bytes", "addresses", file);
            addresses = peak;
        }

        return behaviours.Add(end.Length > 160 ? end[..160] : end) | Coverage.IsNew();
    }

    private double Again(string path)
    {
        long start = Stopwatch.GetTimestamp();
        try
        {
            target.Read(path);
        }
        catch (Exception fault) when (fault is not OutOfMemoryException)
        {
            // Only the time counts.
        }

        return Stopwatch.GetElapsedTime(start).TotalMilliseconds;
    }

    private void Fault(string what, string kind, byte[] file)
    {
        if (faults.Count < 20 && faultKinds.Add(kind))
        {
            faults.Add((what, file));
        }
    }

    /// <summary>The largest address space the process ever had: shows memory that was asked for outside the collector, also when it was never touched.</summary>
    private static long PeakAddresses()
    {
        if (!OperatingSystem.IsLinux())
        {
            return 0;
        }

        foreach (string line in File.ReadLines("/proc/self/status"))
        {
            if (line.StartsWith("VmPeak:", StringComparison.Ordinal))
            {
                return long.Parse(line.AsSpan(7).Trim().TrimEnd("kB ").Trim(), CultureInfo.InvariantCulture) << 10;
            }
        }

        return 0;
    }

    [GeneratedRegex("""'[^']*'|"[^"]*"|-?[0-9][0-9.]*|\([^)]*\)""")]
    private static partial Regex Plain();
}
