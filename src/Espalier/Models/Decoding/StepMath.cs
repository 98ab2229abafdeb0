using System.Runtime.InteropServices;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Espalier.Models.Decoding;

/// <summary>The arithmetic of one token on plain vectors: what the norms, <see cref="Attention"/> and <see cref="Activations"/> do to tensors.</summary>
internal static unsafe class StepMath
{
    /// <summary>Products from which attention is worth a second thread.</summary>
    private const long ParallelWork = 1 << 20;

    /// <summary>The numbers of a contiguous float32 tensor on the CPU.</summary>
    public static Span<float> Numbers(Tensor tensor) => MemoryMarshal.Cast<byte, float>(tensor.bytes);

    /// <summary>As <see cref="Models.RmsNorm"/>.</summary>
    public static void RmsNorm(ReadOnlySpan<float> x, ReadOnlySpan<float> gain, double epsilon, Span<float> to)
    {
        float scale = 1 / MathF.Sqrt((TensorPrimitives.SumOfSquares(x) / x.Length) + (float)epsilon);
        TensorPrimitives.Multiply(x, scale, to);
        TensorPrimitives.Multiply(to, gain, to);
    }

    /// <summary>As <see cref="Models.LayerNorm"/>; empty gain and shift for a norm without them.</summary>
    public static void LayerNorm(ReadOnlySpan<float> x, ReadOnlySpan<float> gain, ReadOnlySpan<float> shift, double epsilon, Span<float> to)
    {
        TensorPrimitives.Subtract(x, TensorPrimitives.Sum(x) / x.Length, to);
        float scale = 1 / MathF.Sqrt((TensorPrimitives.SumOfSquares<float>(to) / x.Length) + (float)epsilon);
        TensorPrimitives.Multiply(to, scale, to);
        if (gain.Length > 0)
        {
            TensorPrimitives.MultiplyAdd(to, gain, shift, to);
        }
    }

    /// <summary>Any activation function that is given for tensors, in place.</summary>
    public static void Activate(Func<Tensor, Tensor> function, Span<float> x)
    {
        using var scope = NewDisposeScope();
        Tensor values = empty(x.Length);
        x.CopyTo(Numbers(values));
        Numbers(function(values)).CopyTo(x);
    }

    /// <summary>softmax(q kᵀ / √D) v of one token for every query head.</summary>
    /// <param name="queries">[heads, width].</param>
    /// <param name="cache">Keys and values so far, those of this token included.</param>
    /// <param name="window">How many of the last tokens are seen; null for all.</param>
    /// <param name="to">[heads, width].</param>
    public static void Attend(ReadOnlySpan<float> queries, CachedHeads cache, int? window, Span<float> to)
    {
        int heads = queries.Length / cache.Width, served = heads / cache.Heads;
        int first = (int)Math.Max(0, cache.Length - (window ?? cache.Length)), seen = (int)cache.Length - first;
        fixed (float* q = queries, y = to)
        {
            if (seen * (long)queries.Length < ParallelWork)
            {
                for (int h = 0; h < heads; h++)
                {
                    Head(q, y, h);
                }
            }
            else
            {
                (nint q0, nint y0) = ((nint)q, (nint)y);
                Parallel.For(0, heads, h => Head((float*)q0, (float*)y0, h));
            }
        }

        void Head(float* q, float* y, int h)
        {
            int width = cache.Width;
            var query = new ReadOnlySpan<float>(q + ((long)h * width), width);
            float* keys = cache.Keys + (((h / served * cache.Room) + first) * width), values = cache.Values + (((h / served * cache.Room) + first) * width);
            float[] rented = System.Buffers.ArrayPool<float>.Shared.Rent(seen);
            Span<float> scores = rented.AsSpan(0, seen);
            float scale = 1 / MathF.Sqrt(width);
            for (int s = 0; s < seen; s++)
            {
                scores[s] = TensorPrimitives.Dot(query, new ReadOnlySpan<float>(keys + ((long)s * width), width)) * scale;
            }

            TensorPrimitives.Subtract(scores, TensorPrimitives.Max<float>(scores), scores);
            TensorPrimitives.Exp(scores, scores);
            float sum = TensorPrimitives.Sum<float>(scores);
            var result = new Span<float>(y + ((long)h * width), width);
            result.Clear();
            for (int s = 0; s < seen; s++)
            {
                TensorPrimitives.MultiplyAdd(new ReadOnlySpan<float>(values + ((long)s * width), width), scores[s] / sum, result, result);
            }

            System.Buffers.ArrayPool<float>.Shared.Return(rented);
        }
    }
}

/// <summary>The keys and values of one block as they lie in a cache of one sequence: [heads, room, width] each.</summary>
internal readonly unsafe struct CachedHeads(float* keys, float* values, int heads, long room, int width, long length)
{
    /// <summary>The first key.</summary>
    public float* Keys { get; } = keys;

    /// <summary>The first value.</summary>
    public float* Values { get; } = values;

    /// <summary>How many key-value heads there are.</summary>
    public int Heads { get; } = heads;

    /// <summary>For how many tokens there is room.</summary>
    public long Room { get; } = room;

    /// <summary>The width of a head.</summary>
    public int Width { get; } = width;

    /// <summary>How many tokens there are.</summary>
    public long Length { get; } = length;
}
