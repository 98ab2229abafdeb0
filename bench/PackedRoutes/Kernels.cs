using System.Diagnostics;
using Espalier.Sparsity.Packed;

namespace Espalier.PackedRoutes;

/// <summary>The kernels as they are built in: every set and type on one thread, in cache.</summary>
internal static class Kernels
{
    private const int Rows = 256, Columns = 2048;

    public static void Measure()
    {
        foreach (KernelSet set in PackedKernels.Supported)
        {
            foreach (PackedType type in Enum.GetValues<PackedType>())
            {
                int runs = set == KernelSet.Scalar ? 10 : 200;
                Console.WriteLine($"kernel {PackedKernels.WordOf(set),-7} {PackedTypes.WordOf(type),-5} one vector {Best(set, type, 1, runs),6:0.0}   eight vectors {Best(set, type, 8, runs / 5),6:0.0}");
            }
        }
    }

    // Gweights per second, times vectors.
    private static double Best(KernelSet set, PackedType type, int vectors, int runs)
    {
        var random = new Random(0);
        var weights = new float[Rows * Columns];
        for (int i = 0; i < weights.Length; i++)
        {
            weights[i] = random.Next(2) == 0 ? 0 : random.NextSingle() - 0.5f;
        }

        using PackedMatrix packed = PackedMatrix.Pack(weights, Rows, Columns, type);
        using var product = new PackedProduct(1, set);
        float[] x = [.. Enumerable.Range(0, Columns * vectors).Select(_ => random.NextSingle() - 0.5f)], y = new float[Rows * vectors];
        double best = 0;
        for (int run = 0; run < runs; run++)
        {
            long start = Stopwatch.GetTimestamp();
            product.Multiply(packed, x, y, vectors);
            best = Math.Max(best, (double)Rows * Columns * vectors / Stopwatch.GetElapsedTime(start).TotalSeconds / 1e9);
        }

        return best;
    }
}
