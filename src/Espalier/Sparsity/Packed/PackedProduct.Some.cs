using System.Numerics.Tensors;
using NativeMemory = System.Runtime.InteropServices.NativeMemory;

namespace Espalier.Sparsity.Packed;

/// <summary>Products that read some rows only.</summary>
public sealed unsafe partial class PackedProduct
{
    private const int FewRows = 16; // that many rows are a share at least

    private float*[] sums = [];
    private int[] chosen = [];
    private int sumLength, workers;
    private float* factors;
    private bool some;

    /// <summary>Entries of y = W x for some rows; the others become 0 and are not read.</summary>
    /// <param name="weights">The matrix [rows, columns].</param>
    /// <param name="x">[columns].</param>
    /// <param name="y">[rows].</param>
    /// <param name="rows">The rows wanted, ascending.</param>
    public void MultiplySome(PackedMatrix weights, ReadOnlySpan<float> x, Span<float> y, ReadOnlySpan<int> rows)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(x.Length, weights.Columns, nameof(x));
        ArgumentOutOfRangeException.ThrowIfNotEqual(y.Length, weights.Rows, nameof(y));
        weights.RequireOpen();
        y.Clear();
        Choose(rows, weights.Rows);
        fixed (float* from = x, to = y)
        {
            input.Arrange(weights.Type, from, weights.Columns, 1);
            factors = null;
            RunSome(weights, to, rows.Length);
        }
    }

    /// <summary>y = Σ x_i W_i over the rows whose x_i is not 0, the only ones that are read. The weights are not rounded any further: inputs stay floats.</summary>
    /// <param name="weights">The matrix [rows, columns].</param>
    /// <param name="x">[rows].</param>
    /// <param name="y">[columns].</param>
    public void AddRows(PackedMatrix weights, ReadOnlySpan<float> x, Span<float> y)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(x.Length, weights.Rows, nameof(x));
        ArgumentOutOfRangeException.ThrowIfNotEqual(y.Length, weights.Columns, nameof(y));
        weights.RequireOpen();
        Reserve(ref chosen, x.Length);
        int active = 0;
        for (int i = 0; i < x.Length; i++)
        {
            chosen[active] = i;
            active += x[i] != 0 ? 1 : 0;
        }

        y.Clear();
        if (active == 0 || weights.Columns == 0)
        {
            return;
        }

        PrepareSums(weights.Columns);
        fixed (float* by = x)
        {
            factors = by;
            RunSome(weights, null, active);
        }

        for (int i = 0; i < workers; i++)
        {
            TensorPrimitives.Add(y, new ReadOnlySpan<float>(sums[i], weights.Columns), y);
        }
    }

    private void RunSome(PackedMatrix weights, float* to, int active)
    {
        output = to;
        (matrix, rowCount, workers, taken, some) = (weights, active, 0, 0, true);
        shares = Threads == 1 ? 1 : Math.Clamp(active / FewRows, 1, Threads * MostSharesPerThread);
        try
        {
            if (shares == 1)
            {
                Work();
            }
            else
            {
                team.Run();
            }
        }
        finally
        {
            some = false;
            matrix = null;
        }
    }

    private void WorkOnSome()
    {
        RowKernel kernel = PackedKernels.For(Kernels, matrix!);
        fixed (int* starts = matrix!.RowWords, which = chosen)
        fixed (float* scales = matrix.Scales)
        {
            WorkOnSome(kernel, new RowSet { Stream = matrix.Stream, Starts = starts, Scales = scales, Which = which, Output = output, X = input }, matrix.Columns);
        }
    }

    private void WorkOnSome(RowKernel kernel, in RowSet rows, int columns)
    {
        float* sum = null, row = null;
        for (int share = Interlocked.Increment(ref taken) - 1; share < shares; share = Interlocked.Increment(ref taken) - 1)
        {
            int first = (int)((long)rowCount * share / shares), end = (int)((long)rowCount * (share + 1) / shares);
            if (factors is null)
            {
                kernel.Rows(rows, first, end);
                continue;
            }

            if (sum is null)
            {
                sum = sums[Interlocked.Increment(ref workers) - 1];
                row = sum + sumLength;
                new Span<float>(sum, columns).Clear();
            }

            var total = new Span<float>(sum, columns);
            for (int i = first; i < end; i++)
            {
                int r = rows.Which[i];
                kernel.Expand(rows.At(r), rows.Scales[r], columns, row);
                TensorPrimitives.MultiplyAdd(new ReadOnlySpan<float>(row, columns), factors[r], total, total);
            }
        }
    }

    private void Choose(ReadOnlySpan<int> rows, int of)
    {
        Reserve(ref chosen, rows.Length);
        rows.CopyTo(chosen);
        foreach (int r in rows)
        {
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)r, (uint)of, nameof(rows));
        }
    }

    private static void Reserve(ref int[] places, int count)
    {
        if (places.Length < count)
        {
            places = new int[count];
        }
    }

    // Of each thread a sum and an expanded row.
    private void PrepareSums(int columns)
    {
        if (columns <= sumLength)
        {
            return;
        }

        DisposeSums();
        sumLength = (columns + 63) & ~63;
        sums = new float*[Threads];
        for (int i = 0; i < sums.Length; i++)
        {
            sums[i] = (float*)NativeMemory.AlignedAlloc((nuint)sumLength * 2 * sizeof(float), 64);
        }
    }

    private void DisposeSums()
    {
        for (int i = 0; i < sums.Length; i++)
        {
            NativeMemory.AlignedFree(sums[i]);
            sums[i] = null;
        }

        sumLength = 0;
    }
}
