namespace Espalier.Sparsity.Packed;

/// <summary>Multiplies packed matrices with one or a few vectors, and writes their rows dense. It keeps its room and its threads from call to call and allocates nothing then.</summary>
/// <remarks>
/// One thread owns whole rows; threads take the next share, of about the same number of bytes each, when they are done with one, so that
/// one that the system has stopped holds up no more than its share. An object serves one caller at a time.
/// </remarks>
public sealed unsafe partial class PackedProduct : IDisposable
{
    // A share is long enough to be read ahead and short enough to wait for.
    private const int ShareWords = (64 << 10) / 8, MostSharesPerThread = 8;

    private readonly PackedInput input = new();
    private readonly WorkerTeam team;
    private PackedMatrix? matrix;
    private float* output;
    private int count, firstRow, rowCount, shares, taken;

    /// <summary>Makes one.</summary>
    /// <param name="threads">How many threads share the rows, the caller's included.</param>
    /// <param name="kernels">The instructions; null: the best there are (or those that are forced).</param>
    public PackedProduct(int threads = 1, KernelSet? kernels = null)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(threads);
        Threads = threads;
        Kernels = kernels ?? PackedKernels.Current;
        team = new WorkerTeam(threads, Work);
    }

    /// <summary>How many threads share the rows, the caller's included.</summary>
    public int Threads { get; }

    /// <summary>The instructions in use.</summary>
    public KernelSet Kernels { get; }

    /// <summary>y = W x for each vector. Integer weights see the inputs rounded to 8 bits, a scale per 64 columns.</summary>
    /// <param name="weights">The matrix [rows, columns].</param>
    /// <param name="x">The vectors [vectors, columns].</param>
    /// <param name="y">The products [vectors, rows].</param>
    /// <param name="vectors">How many; made for 1 to 8.</param>
    public void Multiply(PackedMatrix weights, ReadOnlySpan<float> x, Span<float> y, int vectors = 1)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(vectors);
        ArgumentOutOfRangeException.ThrowIfNotEqual(x.Length, (long)weights.Columns * vectors, nameof(x));
        ArgumentOutOfRangeException.ThrowIfNotEqual(y.Length, (long)weights.Rows * vectors, nameof(y));
        fixed (float* from = x, to = y)
        {
            Multiply(weights, from, to, vectors);
        }
    }

    /// <summary>Writes rows as dense float32 weights, what <see cref="PackedMatrix.Unpack"/> gives for each.</summary>
    /// <param name="weights">The matrix [rows, columns].</param>
    /// <param name="from">The first row.</param>
    /// <param name="rows">How many.</param>
    /// <param name="to">Room for [rows, columns].</param>
    public void Expand(PackedMatrix weights, int from, int rows, Span<float> to)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(to.Length, (long)weights.Columns * rows, nameof(to));
        fixed (float* first = to)
        {
            Expand(weights, from, rows, first);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        team.Dispose();
        input.Dispose();
        DisposeSums();
    }

    internal void Multiply(PackedMatrix weights, float* x, float* y, int vectors)
    {
        weights.RequireOpen();
        input.Arrange(weights.Type, x, weights.Columns, vectors);
        Run(weights, y, vectors, 0, weights.Rows);
    }

    internal void Expand(PackedMatrix weights, int from, int rows, float* to)
    {
        weights.RequireOpen();
        ArgumentOutOfRangeException.ThrowIfNegative(from);
        ArgumentOutOfRangeException.ThrowIfNegative(rows);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(rows, weights.Rows - from);
        if (weights.Columns == 0)
        {
            return;
        }

        Run(weights, to, 0, from, rows);
    }

    // No vectors: the rows themselves are wanted.
    private void Run(PackedMatrix weights, float* to, int vectors, int from, int rows)
    {
        output = to;
        (matrix, count, firstRow, rowCount) = (weights, vectors, from, rows);
        int words = weights.RowWords[from + rows] - weights.RowWords[from];
        (shares, taken) = (Threads == 1 ? 1 : Math.Clamp(words / ShareWords, 1, Threads * MostSharesPerThread), 0);
        if (shares == 1)
        {
            Work();
        }
        else
        {
            team.Run();
        }

        matrix = null;
    }

    private void Work()
    {
        if (some)
        {
            WorkOnSome();
            return;
        }

        RowKernel kernel = PackedKernels.For(Kernels, matrix!);
        if (count == 1)
        {
            fixed (int* starts = matrix!.RowWords)
            fixed (float* scales = matrix.Scales)
            {
                var rows = new RowSet { Stream = matrix.Stream, Starts = starts, Scales = scales, Output = output, X = input };
                for (int share = Interlocked.Increment(ref taken) - 1; share < shares; share = Interlocked.Increment(ref taken) - 1)
                {
                    kernel.Rows(rows, Boundary(share), Boundary(share + 1));
                }
            }

            return;
        }

        for (int share = Interlocked.Increment(ref taken) - 1; share < shares; share = Interlocked.Increment(ref taken) - 1)
        {
            Share(kernel, Boundary(share), Boundary(share + 1));
        }
    }

    private void Share(RowKernel kernel, int first, int end)
    {
        byte* stream = matrix!.Stream;
        ReadOnlySpan<int> starts = matrix.RowWords;
        ReadOnlySpan<float> scales = matrix.Scales;
        int columns = matrix.Columns, rows = matrix.Rows;
        if (count == 0)
        {
            for (int r = first; r < end; r++)
            {
                kernel.Expand(stream + starts[r] * 8L, scales[r], columns, output + (long)(r - firstRow) * columns);
            }

            return;
        }

        float* products = stackalloc float[4];
        for (int r = first; r < end; r++)
        {
            for (int c = 0; c < count; c += 4)
            {
                kernel.Four(stream + starts[r] * 8L, columns, input, c, products);
                for (int i = 0; i < Math.Min(4, count - c); i++)
                {
                    output[(long)(c + i) * rows + r] = products[i] * scales[r];
                }
            }
        }
    }

    // The first row that begins at or behind a share of the bytes of the rows at work, an even number of rows from the first: they go in pairs.
    private int Boundary(int share)
    {
        if (share == 0 || share == shares)
        {
            return firstRow + (share == 0 ? 0 : rowCount);
        }

        ReadOnlySpan<int> starts = matrix!.RowWords.Slice(firstRow, rowCount + 1);
        int at = starts.BinarySearch(starts[0] + (int)((long)(starts[^1] - starts[0]) * share / shares));
        return firstRow + Math.Min(((at < 0 ? ~at : at) + 1) & ~1, rowCount);
    }
}
