using System.Globalization;
using Espalier.Data;
using Espalier.Runtime;

namespace Espalier.Evaluation.Tasks;

/// <summary>A column that a task reads.</summary>
/// <param name="Name">Its name ("choices.text" is the member text of choices).</param>
/// <param name="IsList">Whether each row holds a list of texts.</param>
/// <param name="OrElse">The name that another publication of the same data gives it; null for none.</param>
public sealed record TaskColumn(string Name, bool IsList = false, string? OrElse = null);

/// <summary>One row of a task's data. Numbers and booleans are read as words ("2"; true is "1").</summary>
public sealed class TaskRow
{
    private readonly Dictionary<string, object?> values;

    private TaskRow(Dictionary<string, object?> values) => this.values = values;

    /// <summary>The text of a column.</summary>
    /// <exception cref="EspalierException">When the row has none.</exception>
    public string this[string column] => values[column] as string ?? throw new EspalierException($"The column \"{column}\" is empty; leave such rows out, or use a split with answers.");

    /// <summary>The list of a column; empty where the row has none.</summary>
    public IReadOnlyList<string> List(string column) => (IReadOnlyList<string>)values[column]!;

    /// <summary>A column that says a choice by its number, from 0.</summary>
    /// <exception cref="EspalierException">When it holds no whole number.</exception>
    public int Number(string column)
    {
        string word = this[column];
        EspalierException.Require(int.TryParse(word, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int number),
            $"The column \"{column}\" says \"{word}\", which is no number of a choice; use a split with answers.");
        return number;
    }

    /// <summary>Where a column's word stands among the names of the choices.</summary>
    /// <param name="column">The column that names the right choice ("B").</param>
    /// <param name="names">The names ("A", "B", "C").</param>
    /// <exception cref="EspalierException">When it names none of them.</exception>
    public int Place(string column, IReadOnlyList<string> names)
    {
        string word = this[column].TrimStart();
        int place = names.Index().Where(n => n.Item == word).Select(n => n.Index).FirstOrDefault(-1);
        EspalierException.Require(place >= 0, $"The column \"{column}\" says \"{word}\", which is none of the choices {string.Join(", ", names)}; use a split with answers.");
        return place;
    }

    /// <summary>Reads questions from a table, row by row.</summary>
    /// <param name="table">The table.</param>
    /// <param name="task">What its columns are and mean.</param>
    /// <exception cref="EspalierException">When a column is missing or of another kind, or a row makes no question: names the file and the row.</exception>
    internal static IEnumerable<ChoiceQuestion> Read(ITable table, ChoiceTask task)
    {
        (string Name, IEnumerator<object?> Values)[] columns = [.. task.Columns.Select(c => (c.Name, Open(table, task, c).GetEnumerator()))];
        try
        {
            for (int row = 1; columns.Select(c => c.Values.MoveNext()).ToArray().All(has => has); row++)
            {
                yield return Question(table, task, row, columns.ToDictionary(c => c.Name, c => c.Values.Current));
            }
        }
        finally
        {
            foreach ((_, IEnumerator<object?> values) in columns)
            {
                values.Dispose();
            }
        }
    }

    private static ChoiceQuestion Question(ITable table, ChoiceTask task, int row, Dictionary<string, object?> values)
    {
        try
        {
            return task.Read(new TaskRow(values));
        }
        catch (EspalierException fault)
        {
            throw new EspalierException($"Row {row} of \"{table.Path}\" is no question of the task {task.Name}. {fault.Message}", fault);
        }
    }

    private static IEnumerable<object?> Open(ITable table, ChoiceTask task, TaskColumn column)
    {
        TableColumn? found = table.Columns.FirstOrDefault(c => c.Name == column.Name) ?? table.Columns.FirstOrDefault(c => c.Name == column.OrElse);
        EspalierException.Require(found is not null,
            $"The task {task.Name} needs the column \"{column.Name}\"{(column.OrElse is null ? "" : $" or \"{column.OrElse}\"")}, which \"{table.Path}\" has not; {table.Listing()}.");
        return column.IsList ? table.TextLists(found.Name)
            : found.Kind == ColumnKind.Integer && table is not CsvTable ? table.Integers(found.Name).Select(n => n?.ToString(CultureInfo.InvariantCulture))
            : table.Texts(found.Name);
    }
}
