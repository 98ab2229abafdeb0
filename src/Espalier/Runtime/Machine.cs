using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;

namespace Espalier.Runtime;

/// <summary>What a figure was measured on.</summary>
public static class Machine
{
    /// <summary>The highest resident memory that this process has had, in bytes.</summary>
    /// <remarks>Linux: VmHWM of /proc/self/status, which .NET's own figure does not follow; elsewhere .NET's.</remarks>
    public static long PeakResidentBytes => ReadStatus("VmHWM:") ?? Process.GetCurrentProcess().PeakWorkingSet64;

    /// <summary>The resident memory of this process now, in bytes.</summary>
    public static long ResidentBytes => ReadStatus("VmRSS:") ?? Process.GetCurrentProcess().WorkingSet64;

    /// <summary>Processor, cores, memory, system and versions, for reports.</summary>
    public static IReadOnlyDictionary<string, string> Describe() => new Dictionary<string, string>(DescribeSystem()) { ["libtorch"] = TorchSharp.torch.__version__ };

    /// <summary>The same without libtorch's version and without loading it; TorchSharp's says which it is.</summary>
    public static IReadOnlyDictionary<string, string> DescribeSystem() => new Dictionary<string, string>
    {
        ["processor"] = Processor(),
        ["cores"] = Environment.ProcessorCount.ToString(CultureInfo.InvariantCulture),
        ["memory"] = Text.Bytes(GC.GetGCMemoryInfo().TotalAvailableMemoryBytes),
        ["system"] = $"{RuntimeInformation.OSDescription} {RuntimeInformation.OSArchitecture}",
        [".NET"] = Environment.Version.ToString(),
        ["TorchSharp"] = typeof(TorchSharp.torch).Assembly.GetName().Version?.ToString(3) ?? "?",
        ["espalier"] = typeof(Machine).Assembly.GetName().Version?.ToString(3) ?? "?",
    };

    private static string Processor()
    {
        const string path = "/proc/cpuinfo";
        string? line = File.Exists(path) ? File.ReadLines(path).FirstOrDefault(l => l.StartsWith("model name", StringComparison.Ordinal)) : null;
        return line?[(line.IndexOf(':') + 1)..].Trim() ?? RuntimeInformation.ProcessArchitecture.ToString();
    }

    private static long? ReadStatus(string key)
    {
        const string path = "/proc/self/status";
        if (!File.Exists(path))
        {
            return null;
        }

        string? line = File.ReadLines(path).FirstOrDefault(l => l.StartsWith(key, StringComparison.Ordinal));
        string digits = new([.. (line ?? string.Empty).Where(char.IsAsciiDigit)]);
        return long.TryParse(digits, CultureInfo.InvariantCulture, out long kilobytes) ? kilobytes * 1024 : null;
    }
}
