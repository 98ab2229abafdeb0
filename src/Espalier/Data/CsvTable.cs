using System.Globalization;
using Espalier.Runtime;
using nietras.SeparatedValues;

namespace Espalier.Data;

/// <summary>A CSV or TSV file. A column counts as numbers when its first value is one.</summary>
/// <remarks>In CSV quotes may hold separators and line breaks (RFC 4180); in TSV a quote is a character like any other (IANA's text/tab-separated-values).</remarks>
public sealed class CsvTable : ITable
{
    private readonly char separator;
    private readonly bool hasHeader;

    private CsvTable(string path, char separator, bool hasHeader)
    {
        Path = path;
        this.separator = separator;
        this.hasHeader = hasHeader;
        List<string[]> head = [.. Rows(includeHeader: true).Take(2)];
        EspalierException.Require(head.Count > 0, $"\"{path}\" is empty; a table needs at least a line of column names.");
        string[] names = hasHeader ? head[0] : [.. head[0].Select((_, i) => i.ToString(CultureInfo.InvariantCulture))];
        EspalierException.Require(names.Distinct().Count() == names.Length, $"\"{path}\" has two columns of the same name: give each its own.");
        string[]? first = hasHeader ? head.ElementAtOrDefault(1) : head[0];
        Columns = [.. names.Select((name, i) => new TableColumn(name, first is null ? ColumnKind.Text : KindOf(first[i])))];
    }

    /// <inheritdoc/>
    public string Path { get; }

    /// <inheritdoc/>
    public IReadOnlyList<TableColumn> Columns { get; }

    /// <summary>Opens a file.</summary>
    /// <param name="path">The file.</param>
    /// <param name="separator">What stands between values.</param>
    /// <param name="hasHeader">The first line names the columns; otherwise they are called 0, 1, 2 and so on.</param>
    /// <exception cref="EspalierException">When it is missing, empty or malformed.</exception>
    public static CsvTable Open(string path, char separator = ',', bool hasHeader = true)
    {
        EspalierException.Require(File.Exists(path), $"There is no file \"{path}\".");
        return new CsvTable(path, separator, hasHeader);
    }

    /// <inheritdoc/>
    public IEnumerable<string?> Texts(string column) => Values(column);

    /// <inheritdoc/>
    public IEnumerable<long?> Integers(string column) => Values(column).Select((value, i) => Parse(value, i, column, "whole number",
        long.TryParse(value, NumberStyles.Integer, CultureInfo.InvariantCulture, out long number), number));

    /// <inheritdoc/>
    public IEnumerable<double?> Numbers(string column) => Values(column).Select((value, i) => Parse(value, i, column, "number",
        double.TryParse(value, NumberStyles.Float, CultureInfo.InvariantCulture, out double number), number));

    /// <inheritdoc/>
    public IEnumerable<IReadOnlyList<string>> TextLists(string column) =>
        throw new EspalierException($"The column \"{this.Find(column).Name}\" of \"{Path}\" is to hold lists of text, which this kind of file cannot; use parquet or JSON lines.");

    private IEnumerable<string> Values(string column)
    {
        int index = Columns.ToList().IndexOf(this.Find(column));
        return Rows(includeHeader: false).Select(row => row[index]);
    }

    private T? Parse<T>(string value, int row, string column, string kind, bool isOne, T number)
        where T : struct
    {
        if (value.Length == 0)
        {
            return null;
        }

        EspalierException.Require(isOne, $"Row {row + 1} of \"{Path}\" has \"{value}\" in column \"{column}\", which is no {kind}.");
        return number;
    }

    private IEnumerable<string[]> Rows(bool includeHeader)
    {
        using SepReader reader = Guard(() => Sep.New(separator).Reader(o => o with { HasHeader = false, Unescape = separator != '\t', DisableQuotesParsing = separator == '\t' }).FromFile(Path));
        bool skip = hasHeader && !includeHeader;
        while (Guard(() => reader.MoveNext()))
        {
            string[] row = Guard(() => Current(reader));
            if (!skip)
            {
                yield return row;
            }

            skip = false;
        }
    }

    private static string[] Current(SepReader reader)
    {
        SepReader.Row row = reader.Current;
        string[] values = new string[row.ColCount];
        for (int i = 0; i < values.Length; i++)
        {
            values[i] = row[i].ToString();
        }

        return values;
    }

    private T Guard<T>(Func<T> read)
    {
        try
        {
            return read();
        }
        catch (Exception fault) when (fault is InvalidDataException or IndexOutOfRangeException or ArgumentException or NotSupportedException)
        {
            string reason = fault.Message.ReplaceLineEndings(" ").TrimEnd('.');
            throw new EspalierException($"\"{Path}\" is no well-formed table: {(reason.Length > 240 ? reason[..240] + "…" : reason)}.", fault);
        }
    }

    private static ColumnKind KindOf(string value) =>
        long.TryParse(value, NumberStyles.Integer, CultureInfo.InvariantCulture, out _) ? ColumnKind.Integer
        : double.TryParse(value, NumberStyles.Float, CultureInfo.InvariantCulture, out _) ? ColumnKind.Number
        : ColumnKind.Text;
}
