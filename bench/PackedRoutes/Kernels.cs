using System.Diagnostics;
using Espalier.Sparsity.Packed;

namespace Espalier.PackedRoutes;

/// <summary>The kernels as they are built in: every set and type on one thread, and on two.</summary>
internal static class Kernels
{
    private const int Columns = 2048;

    public static void Measure()
    {
        foreach (KernelSet set in PackedKernels.Supported)
        {
            foreach (PackedType type in Enum.GetValues<PackedType>())
            {
                double small = Best(set, type, 256, 1, 1, 300), large = Best(set, type, 40_000, 1, 1, 6), two = Best(set, type, 40_000, 2, 1, 6), eight = Best(set, type, 256, 1, 8, 60);
                Console.WriteLine($"kernel {PackedKernels.WordOf(set),-7} {PackedTypes.WordOf(type),-5} in cache {small,6:0.0}   from memory {large,6:0.0}   two threads {two,6:0.0}   8 vectors in cache {eight,6:0.0}");
            }
        }
    }

    // Gweights per second (times vectors).
    private static double Best(KernelSet set, PackedType type, int rows, int threads, int vectors, int runs)
    {
        var random = new Random(0);
        var weights = new float[rows * Columns];
        for (int i = 0; i < weights.Length; i++)
        {
            weights[i] = random.Next(2) == 0 ? 0 : random.NextSingle() - 0.5f;
        }

        using PackedMatrix packed = PackedMatrix.Pack(weights, rows, Columns, type);
        using var product = new PackedProduct(threads, set);
        float[] x = [.. Enumerable.Range(0, Columns * vectors).Select(_ => random.NextSingle() - 0.5f)], y = new float[rows * vectors];
        double best = 0;
        for (int run = 0; run < runs; run++)
        {
            long start = Stopwatch.GetTimestamp();
            product.Multiply(packed, x, y, vectors);
            best = Math.Max(best, (double)rows * Columns * vectors / Stopwatch.GetElapsedTime(start).TotalSeconds / 1e9);
        }

        return best;
    }
}
