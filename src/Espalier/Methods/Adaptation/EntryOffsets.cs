namespace Espalier.Methods.Adaptation;

/// <summary>A mean and an offset for each row and column of a matrix: what ratings are without any taste.</summary>
/// <param name="Mean">The mean of the known entries.</param>
/// <param name="Rows">Added by row.</param>
/// <param name="Columns">Added by column.</param>
public sealed record EntryOffsets(double Mean, IReadOnlyList<double> Rows, IReadOnlyList<double> Columns)
{
    // A row with this many entries gets half of its own offset; customary for ratings.
    private const double RowDamping = 10, ColumnDamping = 5;
    private const int Passes = 10;

    /// <summary>Fits them by turns, damped where few entries are known.</summary>
    public static EntryOffsets Fit(KnownEntries entries)
    {
        double mean = 0;
        foreach (float value in entries.Values)
        {
            mean += value / (double)entries.Count;
        }

        double[] rows = new double[entries.Rows], columns = new double[entries.Columns];
        for (int pass = 0; pass < Passes; pass++)
        {
            Turn(entries.Transposed, mean, rows, columns, ColumnDamping);
            Turn(entries, mean, columns, rows, RowDamping);
        }

        return new EntryOffsets(mean, rows, columns);
    }

    /// <summary>What stands for an entry of which nothing else is known.</summary>
    public double At(int row, int column) => Mean + Rows[row] + Columns[column];

    /// <summary>The entries without them.</summary>
    public KnownEntries Remove(KnownEntries entries) => entries.Select((i, j, value) => (float)(value - At(i, j)));

    private static void Turn(KnownEntries entries, double mean, double[] others, double[] mine, double damping)
    {
        for (int i = 0; i < mine.Length; i++)
        {
            ReadOnlySpan<int> at = entries.ColumnsOf(i);
            ReadOnlySpan<float> values = entries.ValuesOf(i);
            double sum = 0;
            for (int e = 0; e < at.Length; e++)
            {
                sum += values[e] - mean - others[at[e]];
            }

            mine[i] = sum / (at.Length + damping);
        }
    }
}
