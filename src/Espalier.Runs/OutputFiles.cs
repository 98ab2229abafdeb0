namespace Espalier.Runs;

/// <summary>The files that a run has left in its output folder.</summary>
public static class OutputFiles
{
    // More are no list that a person reads; a comparison that keeps its checkpoints may have them.
    private const int Most = 1000;

    // Clocks of file systems are coarse.
    private static readonly TimeSpan Slack = TimeSpan.FromSeconds(2);

    /// <summary>Files written since the run began; unfinished work (training states, journals) is none.</summary>
    /// <param name="folder">The output folder, or a single file.</param>
    /// <param name="since">When the run began (UTC).</param>
    public static IReadOnlyList<Artefact> Of(string folder, DateTime since)
    {
        if (File.Exists(folder))
        {
            return [Describe(Path.GetDirectoryName(folder)!, new FileInfo(folder))];
        }

        if (folder.Length == 0 || !Directory.Exists(folder))
        {
            return [];
        }

        try
        {
            var options = new EnumerationOptions { RecurseSubdirectories = true, MaxRecursionDepth = 6, IgnoreInaccessible = true, AttributesToSkip = FileAttributes.ReparsePoint };
            return [.. new DirectoryInfo(folder).EnumerateFiles("*", options)
                .Where(f => f.LastWriteTimeUtc >= since - Slack && !IsUnfinished(Path.GetRelativePath(folder, f.FullName)))
                .Take(Most).Select(f => Describe(folder, f))];
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    private static bool IsUnfinished(string path) => path.Split(Path.DirectorySeparatorChar)
        .Any(p => p is ".espalier-work" or "training-state" || p.EndsWith(".tmp", StringComparison.Ordinal) || p.EndsWith(".lock", StringComparison.Ordinal));

    private static Artefact Describe(string folder, FileInfo file) => new()
    {
        Path = file.FullName,
        Name = Path.GetRelativePath(folder, file.FullName).Replace(Path.DirectorySeparatorChar, '/'),
        Kind = KindOf(file.Name),
        Bytes = file.Length,
    };

    private static string KindOf(string name) => name switch
    {
        _ when name.StartsWith("adapter", StringComparison.Ordinal) => "adapter",
        _ when name.EndsWith(".safetensors", StringComparison.Ordinal) || name.EndsWith(".safetensors.index.json", StringComparison.Ordinal) => "checkpoint",
        _ when name.EndsWith(".gguf", StringComparison.Ordinal) || name.EndsWith(".onnx", StringComparison.Ordinal) => "model",
        _ when name.EndsWith(".html", StringComparison.Ordinal) || name is "report.json" or "compare.json" or "search.json" => "report",
        _ when name is "training.jsonl" || name.StartsWith("events.out.", StringComparison.Ordinal) => "metrics",
        _ => "file",
    };
}
