using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>The known entries Ω of a matrix, sorted by row and within a row by column. A value may be 0: what is not listed is unknown, not zero.</summary>
public sealed class KnownEntries
{
    private readonly int[] _starts, _others;
    private readonly float[] _values;
    private KnownEntries? _turned;

    private KnownEntries(int rows, int columns, int[] starts, int[] others, float[] values) =>
        (Rows, Columns, _starts, _others, _values) = (rows, columns, starts, others, values);

    /// <summary>m.</summary>
    public int Rows { get; }

    /// <summary>n.</summary>
    public int Columns { get; }

    /// <summary>|Ω|.</summary>
    public int Count => _values.Length;

    /// <summary>The values in order.</summary>
    public ReadOnlySpan<float> Values => _values;

    /// <summary>The same entries of the transposed matrix.</summary>
    public KnownEntries Transposed => _turned ??= Turn();

    /// <summary>The root of the sum of squares, ‖P_Ω(M)‖.</summary>
    public double Norm => Math.Sqrt(_values.Sum(v => (double)v * v));

    /// <summary>The columns of the known entries of a row, ascending.</summary>
    public ReadOnlySpan<int> ColumnsOf(int row) => _others.AsSpan(_starts[row], _starts[row + 1] - _starts[row]);

    /// <summary>The known values of a row, in the order of <see cref="ColumnsOf"/>.</summary>
    public ReadOnlySpan<float> ValuesOf(int row) => _values.AsSpan(_starts[row], _starts[row + 1] - _starts[row]);

    /// <summary>Entries from a list.</summary>
    /// <param name="rows">m.</param>
    /// <param name="columns">n.</param>
    /// <param name="entries">Row and column from 0, and value; in any order.</param>
    /// <exception cref="EspalierException">For no entry, one outside the matrix, one listed twice, or a value that is not finite.</exception>
    public static KnownEntries Of(int rows, int columns, IReadOnlyCollection<(int Row, int Column, float Value)> entries)
    {
        EspalierException.Require(rows > 0 && columns > 0, $"A matrix of {rows} × {columns} has nothing to complete.");
        EspalierException.Require(entries.Count > 0, $"No entry of the {rows} × {columns} matrix is known; there is nothing to complete it from.");
        var starts = new int[rows + 1];
        foreach ((int row, int column, float value) in entries)
        {
            EspalierException.Require(row >= 0 && row < rows && column >= 0 && column < columns, $"The known entry ({row}, {column}) lies outside the {rows} × {columns} matrix.");
            EspalierException.Require(float.IsFinite(value), $"The known entry ({row}, {column}) is NaN or infinite; leave it out, or mend it.");
            starts[row + 1]++;
        }

        for (int i = 0; i < rows; i++)
        {
            starts[i + 1] += starts[i];
        }

        int[] next = [.. starts], others = new int[entries.Count];
        var values = new float[entries.Count];
        foreach ((int row, int column, float value) in entries)
        {
            int at = next[row]++;
            (others[at], values[at]) = (column, value);
        }

        for (int i = 0; i < rows; i++)
        {
            Span<int> mine = others.AsSpan(starts[i], starts[i + 1] - starts[i]);
            mine.Sort(values.AsSpan(starts[i], mine.Length));
            for (int e = 1; e < mine.Length; e++)
            {
                EspalierException.Require(mine[e] != mine[e - 1], $"The entry ({i}, {mine[e]}) is listed twice; keep one of the two values.");
            }
        }

        return new KnownEntries(rows, columns, starts, others, values);
    }

    /// <summary>The entries of a dense matrix that a mask calls known.</summary>
    /// <param name="matrix">[m, n]; what is not known may hold anything.</param>
    /// <param name="known">[m, n], bool or 0 and 1.</param>
    /// <exception cref="EspalierException">For no known entry, a known value that is not finite, and when the shapes differ.</exception>
    public static KnownEntries Of(Tensor matrix, Tensor known)
    {
        EspalierException.Require(matrix.dim() == 2 && matrix.shape.AsSpan().SequenceEqual(known.shape), $"The mask [{string.Join(", ", known.shape)}] does not fit the matrix [{string.Join(", ", matrix.shape)}].");
        using var scope = NewDisposeScope();
        int n = (int)matrix.shape[1];
        float[] values = [.. matrix.detach().cpu().to(ScalarType.Float32).contiguous().data<float>()];
        bool[] mask = [.. known.ne(0).cpu().contiguous().data<bool>()];
        return Of((int)matrix.shape[0], n, [.. Enumerable.Range(0, values.Length).Where(i => mask[i]).Select(i => (i / n, i % n, values[i]))]);
    }

    /// <summary>The same places with other values.</summary>
    /// <param name="change">From row, column and value to the new value.</param>
    public KnownEntries Select(Func<int, int, float, float> change)
    {
        var values = new float[Count];
        for (int i = 0; i < Rows; i++)
        {
            for (int e = _starts[i]; e < _starts[i + 1]; e++)
            {
                values[e] = change(i, _others[e], _values[e]);
            }
        }

        return new KnownEntries(Rows, Columns, _starts, _others, values);
    }

    /// <summary>Shares the entries out at random among disjoint sets of nearly equal size (step 1 of the theory).</summary>
    /// <param name="parts">How many.</param>
    /// <param name="random">The draw.</param>
    /// <exception cref="EspalierException">When there are fewer entries than parts.</exception>
    public IReadOnlyList<KnownEntries> Split(int parts, Random random)
    {
        EspalierException.Require(Count >= parts, $"{Count} known entries cannot be split into {parts} parts; ask for fewer rounds, or use all entries in every round (split: false).");
        int[] order = [.. Enumerable.Range(0, Count)];
        random.Shuffle(order);
        var part = new int[Count];
        for (int i = 0; i < Count; i++)
        {
            part[order[i]] = i % parts;
        }

        (int Row, int Column, float Value)[] all = [.. List()];
        return [.. Enumerable.Range(0, parts).Select(p => Of(Rows, Columns, [.. Enumerable.Range(0, Count).Where(i => part[i] == p).Select(i => all[i])]))];
    }

    /// <summary>All entries in order.</summary>
    public IEnumerable<(int Row, int Column, float Value)> List()
    {
        for (int i = 0; i < Rows; i++)
        {
            for (int e = _starts[i]; e < _starts[i + 1]; e++)
            {
                yield return (i, _others[e], _values[e]);
            }
        }
    }

    /// <summary>P_Ω(M)·B: the known entries as a sparse matrix times a dense one.</summary>
    /// <param name="b">[n, k], row by row.</param>
    /// <param name="k">Columns of B.</param>
    /// <returns>[m, k].</returns>
    internal float[] Multiply(float[] b, int k)
    {
        var product = new float[Rows * k];
        for (int i = 0; i < Rows; i++)
        {
            Span<float> row = product.AsSpan(i * k, k);
            for (int e = _starts[i]; e < _starts[i + 1]; e++)
            {
                System.Numerics.Tensors.TensorPrimitives.MultiplyAdd(b.AsSpan(_others[e] * k, k), _values[e], row, row);
            }
        }

        return product;
    }

    private KnownEntries Turn()
    {
        var starts = new int[Columns + 1];
        foreach (int column in _others)
        {
            starts[column + 1]++;
        }

        for (int j = 0; j < Columns; j++)
        {
            starts[j + 1] += starts[j];
        }

        int[] next = [.. starts], others = new int[Count];
        var values = new float[Count];
        for (int i = 0; i < Rows; i++)
        {
            for (int e = _starts[i]; e < _starts[i + 1]; e++)
            {
                int at = next[_others[e]]++;
                (others[at], values[at]) = (i, _values[e]);
            }
        }

        return new KnownEntries(Columns, Rows, starts, others, values) { _turned = this };
    }
}
