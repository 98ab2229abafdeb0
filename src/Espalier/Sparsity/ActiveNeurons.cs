using System.Numerics;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>The product of a gated feed-forward part over its active neurons alone, without copying their rows.</summary>
internal static unsafe class ActiveNeurons
{
    /// <summary>For every token, y += Σ over open neurons f of z_f · (W1_f · x) · W2T_f.</summary>
    /// <param name="gate">z [N, F], contiguous float32 on the CPU, like all others.</param>
    /// <param name="open">Which neurons count: z above this, or equal to it where <paramref name="inclusive"/>.</param>
    /// <param name="inclusive">Whether a gate of exactly the threshold is open.</param>
    /// <param name="up">W1 [F, D].</param>
    /// <param name="downTransposed">W2 transposed [F, D].</param>
    /// <param name="input">x [N, D].</param>
    /// <param name="output">y [N, D].</param>
    public static void Accumulate(Tensor gate, float open, bool inclusive, Tensor up, Tensor downTransposed, Tensor input, Tensor output)
    {
        long tokens = gate.shape[0], neurons = gate.shape[1], width = input.shape[1];
        if (gate.numel() == 0 || input.numel() == 0)
        {
            return;
        }

        nint z = (nint)TensorMemory.Pointer<float>(gate), x = (nint)TensorMemory.Pointer<float>(input), y = (nint)TensorMemory.Pointer<float>(output);
        nint w1 = (nint)TensorMemory.Pointer<float>(up), w2 = (nint)TensorMemory.Pointer<float>(downTransposed);
        void Token(long n)
        {
            float* gates = (float*)z + n * neurons, from = (float*)x + n * width, to = (float*)y + n * width;
            for (long f = 0; f < neurons; f++)
            {
                if (inclusive ? gates[f] >= open : gates[f] > open)
                {
                    AddScaled((float*)w2 + f * width, gates[f] * Dot((float*)w1 + f * width, from, width), to, width);
                }
            }
        }

        if (tokens == 1)
        {
            Token(0);
        }
        else
        {
            Parallel.For(0, tokens, Token);
        }

        GC.KeepAlive((gate, up, downTransposed, input, output));
    }

    private static float Dot(float* a, float* b, long n)
    {
        // Four sums at once: one would wait for its own last addition.
        Vector<float> s0 = default, s1 = default, s2 = default, s3 = default;
        int step = Vector<float>.Count;
        long i = 0;
        for (; i <= n - 4 * step; i += 4 * step)
        {
            s0 += Vector.Load(a + i) * Vector.Load(b + i);
            s1 += Vector.Load(a + i + step) * Vector.Load(b + i + step);
            s2 += Vector.Load(a + i + 2 * step) * Vector.Load(b + i + 2 * step);
            s3 += Vector.Load(a + i + 3 * step) * Vector.Load(b + i + 3 * step);
        }

        float sum = Vector.Sum(s0 + s1 + (s2 + s3));
        for (; i < n; i++)
        {
            sum += a[i] * b[i];
        }

        return sum;
    }

    private static void AddScaled(float* a, float scale, float* y, long n)
    {
        int step = Vector<float>.Count;
        long i = 0;
        for (; i <= n - step; i += step)
        {
            Vector.Store(Vector.Load(y + i) + Vector.Load(a + i) * scale, y + i);
        }

        for (; i < n; i++)
        {
            y[i] += a[i] * scale;
        }
    }
}
