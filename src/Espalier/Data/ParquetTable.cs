using Espalier.Runtime;
using Parquet;
using Parquet.Schema;

namespace Espalier.Data;

/// <summary>A parquet file read column by column, row group by row group. Nothing stays open between readings.</summary>
/// <remarks>
/// Values are put in place by the definition and repetition levels that the file holds. The shorter calls of Parquet.Net
/// 6.1.0 are avoided: they leave what a buffer held before where a value is null.
/// </remarks>
public sealed class ParquetTable : ITable
{
    private readonly DataField[] fields;

    private ParquetTable(string path, long rowCount, DataField[] fields)
    {
        Path = path;
        RowCount = rowCount;
        this.fields = fields;
        Columns = [.. fields.Select(f => new TableColumn(NameOf(f), KindOf(f), f.MaxRepetitionLevel > 0))];
    }

    /// <inheritdoc/>
    public string Path { get; }

    /// <summary>How many rows it has.</summary>
    public long RowCount { get; }

    /// <inheritdoc/>
    public IReadOnlyList<TableColumn> Columns { get; }

    /// <summary>Opens a file and reads its schema.</summary>
    /// <exception cref="EspalierException">When there is no such file or it is damaged.</exception>
    public static ParquetTable Open(string path)
    {
        EspalierException.Require(File.Exists(path), $"There is no parquet file \"{path}\".");
        return Guard(path, async () =>
        {
            ParquetGuard.Check(path);
            await using ParquetReader reader = await ParquetReader.CreateAsync(path);
            return new ParquetTable(path, reader.Metadata?.NumRows ?? reader.RowGroups.Sum(g => g.RowCount), reader.Schema.GetDataFields());
        });
    }

    /// <inheritdoc/>
    public IEnumerable<string?> Texts(string column) => Single(column, ColumnKind.Text).SelectMany(group => group switch
    {
        Levels<ReadOnlyMemory<char>> levels => levels.Rows<string?>(value => value.ToString(), null),
        var other => throw Unexpected(column, other),
    });

    /// <summary>The byte strings of a column, lazily; null where the file has none.</summary>
    /// <exception cref="EspalierException">When there is no such column of bytes, or the file is damaged.</exception>
    public IEnumerable<byte[]?> Bytes(string column) => Single(column, ColumnKind.Bytes).SelectMany(group => group switch
    {
        Levels<ReadOnlyMemory<byte>> levels => levels.Rows<byte[]?>(value => value.ToArray(), null),
        var other => throw Unexpected(column, other),
    });

    /// <inheritdoc/>
    public IEnumerable<long?> Integers(string column) => Single(column, ColumnKind.Integer).SelectMany(group => group switch
    {
        Levels<long> l => l.Rows<long?>(v => v, null),
        Levels<int> l => l.Rows<long?>(v => v, null),
        Levels<short> l => l.Rows<long?>(v => v, null),
        Levels<sbyte> l => l.Rows<long?>(v => v, null),
        Levels<byte> l => l.Rows<long?>(v => v, null),
        Levels<ushort> l => l.Rows<long?>(v => v, null),
        Levels<uint> l => l.Rows<long?>(v => v, null),
        Levels<ulong> l => l.Rows<long?>(v => checked((long)v), null),
        Levels<bool> l => l.Rows<long?>(v => v ? 1 : 0, null),
        var other => throw Unexpected(column, other),
    });

    /// <inheritdoc/>
    public IEnumerable<double?> Numbers(string column) => this.Find(column).Kind == ColumnKind.Integer
        ? Integers(column).Select(value => (double?)value)
        : Single(column, ColumnKind.Number).SelectMany(group => group switch
        {
            Levels<double> l => l.Rows<double?>(v => v, null),
            Levels<float> l => l.Rows<double?>(v => v, null),
            Levels<decimal> l => l.Rows<double?>(v => (double)v, null),
            var other => throw Unexpected(column, other),
        });

    /// <inheritdoc/>
    public IEnumerable<IReadOnlyList<string>> TextLists(string column)
    {
        TableColumn found = this.Find(column);
        EspalierException.Require(found is { Kind: ColumnKind.Text, IsList: true }, $"The column \"{column}\" of \"{Path}\" holds no lists of text; {this.Listing()}.");
        return Groups(found).SelectMany(group => group is Levels<ReadOnlyMemory<char>> levels ? levels.Lists(value => value.ToString()) : throw Unexpected(column, group));
    }

    private IEnumerable<object> Single(string column, ColumnKind kind)
    {
        TableColumn found = this.Find(column);
        EspalierException.Require(found.Kind == kind && !found.IsList, $"The column \"{column}\" of \"{Path}\" does not hold {kind} values, one a row; {this.Listing()}.");
        return Groups(found);
    }

    /// <summary>The column's raw values and levels, one row group at a time.</summary>
    private IEnumerable<object> Groups(TableColumn column)
    {
        DataField field = fields.First(f => NameOf(f) == column.Name);
        ParquetReader reader = Guard(Path, () => ParquetReader.CreateAsync(Path));
        try
        {
            for (int i = 0; i < reader.RowGroupCount; i++)
            {
                int index = i;
                yield return Guard(Path, () => ReadGroup(reader, index, field));
            }
        }
        finally
        {
            reader.DisposeAsync().AsTask().GetAwaiter().GetResult();
        }
    }

    private static Task<object> ReadGroup(ParquetReader reader, int index, DataField field) => Type.GetTypeCode(field.ClrType) switch
    {
        TypeCode.Int64 => ReadLevels<long>(reader, index, field),
        TypeCode.Int32 => ReadLevels<int>(reader, index, field),
        TypeCode.Int16 => ReadLevels<short>(reader, index, field),
        TypeCode.SByte => ReadLevels<sbyte>(reader, index, field),
        TypeCode.Byte => ReadLevels<byte>(reader, index, field),
        TypeCode.UInt16 => ReadLevels<ushort>(reader, index, field),
        TypeCode.UInt32 => ReadLevels<uint>(reader, index, field),
        TypeCode.UInt64 => ReadLevels<ulong>(reader, index, field),
        TypeCode.Boolean => ReadLevels<bool>(reader, index, field),
        TypeCode.Double => ReadLevels<double>(reader, index, field),
        TypeCode.Single => ReadLevels<float>(reader, index, field),
        TypeCode.Decimal => ReadLevels<decimal>(reader, index, field),
        _ when KindOf(field) == ColumnKind.Text => ReadLevels<ReadOnlyMemory<char>>(reader, index, field),
        _ => ReadLevels<ReadOnlyMemory<byte>>(reader, index, field),
    };

    private static async Task<object> ReadLevels<T>(ParquetReader reader, int index, DataField field)
        where T : struct
    {
        using ParquetRowGroupReader group = reader.OpenRowGroupReader(index);
        long count = group.GetMetadata(field)?.MetaData?.NumValues ?? throw new InvalidDataException("a column has no description");
        var levels = new Levels<T>(new T[count], field.MaxDefinitionLevel > 0 ? new int[count] : null, field.MaxRepetitionLevel > 0 ? new int[count] : null, field.MaxDefinitionLevel);
        await group.ReadRawAsync<T>(field, levels.Values, Memory(levels.Definition), Memory(levels.Repetition));
        return levels;

        // The cast matters: a bare null would become an empty Memory, which is not the same as none.
        static Memory<int>? Memory(int[]? array) => array is null ? (Memory<int>?)null : array.AsMemory();
    }

    private static T Guard<T>(string path, Func<Task<T>> read)
    {
        try
        {
            return read().GetAwaiter().GetResult();
        }
        catch (UnauthorizedAccessException fault)
        {
            throw new EspalierException($"\"{path}\" may not be read: {fault.Message}", fault);
        }
        catch (Exception fault) when (fault is not (EspalierException or OutOfMemoryException))
        {
            // Damaged bytes surface as many kinds of fault in the thrift and compression readers.
            throw new EspalierException($"\"{path}\" is no whole parquet file ({fault.Message.TrimEnd('.')}): it is damaged or was not downloaded to the end; fetch it again.", fault);
        }
    }

    private EspalierException Unexpected(string column, object group) => new($"The column \"{column}\" of \"{Path}\" holds values of a kind that cannot be read ({group.GetType().GenericTypeArguments[0].Name}).");

    /// <summary>The path in the schema without the two levels that a list adds.</summary>
    private static string NameOf(DataField field) => string.Join('.', field.Path.ToList() switch
    {
        [.. var outer, "list", _] when field.MaxRepetitionLevel > 0 => outer,
        var whole => whole,
    });

    private static ColumnKind KindOf(DataField field) => Type.GetTypeCode(field.ClrType) switch
    {
        TypeCode.Double or TypeCode.Single or TypeCode.Decimal => ColumnKind.Number,
        TypeCode.Boolean or (>= TypeCode.SByte and <= TypeCode.UInt64) => ColumnKind.Integer,
        _ when field.ClrType == typeof(ReadOnlyMemory<char>) || field.ClrType == typeof(string) => ColumnKind.Text,
        _ when field.ClrType == typeof(ReadOnlyMemory<byte>) || field.ClrType == typeof(byte[]) => ColumnKind.Bytes,
        _ => ColumnKind.Other,
    };

    /// <summary>Values without the absent ones, and the levels that say where they belong.</summary>
    private sealed record Levels<T>(T[] Values, int[]? Definition, int[]? Repetition, int Defined)
        where T : struct
    {
        public IEnumerable<TRow> Rows<TRow>(Func<T, TRow> read, TRow absent)
        {
            int next = 0;
            for (int i = 0; i < Values.Length; i++)
            {
                yield return Definition is null || Definition[i] == Defined ? read(Values[next++]) : absent;
            }
        }

        public IEnumerable<IReadOnlyList<TItem>> Lists<TItem>(Func<T, TItem> read)
        {
            int next = 0;
            List<TItem>? list = null;
            for (int i = 0; i < Values.Length; i++)
            {
                if (Repetition![i] == 0)
                {
                    if (list is not null)
                    {
                        yield return list;
                    }

                    list = [];
                }

                if (Definition is null || Definition[i] == Defined)
                {
                    list!.Add(read(Values[next++]));
                }
            }

            if (list is not null)
            {
                yield return list;
            }
        }
    }
}
