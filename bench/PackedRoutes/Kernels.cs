using System.Diagnostics;
using Espalier.Sparsity.Packed;

namespace Espalier.PackedRoutes;

/// <summary>The kernels as they are built in: every set, code and type on one thread, in cache and from memory.</summary>
internal static class Kernels
{
    private const int Rows = 256, Columns = 2048, Copies = 256;

    public static void Measure()
    {
        foreach (KernelSet set in PackedKernels.Supported)
        {
            foreach (MatrixCode code in Enum.GetValues<MatrixCode>())
            {
                foreach (PackedType type in Enum.GetValues<PackedType>().Where(t => MatrixCodes.Has(code, t)))
                {
                    Measure(set, code, type);
                }
            }
        }
    }

    private static void Measure(KernelSet set, MatrixCode code, PackedType type)
    {
        int runs = set == KernelSet.Scalar ? 10 : 400;
        (float[] weights, PackedMatrix small) = Matrix(Rows, code, type);
        using PackedMatrix cached = small;
        using var product = new PackedProduct(1, set);
        var dense = new float[Rows * Columns];
        double one = Best(product, cached, 1, runs), four = Best(product, cached, 4, runs / 5), eight = Best(product, cached, 8, runs / 5);
        double expand = Fastest(runs / 5, () => product.Expand(cached, 0, Rows, dense), (double)Rows * Columns);
        double memory = 0;
        if (set != KernelSet.Scalar)
        {
            float[] many = new float[(long)Rows * Columns * Copies];
            for (int i = 0; i < Copies; i++)
            {
                weights.CopyTo(many, i * (long)Rows * Columns);
            }

            using PackedMatrix large = PackedMatrix.Pack(many, Rows * Copies, Columns, type, code);
            memory = Best(product, large, 1, 5);
        }

        Console.WriteLine($"kernel {PackedKernels.WordOf(set),-7} {MatrixCodes.WordOf(code),-7} {PackedTypes.WordOf(type),-5} {cached.BitsPerWeight,5:0.00} bits   one vector {one,6:0.0}   from memory {memory,6:0.0}   four {four,6:0.0}   eight {eight,6:0.0}   expand {expand,6:0.0}");
    }

    private static (float[] Weights, PackedMatrix Packed) Matrix(int rows, MatrixCode code, PackedType type)
    {
        var random = new Random(0);
        var weights = new float[rows * Columns];
        for (int i = 0; i < weights.Length; i++)
        {
            bool kept = code switch { MatrixCode.Dense => true, MatrixCode.Bitmask => random.Next(2) == 0, _ => (i / 4 * 7 + i) % 4 is 0 or 2 };
            weights[i] = kept ? random.NextSingle() - 0.5f : 0;
        }

        return (weights, PackedMatrix.Pack(weights, rows, Columns, type, code));
    }

    // Gweights per second, times vectors.
    private static double Best(PackedProduct product, PackedMatrix packed, int vectors, int runs)
    {
        var random = new Random(0);
        float[] x = [.. Enumerable.Range(0, Columns * vectors).Select(_ => random.NextSingle() - 0.5f)], y = new float[packed.Rows * vectors];
        return Fastest(runs, () => product.Multiply(packed, x, y, vectors), (double)packed.Rows * Columns * vectors);
    }

    private static double Fastest(int runs, Action work, double weights)
    {
        double best = 0;
        for (int run = 0; run < runs; run++)
        {
            long start = Stopwatch.GetTimestamp();
            work();
            best = Math.Max(best, weights / Stopwatch.GetElapsedTime(start).TotalSeconds / 1e9);
        }

        return best;
    }
}
