using System.Diagnostics;
using Espalier.Sparsity.Packed;

namespace Espalier.PackedRoutes;

/// <summary>The kernels as they are built in: every set, code and type on one thread, in cache and, when asked for, from memory.</summary>
internal static class Kernels
{
    private static readonly int Rows = int.Parse(Environment.GetEnvironmentVariable("BENCH_ROWS") ?? "256"),
        Columns = int.Parse(Environment.GetEnvironmentVariable("BENCH_COLUMNS") ?? "2048");
    private const long MemoryBytes = 512 << 20; // more than any cache holds

    /// <param name="only">The word for a set; null for all.</param>
    /// <param name="memory">Whether to measure from memory too, which takes a while to prepare.</param>
    /// <param name="type">The word for a type; null for all.</param>
    public static void Measure(string? only, bool memory, string? type = null)
    {
        foreach (KernelSet set in PackedKernels.Supported.Where(s => only is null || PackedKernels.WordOf(s) == only))
        {
            foreach (MatrixCode code in Enum.GetValues<MatrixCode>())
            {
                foreach (PackedType values in Enum.GetValues<PackedType>().Where(t => MatrixCodes.Has(code, t) && (type is null || PackedTypes.WordOf(t) == type)))
                {
                    Measure(set, code, values, memory);
                }
            }
        }
    }

    private static void Measure(KernelSet set, MatrixCode code, PackedType type, bool memory)
    {
        using PackedMatrix packed = Matrix(Rows, code, type);
        using var product = new PackedProduct(1, set);
        var dense = new float[Rows * Columns];
        double one = Best(product, [packed], 1), four = Best(product, [packed], 4), eight = Best(product, [packed], 8);
        double expand = Fastest(() => product.Expand(packed, 0, Rows, dense), (double)Rows * Columns);
        string large = "";
        if (memory)
        {
            PackedMatrix[] copies = [.. Enumerable.Range(0, (int)(MemoryBytes / packed.StoredBytes) + 1).AsParallel().Select(_ => Matrix(Rows, code, type))];
            large = $"   from memory {Best(product, copies, 1),6:0.0}";
            Array.ForEach(copies, c => c.Dispose());
        }

        Console.WriteLine($"kernel {PackedKernels.WordOf(set),-7} {MatrixCodes.WordOf(code),-7} {PackedTypes.WordOf(type),-5} {packed.BitsPerWeight,5:0.00} bits   one vector {one,6:0.0}{large}   four {four,6:0.0}   eight {eight,6:0.0}   expand {expand,6:0.0}");
    }

    /// <summary>Prompts: many vectors by a packed matrix against the dense product of libtorch, with two threads.</summary>
    public static void Prompts()
    {
        Espalier.Runtime.NativeLibraries.EnsureLoaded();
        foreach ((int rows, MatrixCode code, PackedType type) in new[] { (2048, MatrixCode.Bitmask, PackedType.BFloat16), (2048, MatrixCode.Bitmask, PackedType.Int4), (5632, MatrixCode.Bitmask, PackedType.BFloat16), (5632, MatrixCode.TwoOfFour, PackedType.Int8) })
        {
            using var scope = TorchSharp.torch.NewDisposeScope();
            using var weight = new PackedWeight(Matrix(rows, code, type));
            TorchSharp.torch.Tensor x = TorchSharp.torch.randn(512, Columns), dense = weight.ToDense();
            double packed = Fastest(() => weight.Multiply(x).Dispose(), 1), plain = Fastest(() => TorchSharp.torch.nn.functional.linear(x, dense).Dispose(), 1);
            packed = Math.Max(packed, Fastest(() => weight.Multiply(x).Dispose(), 1));
            Console.WriteLine($"prompt {rows} x {Columns} {code} {type}: {packed / plain:0.00} of dense ({1e-9 / plain * 1e3:0.0} ms)");
        }
    }

    private static PackedMatrix Matrix(int rows, MatrixCode code, PackedType type)
    {
        var random = new Random(0);
        var weights = new float[rows * Columns];
        for (int i = 0; i < weights.Length; i++)
        {
            bool kept = code switch { MatrixCode.Dense => true, MatrixCode.Bitmask => random.Next(2) == 0, _ => (i / 4 * 7 + i) % 4 is 0 or 2 };
            weights[i] = kept ? random.NextSingle() - 0.5f : 0;
        }

        return PackedMatrix.Pack(weights, rows, Columns, type, code);
    }

    // Gweights per second, times vectors.
    private static double Best(PackedProduct product, PackedMatrix[] matrices, int vectors)
    {
        var random = new Random(0);
        float[] x = [.. Enumerable.Range(0, Columns * vectors).Select(_ => random.NextSingle() - 0.5f)], y = new float[Rows * vectors];
        return Fastest(() => Array.ForEach(matrices, m => product.Multiply(m, x, y, vectors)), (double)Rows * Columns * vectors * matrices.Length);
    }

    // A third of a second, in which the compiler has also made its best code.
    private static double Fastest(Action work, double weights)
    {
        double best = 0;
        long begin = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(begin).TotalSeconds < 0.33)
        {
            long start = Stopwatch.GetTimestamp();
            work();
            best = Math.Max(best, weights / Stopwatch.GetElapsedTime(start).TotalSeconds / 1e9);
        }

        return best;
    }
}
