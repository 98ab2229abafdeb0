using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.InteropServices;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>
/// Which weights of a matrix stay: one bit each, in row-major order. It belongs to the model, not to a run: retraining,
/// adapters, merges and writers all receive it, so that a weight that was pruned is never confused with one that is 0 by chance.
/// Immutable and held in managed memory.
/// </summary>
public sealed class SparsityMask : IEquatable<SparsityMask>
{
    private const ulong Gather = 0x0102_0408_1020_4080; // moves the low bits of eight bytes into one byte

    private readonly byte[] _bits; // bit k of byte i is weight 8·i + k

    private SparsityMask(byte[] bits, long rows, long columns)
    {
        (_bits, Rows, Columns) = (bits, rows, columns);
        long kept = 0;
        foreach (ulong word in MemoryMarshal.Cast<byte, ulong>(bits))
        {
            kept += BitOperations.PopCount(word);
        }

        for (int i = bits.Length / 8 * 8; i < bits.Length; i++)
        {
            kept += BitOperations.PopCount(bits[i]);
        }

        Kept = kept;
    }

    /// <summary>Output features.</summary>
    public long Rows { get; }

    /// <summary>Input features.</summary>
    public long Columns { get; }

    /// <summary>All weights.</summary>
    public long Count => Rows * Columns;

    /// <summary>The weights that stay.</summary>
    public long Kept { get; }

    /// <summary>The share that is pruned.</summary>
    public double Sparsity => Count == 0 ? 0 : 1.0 - ((double)Kept / Count);

    /// <summary>The packed bits, eight weights a byte, the first in the lowest bit.</summary>
    public ReadOnlySpan<byte> Bits => _bits;

    /// <summary>Packs a mask.</summary>
    /// <param name="keep">[rows, columns], bool; true stays.</param>
    /// <exception cref="EspalierException">Unless it is a matrix of booleans.</exception>
    public static SparsityMask FromTensor(Tensor keep)
    {
        EspalierException.Require(keep.dim() == 2 && keep.dtype == ScalarType.Bool,
            $"A sparsity mask is a matrix of booleans, not {keep.dtype} [{string.Join(", ", keep.shape)}].");
        using var scope = NewDisposeScope();
        ReadOnlySpan<byte> flags = keep.to(CPU).contiguous().bytes;
        var bits = new byte[(flags.Length + 7) / 8];
        int whole = flags.Length / 8;
        for (int i = 0; i < whole; i++)
        {
            bits[i] = (byte)((BinaryPrimitives.ReadUInt64LittleEndian(flags[(8 * i)..]) * Gather) >> 56);
        }

        for (int k = 8 * whole; k < flags.Length; k++)
        {
            bits[whole] |= (byte)(flags[k] << (k & 7));
        }

        return new SparsityMask(bits, keep.shape[0], keep.shape[1]);
    }

    /// <summary>Takes bits as they are stored.</summary>
    /// <param name="bits">⌈rows·columns / 8⌉ bytes.</param>
    /// <param name="rows">Output features.</param>
    /// <param name="columns">Input features.</param>
    /// <exception cref="EspalierException">When the number of bytes is another, or unused bits are set.</exception>
    public static SparsityMask FromBits(ReadOnlySpan<byte> bits, long rows, long columns)
    {
        long count = checked(rows * columns);
        EspalierException.Require(rows >= 0 && columns >= 0 && bits.Length == (count + 7) / 8,
            $"A sparsity mask of [{rows}, {columns}] takes {(count + 7) / 8} bytes, but {bits.Length} are there.");
        EspalierException.Require(count % 8 == 0 || bits[^1] >> (int)(count % 8) == 0, "The unused bits at the end of a sparsity mask are not 0; the file is damaged.");
        return new SparsityMask(bits.ToArray(), rows, columns);
    }

    /// <summary>The mask as a tensor [rows, columns] of booleans in the caller's scope.</summary>
    /// <param name="device">Where it is wanted; null means the CPU.</param>
    public Tensor ToTensor(Device? device = null)
    {
        Tensor keep = empty([Rows, Columns], ScalarType.Bool);
        Span<byte> flags = keep.bytes;
        for (int k = 0; k < flags.Length; k++)
        {
            flags[k] = (byte)((_bits[k >> 3] >> (k & 7)) & 1);
        }

        return device is null || device.type == TorchSharp.DeviceType.CPU ? keep : keep.to(device, disposeAfter: true);
    }

    /// <summary>Counts weights that are not 0 though they are pruned.</summary>
    /// <param name="weight">[rows, columns].</param>
    public long Revived(Tensor weight)
    {
        using var scope = NewDisposeScope();
        return weight.ne(0).logical_and(ToTensor(weight.device).logical_not()).sum().item<long>();
    }

    /// <inheritdoc/>
    public bool Equals(SparsityMask? other) =>
        other is not null && Rows == other.Rows && Columns == other.Columns && _bits.AsSpan().SequenceEqual(other._bits);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as SparsityMask);

    /// <inheritdoc/>
    public override int GetHashCode() => HashCode.Combine(Rows, Columns, Kept);
}
