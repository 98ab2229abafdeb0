namespace Espalier.Verification;

/// <summary>How one case ended.</summary>
/// <param name="Path">The file, relative to the folder that was searched.</param>
/// <param name="System">The system that it counts for.</param>
/// <param name="Op">The operation; empty when the file could not be read.</param>
/// <param name="Failure">Why it failed, in one line; null when it passed.</param>
/// <param name="LargestError">The largest |ours − theirs| over all outputs that could be compared; NaN when there was none.</param>
/// <param name="Duration">How long it took.</param>
public sealed record ParityResult(string Path, string System, string Op, string? Failure, double LargestError, TimeSpan Duration)
{
    /// <summary>Whether every output was within its tolerance.</summary>
    public bool Passed => Failure is null;
}

/// <summary>How all cases of a folder ended.</summary>
/// <param name="Results">One per case, in the order of their paths.</param>
public sealed record ParityReport(IReadOnlyList<ParityResult> Results)
{
    /// <summary>Whether there were cases and all of them passed.</summary>
    public bool Passed => Results.Count > 0 && Results.All(r => r.Passed);

    /// <summary>Cases that passed and all cases, by system in alphabetical order.</summary>
    public IReadOnlyList<(string System, int Passed, int Total)> Systems =>
        [.. Results.GroupBy(r => r.System, StringComparer.Ordinal).OrderBy(g => g.Key, StringComparer.Ordinal).Select(g => (g.Key, g.Count(r => r.Passed), g.Count()))];

    /// <summary>One line for each case that fails, then one line "S: passed/total" for each system.</summary>
    public IReadOnlyList<string> Lines =>
        [.. Results.Where(r => !r.Passed).Select(r => $"{r.Path} ({(r.Op.Length == 0 ? "unreadable" : r.Op)}): {r.Failure}"),
         .. Systems.Select(s => $"{s.System}: {s.Passed}/{s.Total}")];
}
