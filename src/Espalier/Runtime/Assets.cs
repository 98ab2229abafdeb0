using System.Reflection;

namespace Espalier.Runtime;

/// <summary>What Espalier ships to be used at once, offline: the small default model and its text.</summary>
public static class Assets
{
    /// <summary>The default model: a Llama of 2.8 million parameters that has read Jane Austen (docs/default-model.md).</summary>
    public static string DefaultModel => Find("default-model");

    /// <summary>The text that the default model was trained on, one chapter a line.</summary>
    public static string TrainingText => Find(Path.Combine("austen", "train.jsonl"));

    /// <summary>Chapters that it has not seen.</summary>
    public static string HeldOutText => Find(Path.Combine("austen", "heldout.jsonl"));

    private static string Find(string relative)
    {
        string? checkout = typeof(Assets).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>().FirstOrDefault(a => a.Key == "RepositoryRoot")?.Value;
        string[] folders = [Path.Combine(AppContext.BaseDirectory, "assets"), .. checkout is null ? Array.Empty<string>() : [Path.Combine(checkout, "assets")]];
        return folders.Select(f => Path.Combine(f, relative)).FirstOrDefault(p => File.Exists(p) || Directory.Exists(p))
            ?? throw new EspalierException($"The shipped asset {relative} was not found (looked in {string.Join(" and ", folders)}); reinstall Espalier, or run from a complete checkout.");
    }
}
