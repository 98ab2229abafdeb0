using System.Text.Json;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>
/// Rows in JSON: a line a row (.jsonl), or one array of rows (.json). A row is an object, or just a text, which then
/// stands in the column "text". Columns are those of the first row; a member of an object in it has its path ("choices.text").
/// </summary>
public sealed class JsonTable : ITable
{
    private readonly bool isLines;

    private JsonTable(string path)
    {
        Path = path;
        isLines = System.IO.Path.GetExtension(path).Equals(".jsonl", StringComparison.OrdinalIgnoreCase);
        Columns = [];
        foreach (var (row, _) in Rows())
        {
            Columns = row.ValueKind == JsonValueKind.String
                ? [new TableColumn("text", ColumnKind.Text)]
                : Decoded<TableColumn[]>(() => [.. ColumnsOf(row, "")], "row 1");
            break;
        }
    }

    /// <inheritdoc/>
    public string Path { get; }

    /// <inheritdoc/>
    public IReadOnlyList<TableColumn> Columns { get; }

    /// <summary>Opens a file and looks at its first row.</summary>
    /// <exception cref="EspalierException">When it is missing or malformed.</exception>
    public static JsonTable Open(string path)
    {
        EspalierException.Require(File.Exists(path), $"There is no file \"{path}\".");
        return new JsonTable(path);
    }

    /// <inheritdoc/>
    public IEnumerable<string?> Texts(string column) => Values(column, (value, where) =>
        value.ValueKind == JsonValueKind.String ? value.GetString() : throw Wrong(value, where, column, "text"));

    /// <inheritdoc/>
    public IEnumerable<long?> Integers(string column) => Values<long?>(column, (value, where) => value.ValueKind switch
    {
        JsonValueKind.True => 1,
        JsonValueKind.False => 0,
        JsonValueKind.Number when value.TryGetInt64(out long number) => number,
        _ => throw Wrong(value, where, column, "whole number"),
    });

    /// <inheritdoc/>
    public IEnumerable<double?> Numbers(string column) => Values<double?>(column, (value, where) =>
        value.ValueKind == JsonValueKind.Number ? value.GetDouble() : throw Wrong(value, where, column, "number"));

    /// <inheritdoc/>
    public IEnumerable<IReadOnlyList<string>> TextLists(string column) => Values<IReadOnlyList<string>>(column, (value, where) =>
        value.ValueKind == JsonValueKind.Array && value.EnumerateArray().All(v => v.ValueKind == JsonValueKind.String)
            ? [.. value.EnumerateArray().Select(v => v.GetString()!)]
            : throw Wrong(value, where, column, "list of texts")).Select(list => list ?? []);

    private IEnumerable<T?> Values<T>(string column, Func<JsonElement, string, T> read)
    {
        this.Find(column);
        foreach (var (row, where) in Rows())
        {
            JsonElement? value = row.ValueKind != JsonValueKind.String ? Member(row, column) : column == "text" ? row : null;
            yield return value is { ValueKind: not JsonValueKind.Null } there ? Decoded(() => read(there, where), where) : default;
        }
    }

    /// <summary>What stands at a path in an object; null where the row has no such member.</summary>
    private static JsonElement? Member(JsonElement row, string path)
    {
        if (row.ValueKind != JsonValueKind.Object)
        {
            return null;
        }

        // A name may have a dot in it, so the whole path comes first.
        if (row.TryGetProperty(path, out JsonElement value))
        {
            return value;
        }

        for (int dot = path.IndexOf('.'); dot >= 0; dot = path.IndexOf('.', dot + 1))
        {
            if (row.TryGetProperty(path[..dot], out JsonElement outer) && Member(outer, path[(dot + 1)..]) is { } found)
            {
                return found;
            }
        }

        return null;
    }

    private static IEnumerable<TableColumn> ColumnsOf(JsonElement row, string prefix) => row.EnumerateObject().SelectMany<JsonProperty, TableColumn>(p => p.Value.ValueKind switch
    {
        JsonValueKind.Array when p.Value.GetArrayLength() > 0 => [new TableColumn(prefix + p.Name, KindOf(p.Value[0]), IsList: true)],
        JsonValueKind.Object => ColumnsOf(p.Value, $"{prefix}{p.Name}."),
        _ => [new TableColumn(prefix + p.Name, KindOf(p.Value))],
    });

    private IEnumerable<(JsonElement Row, string Where)> Rows() => isLines ? Lines() : Elements();

    private IEnumerable<(JsonElement Row, string Where)> Lines()
    {
        int number = 0;
        foreach (string line in File.ReadLines(Path))
        {
            number++;
            if (!string.IsNullOrWhiteSpace(line))
            {
                using JsonDocument document = Parse(() => JsonDocument.Parse(line), number);
                yield return (Checked(document.RootElement, $"line {number}"), $"line {number}");
            }
        }
    }

    private IEnumerable<(JsonElement Row, string Where)> Elements()
    {
        using JsonDocument document = Parse(() => JsonDocument.Parse(File.ReadAllText(Path)), 1);
        JsonElement root = document.RootElement;
        if (root.ValueKind == JsonValueKind.Object && root.TryGetProperty("data", out JsonElement data))
        {
            root = data;
        }

        EspalierException.Require(root.ValueKind == JsonValueKind.Array, $"\"{Path}\" holds no array of rows; a .json file must be one, and a file with a row a line must end in .jsonl.");
        int number = 0;
        foreach (JsonElement row in root.EnumerateArray())
        {
            string where = $"row {++number}";
            yield return (Checked(row, where), where);
        }
    }

    private JsonElement Checked(JsonElement row, string where)
    {
        EspalierException.Require(row.ValueKind is JsonValueKind.Object or JsonValueKind.String, $"\"{Path}\", {where}: a row must be an object or a text, not {row.ValueKind}.");
        return row;
    }

    private JsonDocument Parse(Func<JsonDocument> parse, long firstLine)
    {
        try
        {
            return parse();
        }
        catch (JsonException fault)
        {
            throw new EspalierException($"\"{Path}\", line {firstLine + (fault.LineNumber ?? 0)}: this is no valid JSON; mend or remove the line.", fault);
        }
    }

    // Texts are decoded when they are asked for; half a surrogate pair is a fault only then.
    private T Decoded<T>(Func<T> read, string where)
    {
        try
        {
            return read();
        }
        catch (InvalidOperationException fault)
        {
            throw new EspalierException($"\"{Path}\", {where}: a text holds half a character (a lone surrogate); mend or remove it.", fault);
        }
    }

    private EspalierException Wrong(JsonElement value, string where, string column, string kind) =>
        new($"\"{Path}\", {where}: column \"{column}\" holds {(value.ToString() is { Length: > 40 } text ? text[..40] + "…" : value.ToString())}, which is no {kind}.");

    private static ColumnKind KindOf(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.String => ColumnKind.Text,
        JsonValueKind.True or JsonValueKind.False => ColumnKind.Integer,
        JsonValueKind.Number => value.TryGetInt64(out _) ? ColumnKind.Integer : ColumnKind.Number,
        _ => ColumnKind.Other,
    };
}
