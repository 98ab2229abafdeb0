using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>A text and its class.</summary>
/// <param name="Text">The text.</param>
/// <param name="Label">The class, from 0.</param>
public sealed record LabelledText(string Text, int Label);

/// <summary>
/// Documents of text from files or the hub, read lazily and anew for each enumeration. Of a table each row is a document;
/// a .txt file is one document.
/// </summary>
public sealed class TextDataset
{
    private readonly IReadOnlyList<string> files;
    private readonly string? column;
    private readonly IReadOnlyList<string>? given;

    private TextDataset(string name, IReadOnlyList<string> files, string? column, IReadOnlyList<string>? given)
    {
        Name = name;
        this.files = files;
        this.column = column;
        this.given = given;
    }

    /// <summary>What the data set is called, as its user wrote it.</summary>
    public string Name { get; }

    /// <summary>The files behind it; none for documents given directly.</summary>
    public IReadOnlyList<string> Files => files;

    /// <summary>Places, sizes and times of the files: while this stays the same, so do the documents.</summary>
    public string State => string.Join('\n', files.Select(path =>
    {
        // A snapshot's files are links into the hub's cache.
        FileSystemInfo target = File.ResolveLinkTarget(path, returnFinalTarget: true) ?? new FileInfo(Path.GetFullPath(path));
        return FormattableString.Invariant($"{target.FullName} {new FileInfo(target.FullName).Length} {target.LastWriteTimeUtc.Ticks}");
    }));

    /// <summary>The documents, empty ones too.</summary>
    /// <exception cref="EspalierException">While enumerating, when a file is damaged.</exception>
    public IEnumerable<string> Documents => given ?? files.SelectMany(file =>
        IsPlainText(file) ? [File.ReadAllText(file)] : Texts(file).Select(text => text ?? ""));

    /// <summary>Opens the data set that a reference names and checks that its text can be found.</summary>
    /// <param name="reference">What the user wrote.</param>
    /// <param name="resolveHubDataset">From a hub id to the folder of its snapshot; null when only files are allowed.</param>
    /// <exception cref="EspalierException">When files, configuration, split or column are missing (names those there are), or there is no document.</exception>
    public static TextDataset Open(DataReference reference, Func<string, string>? resolveHubDataset = null)
    {
        IReadOnlyList<string> found = DataFiles.Find(reference, resolveHubDataset, [".txt", .. Table.Extensions]);
        string extension = Path.GetExtension(found[0]).ToLowerInvariant();
        EspalierException.Require(extension == ".txt" || Table.Extensions.Contains(extension), $"\"{found[0]}\" is no file of text that can be read; supported are .txt, {string.Join(", ", Table.Extensions)}.");
        var dataset = new TextDataset(reference.ToString(), found, reference.Column, null);
        EspalierException.Require(dataset.Documents.Any(), $"The data set \"{reference}\" is empty: it has no document.");
        return dataset;
    }

    /// <summary>Makes a data set of documents at hand.</summary>
    public static TextDataset FromDocuments(IReadOnlyList<string> documents, string name = "documents") => new(name, [], null, documents);

    /// <summary>The texts with their classes, for classification.</summary>
    /// <param name="labelColumn">The column of the class.</param>
    /// <exception cref="EspalierException">While enumerating, when a file has no such column of whole numbers.</exception>
    public IEnumerable<LabelledText> Labelled(string labelColumn = "label")
    {
        foreach (string file in files)
        {
            EspalierException.Require(!IsPlainText(file), $"\"{file}\" is plain text and has no column \"{labelColumn}\".");
            IEnumerable<long?> labels = Table.Open(file).Integers(labelColumn);
            int row = 0;
            foreach (var (text, label) in Texts(file).Zip(labels))
            {
                row++;
                int known = label is { } value and >= 0 and <= int.MaxValue ? (int)value
                    : throw new EspalierException($"Row {row} of \"{file}\" has no class in the column \"{labelColumn}\" (it says {label?.ToString() ?? "nothing"}): leave such rows out.");
                yield return new LabelledText(text ?? "", known);
            }
        }
    }

    private IEnumerable<string?> Texts(string file)
    {
        ITable table = Table.Open(file);
        return table.Columns.Count == 0 ? [] : table.Texts(table.TextColumn(column));
    }

    private static bool IsPlainText(string file) => Path.GetExtension(file).Equals(".txt", StringComparison.OrdinalIgnoreCase);
}
