using Espalier.Models.Decoding;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>The keys and values of the tokens seen so far, so that a new token costs one step. For inference: no gradient passes through it.</summary>
/// <remarks>Not thread-safe. Memory grows by doubling up to layers × 2 × batch × key-value heads × tokens × head width.</remarks>
public sealed class KeyValueCache : IDisposable
{
    private readonly Tensor?[] keys;
    private readonly Tensor?[] values;
    private readonly long[] lengths;

    /// <summary>Makes an empty cache for a model of this shape.</summary>
    public KeyValueCache(ModelConfig config)
        : this(config.LayerCount)
    {
    }

    /// <summary>Makes an empty cache for this many blocks.</summary>
    public KeyValueCache(int layers)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(layers);
        (keys, values, lengths) = (new Tensor?[layers], new Tensor?[layers], new long[layers]);
    }

    /// <summary>The number of tokens that every block has seen.</summary>
    public long Length => lengths[^1];

    /// <summary>The number of tokens that one block has seen.</summary>
    public long LengthOf(int layer) => lengths[layer];

    /// <summary>Adds the new tokens' keys and values and gives those of all tokens.</summary>
    /// <param name="layer">The block.</param>
    /// <param name="key_BGTD">New keys [batch, key-value heads, new tokens, head width].</param>
    /// <param name="value_BGTD">New values, the same shape.</param>
    /// <returns>Views [batch, key-value heads, all tokens, head width] into the cache; the caller's scope disposes them.</returns>
    /// <exception cref="ArgumentException">When batch, heads or width differ from what the cache holds.</exception>
    public (Tensor Keys, Tensor Values) Append(int layer, Tensor key_BGTD, Tensor value_BGTD)
    {
        long start = lengths[layer];
        long length = start + key_BGTD.shape[2];
        using (no_grad())
        {
            Write(ref keys[layer], key_BGTD, start, length);
            Write(ref values[layer], value_BGTD, start, length);
        }

        lengths[layer] = length;
        return (keys[layer]!.narrow(2, 0, length), values[layer]!.narrow(2, 0, length));
    }

    /// <summary>Adds one token's keys and values, for a single sequence in float32 on the CPU.</summary>
    /// <param name="layer">The block.</param>
    /// <param name="key">Its keys [key-value heads, head width].</param>
    /// <param name="value">Its values, the same shape.</param>
    /// <param name="heads">How many key-value heads there are.</param>
    /// <returns>Where all tokens' keys and values lie until the next change.</returns>
    internal unsafe CachedHeads Append(int layer, ReadOnlySpan<float> key, ReadOnlySpan<float> value, int heads)
    {
        int width = key.Length / heads;
        long at = lengths[layer];
        lengths[layer] = at + 1;
        float* Place(ref Tensor? store, ReadOnlySpan<float> added)
        {
            Reserve(ref store, [1, heads, at + 1, width], at, ScalarType.Float32, CPU);
            Span<float> numbers = StepMath.Numbers(store!);
            for (int h = 0; h < heads; h++)
            {
                added.Slice(h * width, width).CopyTo(numbers[(int)(((h * store!.shape[2]) + at) * width)..]);
            }

            return (float*)System.Runtime.CompilerServices.Unsafe.AsPointer(ref numbers[0]); // native memory: nothing moves it
        }

        float* keysAt = Place(ref keys[layer], key), valuesAt = Place(ref values[layer], value);
        return new CachedHeads(keysAt, valuesAt, heads, keys[layer]!.shape[2], width, at + 1);
    }

    /// <summary>Forgets everything but the first tokens; the memory is kept.</summary>
    /// <param name="length">How many tokens to keep.</param>
    public void Truncate(long length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        for (int i = 0; i < lengths.Length; i++)
        {
            lengths[i] = Math.Min(lengths[i], length);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        for (int i = 0; i < keys.Length; i++)
        {
            keys[i]?.Dispose();
            values[i]?.Dispose();
            (keys[i], values[i], lengths[i]) = (null, null, 0);
        }
    }

    private static void Write(ref Tensor? store, Tensor added, long start, long length)
    {
        using var scope = NewDisposeScope();
        long[] shape = added.shape;
        Reserve(ref store, [shape[0], shape[1], length, shape[3]], start, added.dtype, added.device);
        store!.narrow(2, start, length - start).copy_(added);
    }

    /// <summary>Makes room for [batch, heads, length, width]; what the first <paramref name="start"/> tokens left stays.</summary>
    private static void Reserve(ref Tensor? store, long[] shape, long start, ScalarType type, Device device)
    {
        if (store is not null && (store.shape[0] != shape[0] || store.shape[1] != shape[1] || store.shape[3] != shape[3]))
        {
            throw new ArgumentException($"The cache holds [{string.Join(", ", store.shape)}] and cannot take [{string.Join(", ", shape)}]; use one cache for one batch of one model.", nameof(shape));
        }

        if (store is not null && store.shape[2] >= shape[2])
        {
            return;
        }

        using var scope = NewDisposeScope();
        long room = Math.Max(64, (long)System.Numerics.BitOperations.RoundUpToPowerOf2((ulong)shape[2]));
        Tensor grown = empty([shape[0], shape[1], room, shape[3]], type, device);
        if (store is not null && start > 0)
        {
            grown.narrow(2, 0, start).copy_(store.narrow(2, 0, start));
        }

        store?.Dispose();
        store = grown.DetachFromDisposeScope();
    }
}
