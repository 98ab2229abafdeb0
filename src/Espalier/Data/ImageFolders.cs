using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>Images sorted into one folder per class: <c>class/image.png</c>, or <c>split/class/image.png</c>. Classes are numbered in the order of their names.</summary>
internal static class ImageFolders
{
    private static readonly string[] endings = [".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"];

    /// <summary>The images of a folder, class by class; null where it is not laid out so.</summary>
    /// <param name="root">The folder.</param>
    /// <param name="split">The split's folder; null where the classes lie in the root.</param>
    /// <exception cref="EspalierException">When the split is missing or must be named.</exception>
    public static IReadOnlyList<(string Path, int Label)>? Find(string root, string? split)
    {
        string[] folders = Folders(root);
        string[] splits = [.. folders.Where(f => Folders(f).Any(HasImages)).Select(f => Path.GetFileName(f))];
        if (splits.Length == 0)
        {
            if (!folders.Any(HasImages))
            {
                return null;
            }

            EspalierException.Require(split is null, $"\"{root}\" holds classes and no splits; leave \":{split}\" out.");
            return Classes(root);
        }

        EspalierException.Require(split is not null || splits.Length == 1, $"\"{root}\" has the splits {string.Join(", ", splits)}: name one.");
        EspalierException.Require(split is null || splits.Contains(split), $"\"{root}\" has no split \"{split}\"; it has {string.Join(", ", splits)}.");
        return Classes(Path.Combine(root, split ?? splits[0]));
    }

    /// <summary>All images of a folder or of its split, at any depth; null where there are none.</summary>
    /// <param name="root">The folder.</param>
    /// <param name="split">A folder in it; null takes all.</param>
    /// <exception cref="EspalierException">When the split is missing.</exception>
    public static IReadOnlyList<string>? All(string root, string? split)
    {
        if (!Images(root).Any())
        {
            return null;
        }

        string folder = split is null ? root : Path.Combine(root, split);
        EspalierException.Require(Directory.Exists(folder), $"\"{root}\" has no folder \"{split}\"; it has {string.Join(", ", Folders(root).Select(Path.GetFileName))}.");
        return [.. Images(folder).Order(StringComparer.Ordinal)];

        static IEnumerable<string> Images(string from) => Directory.EnumerateFiles(from, "*", SearchOption.AllDirectories).Where(IsImage);
    }

    private static (string Path, int Label)[] Classes(string folder) =>
        [.. Folders(folder).Index().SelectMany(c => Directory.EnumerateFiles(c.Item).Where(IsImage).Order(StringComparer.Ordinal).Select(f => (f, c.Index)))];

    private static string[] Folders(string root) => [.. Directory.EnumerateDirectories(root).Where(d => !Path.GetFileName(d).StartsWith('.')).Order(StringComparer.Ordinal)];

    private static bool HasImages(string folder) => Directory.EnumerateFiles(folder).Any(IsImage);

    private static bool IsImage(string file) => endings.Contains(Path.GetExtension(file).ToLowerInvariant());
}
