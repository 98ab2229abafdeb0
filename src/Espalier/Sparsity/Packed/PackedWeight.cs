using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Sparsity.Packed;

/// <summary>
/// A packed matrix as a model uses it. A few input vectors are multiplied by the packed kernels; for more (a prompt) tiles of rows are
/// expanded and multiplied by libtorch.
/// </summary>
/// <param name="matrix">The matrix; disposed with this.</param>
/// <param name="byInput">Whether its rows are inputs, [in, out]: then a product adds up the rows of inputs that are not 0, and never reads the others.</param>
public sealed unsafe class PackedWeight(PackedMatrix matrix, bool byInput = false) : ICompactWeight
{
    /// <summary>The most vectors that go to the packed kernels.</summary>
    internal const int KernelVectors = 8;

    // 16 MB of float32. libtorch arranges the inputs anew for each tile, which costs more than to read a tile from memory; from 32 MB on the system would give and take the room each time.
    private const int TileWeights = 1 << 22;

    private static readonly Lock Gate = new();
    private static PackedProduct? _product;

    /// <summary>The matrix.</summary>
    public PackedMatrix Matrix => matrix;

    /// <inheritdoc/>
    public long StoredBytes => matrix.StoredBytes;

    /// <inheritdoc/>
    public Tensor Multiply(Tensor x)
    {
        using var scope = NewDisposeScope();
        long[] shape = x.shape;
        int vectors = checked((int)(x.numel() / Math.Max(1, shape[^1])));
        Tensor input = x.to(ScalarType.Float32).reshape(vectors, shape[^1]).contiguous();
        Tensor output = byInput ? ByInputs(input, vectors) : vectors <= KernelVectors ? ByKernel(input, vectors) : ByTiles(input);
        return output.reshape([.. shape[..^1], output.shape[1]]).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Multiply(ReadOnlySpan<float> x, Span<float> y)
    {
        lock (Gate)
        {
            if (byInput)
            {
                Product().AddRows(matrix, x, y);
            }
            else
            {
                Product().Multiply(matrix, x, y);
            }
        }
    }

    /// <inheritdoc/>
    public void Multiply(ReadOnlySpan<float> x, Span<float> y, ReadOnlySpan<int> rows)
    {
        if (byInput)
        {
            Multiply(x, y);
            return;
        }

        lock (Gate)
        {
            Product().MultiplySome(matrix, x, y, rows);
        }
    }

    /// <inheritdoc/>
    public Tensor Rows(Tensor ids)
    {
        using var scope = NewDisposeScope();
        long[] numbers = [.. ids.data<long>()];
        Tensor rows = empty([numbers.Length, matrix.Columns]);
        float* to = TensorMemory.Pointer<float>(rows);
        for (int i = 0; i < numbers.Length; i++)
        {
            matrix.Unpack(checked((int)numbers[i]), new Span<float>(to + (long)i * matrix.Columns, matrix.Columns));
        }

        return rows.MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor ToDense()
    {
        using var scope = NewDisposeScope();
        Tensor stored = matrix.ToTensor();
        return (byInput ? stored.t().contiguous() : stored).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose() => matrix.Dispose();

    private Tensor ByKernel(Tensor input, int vectors)
    {
        Tensor output = empty([vectors, matrix.Rows]);
        lock (Gate)
        {
            Product().Multiply(matrix, TensorMemory.Pointer<float>(input), TensorMemory.Pointer<float>(output), vectors);
        }

        return output;
    }

    private Tensor ByInputs(Tensor input, int vectors)
    {
        Tensor output = zeros([vectors, matrix.Columns]);
        if (vectors == 1)
        {
            Multiply(new ReadOnlySpan<float>(TensorMemory.Pointer<float>(input), matrix.Rows), new Span<float>(TensorMemory.Pointer<float>(output), matrix.Columns));
            return output;
        }

        int tile = Tile;
        Tensor room = empty([tile, matrix.Columns]);
        lock (Gate)
        {
            for (int first = 0; first < matrix.Rows; first += tile)
            {
                using var scope = NewDisposeScope();
                int count = Math.Min(tile, matrix.Rows - first);
                Product().Expand(matrix, first, count, TensorMemory.Pointer<float>(room));
                output.addmm_(input.narrow(1, first, count), room.narrow(0, 0, count), 1, 1);
            }
        }

        return output;
    }

    private int Tile => Math.Clamp(TileWeights / Math.Max(1, matrix.Columns), 1, Math.Max(1, matrix.Rows));

    private Tensor ByTiles(Tensor input)
    {
        int tile = Tile;
        Tensor output = empty([input.shape[0], matrix.Rows]), room = empty([tile, matrix.Columns]);
        lock (Gate)
        {
            for (int first = 0; first < matrix.Rows; first += tile)
            {
                using var scope = NewDisposeScope();
                int count = Math.Min(tile, matrix.Rows - first);
                Product().Expand(matrix, first, count, TensorMemory.Pointer<float>(room));
                output.narrow(1, first, count).addmm_(input, room.narrow(0, 0, count).t(), 0, 1);
            }
        }

        return output;
    }

    /// <summary>The kernels' threads are as many as libtorch's, and shared by all models: one product runs at a time.</summary>
    private static PackedProduct Product()
    {
        int threads = get_num_threads();
        if (_product?.Threads != threads)
        {
            _product?.Dispose();
            _product = new PackedProduct(threads);
        }

        return _product;
    }
}
