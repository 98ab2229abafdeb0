using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>What kind of values a column holds.</summary>
public enum ColumnKind
{
    /// <summary>Text.</summary>
    Text,

    /// <summary>Byte strings, such as encoded images.</summary>
    Bytes,

    /// <summary>Whole numbers and booleans.</summary>
    Integer,

    /// <summary>Numbers with a fraction.</summary>
    Number,

    /// <summary>Anything else; cannot be read.</summary>
    Other,
}

/// <summary>A column of a table.</summary>
/// <param name="Name">Its name; a member of a struct or of an object in JSON has its path ("img.bytes").</param>
/// <param name="Kind">What it holds.</param>
/// <param name="IsList">Each row holds a list of such values.</param>
public sealed record TableColumn(string Name, ColumnKind Kind, bool IsList = false);

/// <summary>A file of rows: parquet, JSON (one array, or a line a row), CSV or TSV. Columns are read lazily and anew each time.</summary>
public interface ITable
{
    /// <summary>The file.</summary>
    string Path { get; }

    /// <summary>Its columns, in the order of the file.</summary>
    IReadOnlyList<TableColumn> Columns { get; }

    /// <summary>The texts of a column, lazily; null where a row has none.</summary>
    /// <exception cref="EspalierException">When there is no such column of text, or the file is damaged.</exception>
    IEnumerable<string?> Texts(string column);

    /// <summary>The whole numbers of a column (booleans as 0 and 1), lazily; null where a row has none.</summary>
    /// <exception cref="EspalierException">When there is no such column of whole numbers, or the file is damaged.</exception>
    IEnumerable<long?> Integers(string column);

    /// <summary>The numbers of a column, whole ones too, lazily; null where a row has none.</summary>
    /// <exception cref="EspalierException">When there is no such column of numbers, or the file is damaged.</exception>
    IEnumerable<double?> Numbers(string column);

    /// <summary>The lists of texts of a column (the choices of a question), lazily; an absent list is empty.</summary>
    /// <exception cref="EspalierException">When there is no such column of lists, or the file is damaged.</exception>
    IEnumerable<IReadOnlyList<string>> TextLists(string column);
}

/// <summary>Opens tables and finds columns in them.</summary>
public static class Table
{
    /// <summary>The endings of files that are tables.</summary>
    public static IReadOnlyList<string> Extensions { get; } = [".parquet", ".jsonl", ".json", ".csv", ".tsv"];

    /// <summary>Opens a table by the ending of its name.</summary>
    /// <exception cref="EspalierException">When it is of no known kind, missing or damaged.</exception>
    public static ITable Open(string path) => System.IO.Path.GetExtension(path).ToLowerInvariant() switch
    {
        ".parquet" => ParquetTable.Open(path),
        ".jsonl" or ".json" => JsonTable.Open(path),
        ".csv" => CsvTable.Open(path, ','),
        ".tsv" => CsvTable.Open(path, '\t'),
        var other => throw new EspalierException($"\"{path}\" ends in \"{other}\", which is no kind of table that can be read; supported are {string.Join(", ", Extensions)}."),
    };

    /// <summary>The column of a name.</summary>
    /// <exception cref="EspalierException">When there is none; names those there are.</exception>
    public static TableColumn Find(this ITable table, string column) => table.Columns.FirstOrDefault(c => c.Name == column)
        ?? throw new EspalierException($"\"{table.Path}\" has no column \"{column}\"; {table.Listing()}.");

    /// <summary>The column that holds the documents: the named one, else "text", else the only one of text.</summary>
    /// <exception cref="EspalierException">When that is not one column of text; names those there are.</exception>
    public static string TextColumn(this ITable table, string? named = null)
    {
        if (named is not null)
        {
            TableColumn found = table.Find(named);
            // In CSV everything is text, also a column whose first value looks like a number.
            EspalierException.Require(found is { Kind: ColumnKind.Text, IsList: false } || table is CsvTable, $"The column \"{named}\" of \"{table.Path}\" holds no text; {table.Listing()}.");
            return named;
        }

        string[] texts = [.. table.Columns.Where(c => c is { Kind: ColumnKind.Text, IsList: false } || (table is CsvTable && c.Name == "text")).Select(c => c.Name)];
        string[] outer = [.. texts.Where(name => !name.Contains('.'))];
        texts = outer.Length > 0 ? outer : texts; // members of structs only where there is nothing else
        EspalierException.Require(texts.Length == 1 || texts.Contains("text"), $"Which column of \"{table.Path}\" holds the text is not clear; {table.Listing()}: name one.");
        return texts.Contains("text") ? "text" : texts[0];
    }

    /// <summary>Part of a sentence: "its columns are text (Text), label (Integer)".</summary>
    internal static string Listing(this ITable table) =>
        $"its columns are {string.Join(", ", table.Columns.Select(c => $"{c.Name} ({(c.IsList ? "list of " : "")}{c.Kind})"))}";
}
