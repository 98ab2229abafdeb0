using System.Globalization;
using Espalier.Runtime;

namespace Espalier.Methods.Adaptation;

/// <summary>Known entries with names for rows and columns (users and films), as text files list them: row, column, value and whatever follows, apart by tabs, commas, semicolons or spaces.</summary>
public sealed class EntryTable
{
    private static readonly char[] Separators = ['\t', ',', ';', ' '];
    private readonly Dictionary<string, int> _rows = new(StringComparer.Ordinal), _columns = new(StringComparer.Ordinal);
    private readonly List<string> _rowNames = [], _columnNames = [];

    /// <summary>Names of the rows, in the order of their first appearance.</summary>
    public IReadOnlyList<string> RowNames => _rowNames;

    /// <summary>Names of the columns.</summary>
    public IReadOnlyList<string> ColumnNames => _columnNames;

    /// <summary>Reads a file. Names that were not met before are added, so read every file before the first <see cref="Entries"/>.</summary>
    /// <param name="path">The file. A first line whose value is no number is taken for headings.</param>
    /// <param name="values">Whether a value is needed; else places alone are read, with the value 0.</param>
    /// <exception cref="EspalierException">When it is missing or empty, or a line is not understood; names the line.</exception>
    public IReadOnlyList<(int Row, int Column, float Value)> Read(string path, bool values = true)
    {
        EspalierException.Require(File.Exists(path), $"There is no file {path}.");
        var read = new List<(int, int, float)>();
        int number = 0;
        foreach (string line in File.ReadLines(path))
        {
            number++;
            string[] words = line.Split(Separators, StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
            if (words.Length == 0)
            {
                continue;
            }

            EspalierException.Require(words.Length >= (values ? 3 : 2), $"Line {number} of {path} has {words.Length} words; a line is row, column{(values ? ", value" : "")}.");
            float value = 0;
            if (values && !float.TryParse(words[2], NumberStyles.Float, CultureInfo.InvariantCulture, out value))
            {
                EspalierException.Require(number == 1, $"Line {number} of {path} gives '{words[2]}' as a value, which is no number.");
                continue;
            }

            read.Add((Index(_rows, _rowNames, words[0]), Index(_columns, _columnNames, words[1]), value));
        }

        EspalierException.Require(read.Count > 0, $"{path} lists no entry.");
        return read;
    }

    /// <summary>Entries of the whole matrix, with rows and columns for every name read so far.</summary>
    /// <exception cref="EspalierException">When a value is not finite or an entry is listed twice.</exception>
    public KnownEntries Entries(IReadOnlyCollection<(int Row, int Column, float Value)> list) => KnownEntries.Of(_rowNames.Count, _columnNames.Count, list);

    private static int Index(Dictionary<string, int> known, List<string> names, string name)
    {
        if (!known.TryGetValue(name, out int index))
        {
            index = names.Count;
            known.Add(name, index);
            names.Add(name);
        }

        return index;
    }
}
