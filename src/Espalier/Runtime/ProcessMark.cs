using System.Diagnostics;
using System.Globalization;

namespace Espalier.Runtime;

/// <summary>Tells a process from every other that has or had its number.</summary>
/// <remarks>Home: machine, boot and (Linux) process space, so that containers that share a store are not taken for each other. Start: when the process began.</remarks>
public static class ProcessMark
{
    private static readonly string Home = FindHome();

    /// <summary>The mark of this process.</summary>
    public static string Current { get; } = Of(Environment.ProcessId) ?? Home + "|?";

    /// <summary>The machine's name in a mark.</summary>
    public static string HostOf(string mark) => mark.Split('|')[0];

    /// <summary>Whether the process lives; null where that cannot be seen from here (another machine, or an earlier boot).</summary>
    /// <param name="id">Its number.</param>
    /// <param name="mark">Its mark.</param>
    public static bool? IsAlive(int id, string mark) => !mark.StartsWith(Home + "|", StringComparison.Ordinal) ? null : Of(id) == mark;

    private static string? Of(int id)
    {
        string? start = OperatingSystem.IsLinux() ? StartOnLinux(id) : StartElsewhere(id);
        return start is null ? null : $"{Home}|{start}";
    }

    // Field 22 of stat, in ticks since boot; the name before it may hold blanks and brackets. A zombie (Z) is dead.
    private static string? StartOnLinux(int id)
    {
        try
        {
            string stat = File.ReadAllText($"/proc/{id}/stat");
            string[] fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
            return fields[0] is "Z" or "X" ? null : fields[19];
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException or ArgumentOutOfRangeException or IndexOutOfRangeException)
        {
            return null;
        }
    }

    private static string? StartElsewhere(int id)
    {
        try
        {
            using var process = Process.GetProcessById(id);
            return process.HasExited ? null : process.StartTime.ToUniversalTime().Ticks.ToString(CultureInfo.InvariantCulture);
        }
        catch (Exception fault) when (fault is ArgumentException or InvalidOperationException or System.ComponentModel.Win32Exception)
        {
            return null;
        }
    }

    private static string FindHome()
    {
        string boot = "", space = "";
        try
        {
            boot = File.Exists("/proc/sys/kernel/random/boot_id") ? File.ReadAllText("/proc/sys/kernel/random/boot_id").Trim() : "";
            space = OperatingSystem.IsLinux() ? new FileInfo("/proc/self/ns/pid").LinkTarget ?? "" : "";
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            // The machine's name alone then.
        }

        return $"{Environment.MachineName}|{boot}|{space}";
    }
}
