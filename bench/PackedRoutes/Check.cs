using Espalier.Sparsity.Packed;

namespace Espalier.PackedRoutes;

/// <summary>
/// Every set of kernels of this processor against plain code, at many widths and densities, without libtorch: for processors that only an
/// emulator has (bench/PackedRoutes/arm.sh).
/// </summary>
internal static class Check
{
    private const int Rows = 5, Vectors = 5;

    /// <returns>How many of the comparisons failed.</returns>
    public static int Run()
    {
        int done = 0, failed = 0;
        foreach (KernelSet set in PackedKernels.Supported.Where(s => s is not KernelSet.Scalar))
        {
            foreach (MatrixCode code in Enum.GetValues<MatrixCode>())
            {
                foreach (PackedType type in Enum.GetValues<PackedType>().Where(t => MatrixCodes.Has(code, t)))
                {
                    foreach (int columns in (int[])[1, 2, 7, 16, 31, 63, 64, 65, 100, 127, 128, 129, 191, 200, 333, 1000, 1023, 4097, 4224])
                    {
                        foreach (double kept in (double[])[0, 0.1, 0.5, 0.9, 1])
                        {
                            string? fault = Compare(set, code, type, columns, kept);
                            done++;
                            if (fault is not null)
                            {
                                failed++;
                                Console.WriteLine($"{PackedKernels.WordOf(set)} {MatrixCodes.WordOf(code)} {PackedTypes.WordOf(type)}, {columns} columns, {kept:0.0} kept: {fault}");
                            }
                        }
                    }
                }
            }

            Console.WriteLine($"{PackedKernels.WordOf(set)}: checked");
        }

        Console.WriteLine($"{done} comparisons, {failed} failed");
        return failed;
    }

    private static string? Compare(KernelSet set, MatrixCode code, PackedType type, int columns, double kept)
    {
        var random = new Random(columns);
        var weights = new float[Rows * columns];
        for (int i = 0; i < weights.Length; i++)
        {
            bool stays = code is MatrixCode.TwoOfFour ? (i % columns % 4) < 2 && random.NextDouble() < kept : random.NextDouble() < kept;
            weights[i] = stays ? random.NextSingle() - 0.5f : 0;
        }

        float[] x = [.. Enumerable.Range(0, columns * Vectors).Select(_ => random.NextSingle() - 0.5f)];
        using PackedMatrix packed = PackedMatrix.Pack(weights, Rows, columns, type, code);
        using PackedProduct plain = new(1, KernelSet.Scalar), fast = new(1, set);
        foreach (int vectors in (int[])[1, Vectors])
        {
            float[] wanted = new float[Rows * vectors], found = new float[Rows * vectors];
            plain.Multiply(packed, x.AsSpan(0, columns * vectors), wanted, vectors);
            fast.Multiply(packed, x.AsSpan(0, columns * vectors), found, vectors);
            double worst = wanted.Zip(found, (w, f) => Math.Abs(w - f) / (1 + Math.Abs(w))).Max();
            if (!(worst < 1e-4))
            {
                return $"products of {vectors} vectors differ by {worst:G3}";
            }
        }

        float[] dense = new float[Rows * columns], expanded = new float[Rows * columns];
        plain.Expand(packed, 0, Rows, dense);
        fast.Expand(packed, 0, Rows, expanded);
        return dense.AsSpan().SequenceEqual(expanded) ? null : "expanded rows differ";
    }
}
