using System.Text.RegularExpressions;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>
/// Finds the files of a configuration and split in a folder laid out as data sets are on the hub:
/// <c>config/split-00000-of-00001.parquet</c>, <c>data/split-*.parquet</c>, <c>config/split/*.parquet</c>, <c>split.jsonl</c>.
/// </summary>
internal static partial class DataFiles
{
    private const string NoConfig = "default";
    private static readonly string[] wellKnownSplits = ["train", "training", "test", "testing", "validation", "valid", "val", "dev", "heldout", "unsupervised", "eval", "evaluation"];

    /// <summary>The files that a reference names, in order.</summary>
    /// <param name="reference">What the user wrote.</param>
    /// <param name="resolveHubDataset">From a hub id to its snapshot's folder.</param>
    /// <param name="extensions">The endings that count.</param>
    /// <exception cref="EspalierException">When there are none; names the configurations and splits that there are.</exception>
    public static IReadOnlyList<string> Find(DataReference reference, Func<string, string>? resolveHubDataset, IReadOnlyList<string> extensions)
    {
        string root = Root(reference, resolveHubDataset);
        if (File.Exists(root))
        {
            EspalierException.Require(reference.Split is null, $"\"{root}\" is one file and has no split \"{reference.Split}\": leave the split out.");
            return [root];
        }

        List<Entry> entries = [.. Directory.EnumerateFiles(root, "*", SearchOption.AllDirectories)
            .Where(f => extensions.Contains(Path.GetExtension(f).ToLowerInvariant()) && !IsMetadata(f))
            .Order(StringComparer.Ordinal).Select(f => Place(root, f))];
        EspalierException.Require(entries.Count > 0, $"\"{root}\" holds no files of data; supported are {string.Join(", ", extensions)}.");
        return Choose(reference, entries);
    }

    /// <summary>The file or folder that a reference leads to.</summary>
    public static string Root(DataReference reference, Func<string, string>? resolveHubDataset)
    {
        if (!reference.IsPath)
        {
            EspalierException.Require(resolveHubDataset is not null, $"There is no file or folder \"{reference.Source}\".");
            return resolveHubDataset(reference.Source);
        }

        string path = reference.Source.StartsWith("~/", StringComparison.Ordinal)
            ? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), reference.Source[2..])
            : reference.Source;
        EspalierException.Require(File.Exists(path) || Directory.Exists(path), $"There is no file or folder \"{path}\".");
        return path;
    }

    private static IReadOnlyList<string> Choose(DataReference reference, List<Entry> entries)
    {
        string[] configs = [.. entries.Select(e => e.Config).Distinct()];
        string? config = reference.Config, split = reference.Split;
        if (config is null && split is not null && configs.Contains(split) && entries.All(e => e.Split != split))
        {
            (config, split) = (split, null); // id:x where x is a configuration
        }

        EspalierException.Require(config is null || configs.Contains(config), $"The data set \"{reference.Source}\" has no configuration \"{config}\"; it has {List(configs)}.");
        config ??= configs.Length == 1 ? configs[0] : configs.Contains(NoConfig) ? NoConfig : configs.Contains("plain_text") ? "plain_text" : null;
        EspalierException.Require(config is not null, $"The data set \"{reference.Source}\" has the configurations {List(configs)}: name one, as in {reference.Source}:{configs[0]}:{split ?? "train"}.");

        List<Entry> inConfig = [.. entries.Where(e => e.Config == config)];
        string[] splits = [.. inConfig.Select(e => e.Split).Distinct()];
        if (split is null && (splits.Length == 1 || !splits.Any(wellKnownSplits.Contains)))
        {
            return [.. inConfig.Select(e => e.Path)]; // a folder of documents of any names
        }

        EspalierException.Require(split is not null, $"The data set \"{reference.Source}\" has the splits {List(splits)}: name one, as in {reference.Source}:{splits[0]}.");
        EspalierException.Require(splits.Contains(split), $"The data set \"{reference.Source}\" has no split \"{split}\"{(configs.Length > 1 ? $" in its configuration {config}" : "")}; it has {List(splits)}.");
        return [.. inConfig.Where(e => e.Split == split).Select(e => e.Path)];
    }

    /// <summary>Reads configuration and split from where a file lies.</summary>
    private static Entry Place(string root, string file)
    {
        List<string> folders = [.. Path.GetRelativePath(root, file).Split(Path.DirectorySeparatorChar, Path.AltDirectorySeparatorChar)];
        string name = Shard().Replace(Path.GetFileNameWithoutExtension(folders[^1]), "");
        folders.RemoveAt(folders.Count - 1);
        if (folders.Count > 0 && folders[0] == "data")
        {
            folders.RemoveAt(0);
        }

        // A name that is only a number, or that lies below a folder named like a split, leaves the split to the folder.
        bool folderIsSplit = folders.Count > 0 && (folders.Count > 1 || name.Length == 0 || name.All(char.IsAsciiDigit) || wellKnownSplits.Contains(folders[^1]));
        string split = folderIsSplit ? folders[^1] : name;
        if (folderIsSplit)
        {
            folders.RemoveAt(folders.Count - 1);
        }

        return new Entry(file, folders.Count > 0 ? string.Join('/', folders) : NoConfig, split);
    }

    private static bool IsMetadata(string file) => Path.GetFileName(file) is "dataset_infos.json" or "dataset_dict.json" or "state.json" or "dataset_info.json"
        || Path.GetFileName(file).StartsWith('.') || Path.GetFileName(file).Equals("README.txt", StringComparison.OrdinalIgnoreCase);

    private static string List(string[] names) => string.Join(", ", names.Take(20)) + (names.Length > 20 ? $" and {names.Length - 20} more" : "");

    [GeneratedRegex(@"-\d{5}-of-\d{5}(-[0-9a-f]{16})?$")]
    private static partial Regex Shard();

    private sealed record Entry(string Path, string Config, string Split);
}
