using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Espalier.Sparsity.NormalFloats;

/// <summary>A matrix [out, in] in <see cref="NfFormat"/> at its real size: packed codes, packed scales, scales of scales, one offset. A model runs on it as it is.</summary>
public sealed class NfMatrix : ICompactWeight
{
    private const int TileWeights = 1 << 18, ParallelFrom = 1 << 16;

    private readonly byte[] _codes, _scales;
    private readonly float[] _supers;
    private readonly float _offset;
    private readonly float[] _levels;

    /// <summary>Takes the parts of a matrix, as a file holds them.</summary>
    /// <param name="format">The format.</param>
    /// <param name="rows">Outputs.</param>
    /// <param name="columns">Inputs.</param>
    /// <param name="codes">The values' codes as a <see cref="BitStream"/> in memory order.</param>
    /// <param name="scales">The blocks' scales as one.</param>
    /// <param name="supers">The scales of scales; numbers of the format's type.</param>
    /// <param name="offset">The offset of scales.</param>
    /// <exception cref="EspalierException">When a part has another length than the format says.</exception>
    public NfMatrix(NfFormat format, int rows, int columns, byte[] codes, byte[] scales, float[] supers, float offset)
    {
        EspalierException.Require((long)rows * columns <= long.MaxValue / 16, $"A matrix [{rows}, {columns}] is larger than any file; the file is damaged.");
        (long blocks, long groups) = format.Counts((long)rows * columns);
        EspalierException.Require(
            codes.Length == BitStream.Bytes((long)rows * columns, format.Bits) && scales.Length == BitStream.Bytes(blocks, format.ScaleBits) && supers.Length == groups,
            $"A matrix [{rows}, {columns}] in {format} has parts of the wrong length; the file is damaged.");
        (Format, OutFeatures, InFeatures) = (format, rows, columns);
        (_codes, _scales, _supers, _offset) = (codes, scales, supers, offset);
        _levels = NormalFloat.Of(format.Bits).Levels.ToArray();
    }

    /// <summary>The format.</summary>
    public NfFormat Format { get; }

    /// <summary>Its rows.</summary>
    public int OutFeatures { get; }

    /// <summary>Its columns.</summary>
    public int InFeatures { get; }

    /// <summary>The packed codes with their padding.</summary>
    public ReadOnlyMemory<byte> Codes => _codes;

    /// <summary>The packed scales with their padding.</summary>
    public ReadOnlyMemory<byte> Scales => _scales;

    /// <summary>The scales of scales.</summary>
    public ReadOnlyMemory<float> Supers => _supers;

    /// <summary>The offset of scales.</summary>
    public float Offset => _offset;

    /// <summary>The bits that the format counts: <see cref="NfFormat.StorageBits"/>.</summary>
    public double StorageBits => Format.StorageBits((long)OutFeatures * InFeatures);

    /// <inheritdoc/>
    public long StoredBytes => (_codes.Length - BitStream.Padding) + (_scales.Length - BitStream.Padding) + ((long)_supers.Length * (Format.SuperType is ScalarType.Float32 ? 4 : 2)) + sizeof(float);

    /// <summary>Packs a quantised matrix, which stays the caller's.</summary>
    /// <param name="tensor">[out, in].</param>
    public static NfMatrix Of(NfTensor tensor)
    {
        using var scope = NewDisposeScope();
        byte[] codes = [.. tensor.Codes.contiguous().data<byte>()], scales = [.. tensor.ScaleCodes.contiguous().data<byte>()];
        return new NfMatrix(
            tensor.Format, checked((int)tensor.Codes.shape[0]), checked((int)tensor.Codes.shape[1]), BitStream.Pack(codes, tensor.Format.Bits), BitStream.Pack(scales, tensor.Format.ScaleBits),
            [.. tensor.Super.to(ScalarType.Float32).data<float>()], tensor.Offset.item<float>());
    }

    /// <inheritdoc/>
    public Tensor Multiply(Tensor x)
    {
        using var scope = NewDisposeScope();
        long[] shape = x.shape;
        Tensor input = x.to(ScalarType.Float32).reshape(-1, InFeatures), output = empty([input.shape[0], OutFeatures]);
        int tile = Math.Clamp(TileWeights / Math.Max(1, InFeatures), 1, OutFeatures);
        for (int first = 0; first < OutFeatures; first += tile)
        {
            using var inner = NewDisposeScope();
            int count = Math.Min(tile, OutFeatures - first);
            output.narrow(1, first, count).copy_(input.matmul(Dense(first, count).t()));
        }

        return output.reshape([.. shape[..^1], OutFeatures]).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Multiply(ReadOnlySpan<float> x, Span<float> y)
    {
        float[] input = x.ToArray(), output = new float[OutFeatures];
        ForRows(OutFeatures, row => output[row] = Product(row, input));
        output.CopyTo(y);
    }

    /// <inheritdoc/>
    public void Multiply(ReadOnlySpan<float> x, Span<float> y, ReadOnlySpan<int> rows)
    {
        float[] input = x.ToArray();
        y.Clear();
        foreach (int row in rows)
        {
            y[row] = Product(row, input);
        }
    }

    /// <inheritdoc/>
    public Tensor Rows(Tensor ids)
    {
        using var scope = NewDisposeScope();
        long[] numbers = [.. ids.data<long>()];
        var dense = new float[numbers.Length * (long)InFeatures];
        for (int i = 0; i < numbers.Length; i++)
        {
            Decode(checked((int)numbers[i]), dense.AsSpan(i * InFeatures, InFeatures));
        }

        return tensor(dense, [numbers.Length, InFeatures]).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor ToDense() => Dense(0, OutFeatures);

    /// <inheritdoc/>
    public void Dispose()
    {
        // Its memory is the runtime's.
    }

    private Tensor Dense(int first, int count)
    {
        var dense = new float[count * (long)InFeatures];
        ForRows(count, row => Decode(first + row, dense.AsSpan(row * InFeatures, InFeatures)));
        return tensor(dense, [count, InFeatures]);
    }

    private void ForRows(int count, Action<int> row)
    {
        if ((long)count * InFeatures < ParallelFrom)
        {
            for (int i = 0; i < count; i++)
            {
                row(i);
            }
        }
        else
        {
            Parallel.For(0, count, new ParallelOptions { MaxDegreeOfParallelism = Math.Max(1, get_num_threads()) }, row);
        }
    }

    private float Product(int row, float[] input)
    {
        Span<float> values = InFeatures <= 1 << 12 ? stackalloc float[InFeatures] : new float[InFeatures];
        Decode(row, values);
        return TensorPrimitives.Dot(values, input);
    }

    /// <summary>One row: level × scale of its block, in float32 as <see cref="NfTensor.Dequantise"/> computes it.</summary>
    private void Decode(int row, Span<float> to)
    {
        int bits = Format.Bits;
        uint mask = (1u << bits) - 1;
        long at = (long)row * InFeatures, end = at + InFeatures;
        int written = 0;
        ReadOnlySpan<byte> codes = _codes;
        while (at < end)
        {
            long block = at / Format.Block, stop = Math.Min(end, (block + 1) * Format.Block);
            float scale = Scale(block);
            for (; at < stop; at++)
            {
                to[written++] = _levels[BitStream.At(codes, at * bits) & mask] * scale;
            }
        }
    }

    private float Scale(long block)
    {
        float top = (1 << Format.ScaleBits) - 1, super = _supers[block / Format.SuperBlock];
        if (super <= NfFormat.Smallest)
        {
            return _offset;
        }

        uint q = BitStream.At(_scales, block * Format.ScaleBits) & ((1u << Format.ScaleBits) - 1);
        return (q / (top / super)) + _offset;
    }
}
