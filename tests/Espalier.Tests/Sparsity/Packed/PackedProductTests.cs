using Espalier.Runtime;
using Espalier.Sparsity.Packed;

namespace Espalier.Tests.Sparsity.Packed;

public sealed class PackedProductTests
{
    /// <summary>Every set of this processor with every code and type.</summary>
    public static TheoryData<KernelSet, MatrixCode, PackedType> Kernels
    {
        get
        {
            var all = new TheoryData<KernelSet, MatrixCode, PackedType>();
            foreach (KernelSet set in PackedKernels.Supported)
            {
                foreach (MatrixCode code in Enum.GetValues<MatrixCode>())
                {
                    foreach (PackedType type in Enum.GetValues<PackedType>().Where(t => MatrixCodes.Has(code, t)))
                    {
                        all.Add(set, code, type);
                    }
                }
            }

            return all;
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Products_of_any_width_and_density_are_those_of_the_unpacked_matrix(KernelSet set, MatrixCode code, PackedType type)
    {
        var random = new Random(7);
        using var product = new PackedProduct(1, set);
        int[] widths = [.. Enumerable.Range(1, 140), .. Enumerable.Range(0, 40).Select(_ => random.Next(141, 1024)), 1023, 4096, 4224, 8300];
        foreach (int columns in widths)
        {
            int rows = 1 + random.Next(6), vectors = 1 + random.Next(8);
            double[] densities = [.. Enumerable.Range(0, rows).Select(_ => random.Next(4) switch { 0 => 0, 1 => 1, _ => random.NextDouble() })];
            Compare(product, code, type, Weights(random, rows, columns, densities), rows, columns, random, vectors);
            Compare(product, code, type, Weights(random, rows, columns, densities), rows, columns, random, 1);
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Matrices_without_rows_or_columns_give_no_or_zero_products(KernelSet set, MatrixCode code, PackedType type)
    {
        using var product = new PackedProduct(2, set);
        using PackedMatrix noRows = PackedMatrix.Pack([], 0, 5, type, code), noColumns = PackedMatrix.Pack([], 3, 0, type, code);
        product.Multiply(noRows, new float[5], []);
        float[] y = [1, 1, 1];
        product.Multiply(noColumns, [], y);
        y.ShouldBe([0, 0, 0]);
        product.Expand(noRows, 0, 0, []);
        product.Expand(noColumns, 1, 2, []);
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Expanded_rows_are_those_that_unpack_gives_bit_by_bit(KernelSet set, MatrixCode code, PackedType type)
    {
        var random = new Random(11);
        using var product = new PackedProduct(2, set);
        foreach (int columns in (int[])[1, 3, 31, 32, 33, 63, 64, 65, 127, 128, 200, 512, 1023, 4160])
        {
            const int rows = 7;
            float[] w = Weights(random, rows, columns, [0, 1, 0.5, 0.5, 0.2, 0.9, 0.5]);
            using PackedMatrix packed = PackedMatrix.Pack(code is MatrixCode.TwoOfFour ? HalfOfGroups(w, columns) : w, rows, columns, type, code);
            float[] row = new float[columns], all = new float[rows * columns];
            product.Expand(packed, 0, rows, all);
            for (int r = 0; r < rows; r++)
            {
                packed.Unpack(r, row);
                all.AsSpan(r * columns, columns).ToArray().ShouldBe(row, $"{columns} columns, row {r}");
            }

            var some = new float[2 * columns];
            product.Expand(packed, 3, 2, some);
            some.ShouldBe(all[(3 * columns)..(5 * columns)]);
        }
    }

    [Fact]
    public void Rows_that_a_matrix_does_not_have_are_not_expanded()
    {
        using var product = new PackedProduct();
        using PackedMatrix packed = PackedMatrix.Pack([1, 2], 2, 1, PackedType.Int8);
        Should.Throw<ArgumentOutOfRangeException>(() => product.Expand(packed, 1, 2, new float[2]));
        Should.Throw<ArgumentOutOfRangeException>(() => product.Expand(packed, -1, 1, new float[1]));
        Should.Throw<ArgumentOutOfRangeException>(() => product.Expand(packed, 0, 3, new float[3]));
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Several_threads_give_the_same_products_and_nothing_is_allocated(KernelSet set, MatrixCode code, PackedType type)
    {
        const int rows = 1501; // several shares of rows in every type, the last one odd
        var random = new Random(3);
        float[] w = Weights(random, rows, 300, [.. Enumerable.Range(0, rows).Select(r => r < 300 ? 1 : 0.3)]);
        w = code is MatrixCode.TwoOfFour ? HalfOfGroups(w, 300) : w;
        float[] x = Vector(random, 300), one = new float[rows], three = new float[rows];
        using PackedMatrix packed = PackedMatrix.Pack(w, rows, 300, type, code);
        using var alone = new PackedProduct(1, set);
        using var team = new PackedProduct(3, set);
        alone.Multiply(packed, x, one);
        team.Multiply(packed, x, three);
        three.ShouldBe(one);
        var dense = new float[rows * 300];
        SteadyState.Allocated(() =>
        {
            alone.Multiply(packed, x, one);
            team.Multiply(packed, x, three);
            alone.Expand(packed, 0, rows, dense);
        }).ShouldBe(0);
        three.ShouldBe(one);
    }

    [Fact]
    public void The_switch_names_a_set_that_the_processor_has()
    {
        PackedKernels.Choose(null).ShouldBe(PackedKernels.Supported[^1]);
        PackedKernels.Choose("scalar").ShouldBe(KernelSet.Scalar);
        Should.Throw<EspalierException>(() => PackedKernels.Choose("mmx")).Message.ShouldContain("no set of kernels");
    }

    internal static float[] Weights(Random random, int rows, int columns, double[] densities)
    {
        var w = new float[rows * columns];
        for (int i = 0; i < w.Length; i++)
        {
            w[i] = random.NextDouble() < densities[i / columns] ? Normal(random) * 0.02f : 0;
        }

        return w;
    }

    /// <summary>The weights without all but the first two that are not zero of each four columns.</summary>
    internal static float[] HalfOfGroups(float[] weights, int columns)
    {
        float[] w = [.. weights];
        for (int start = 0; start < w.Length; start += columns)
        {
            for (int j = 0; j < columns; j++)
            {
                int first = start + j / 4 * 4;
                w[start + j] = w[first..(start + j)].Count(v => v != 0) < 2 ? w[start + j] : 0;
            }
        }

        return w;
    }

    internal static float Normal(Random random) =>
        (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));

    private static float[] Vector(Random random, int length) => [.. Enumerable.Range(0, length).Select(_ => Normal(random))];

    // The budget is what rounding can do: of inputs to 8 bits half a step each (integer types), and of float32 sums one part in 2^18.
    private static void Compare(PackedProduct product, MatrixCode code, PackedType type, float[] w, int rows, int columns, Random random, int vectors)
    {
        using PackedMatrix packed = PackedMatrix.Pack(code is MatrixCode.TwoOfFour ? HalfOfGroups(w, columns) : w, rows, columns, type, code);
        float[] x = Vector(random, columns * vectors), y = new float[rows * vectors], row = new float[columns];
        product.Multiply(packed, x, y, vectors);
        for (int r = 0; r < rows; r++)
        {
            packed.Unpack(r, row);
            for (int v = 0; v < vectors; v++)
            {
                double exact = 0, sizes = 0, budget = 0;
                float step = 0;
                for (int j = 0; j < columns; j++)
                {
                    float input = x[v * columns + j];
                    exact += (double)row[j] * input;
                    sizes += Math.Abs((double)row[j] * input);
                    int block = v * columns + j / 64 * 64;
                    step = j % 64 == 0 ? x.AsSpan(block, Math.Min(64, columns - j)).ToArray().Max(Math.Abs) / 127 : step;
                    budget += PackedTypes.IsInteger(type) ? Math.Abs(row[j]) * step * 0.5001 : 0;
                }

                double difference = Math.Abs(y[v * rows + r] - exact);
                difference.ShouldBeLessThanOrEqualTo(budget + sizes / (1 << 18) + 1e-30, $"{code}, {type}, {rows} x {columns}, row {r}, vector {v} of {vectors}");
            }
        }
    }
}
