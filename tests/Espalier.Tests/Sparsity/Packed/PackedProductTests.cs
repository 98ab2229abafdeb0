using Espalier.Runtime;
using Espalier.Sparsity.Packed;

namespace Espalier.Tests.Sparsity.Packed;

public sealed class PackedProductTests
{
    /// <summary>Every set of this processor with every type.</summary>
    public static TheoryData<KernelSet, PackedType> Kernels
    {
        get
        {
            var all = new TheoryData<KernelSet, PackedType>();
            foreach (KernelSet set in PackedKernels.Supported)
            {
                foreach (PackedType type in Enum.GetValues<PackedType>())
                {
                    all.Add(set, type);
                }
            }

            return all;
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Products_of_any_width_and_density_are_those_of_the_unpacked_matrix(KernelSet set, PackedType type)
    {
        var random = new Random(7);
        using var product = new PackedProduct(1, set);
        int[] widths = [.. Enumerable.Range(1, 140), .. Enumerable.Range(0, 40).Select(_ => random.Next(141, 1024)), 1023];
        foreach (int columns in widths)
        {
            int rows = 1 + random.Next(6), vectors = 1 + random.Next(8);
            double[] densities = [.. Enumerable.Range(0, rows).Select(_ => random.Next(4) switch { 0 => 0, 1 => 1, _ => random.NextDouble() })];
            Compare(product, type, Weights(random, rows, columns, densities), rows, columns, random, vectors);
            Compare(product, type, Weights(random, rows, columns, densities), rows, columns, random, 1);
        }
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Matrices_without_rows_or_columns_give_no_or_zero_products(KernelSet set, PackedType type)
    {
        using var product = new PackedProduct(2, set);
        using PackedMatrix noRows = PackedMatrix.Pack([], 0, 5, type), noColumns = PackedMatrix.Pack([], 3, 0, type);
        product.Multiply(noRows, new float[5], []);
        float[] y = [1, 1, 1];
        product.Multiply(noColumns, [], y);
        y.ShouldBe([0, 0, 0]);
    }

    [Theory]
    [MemberData(nameof(Kernels))]
    public void Several_threads_give_the_same_products_and_nothing_is_allocated(KernelSet set, PackedType type)
    {
        var random = new Random(3);
        float[] w = Weights(random, 101, 300, [.. Enumerable.Range(0, 101).Select(r => r < 20 ? 1 : 0.3)]);
        float[] x = Vector(random, 300), one = new float[101], three = new float[101];
        using PackedMatrix packed = PackedMatrix.Pack(w, 101, 300, type);
        using var alone = new PackedProduct(1, set);
        using var team = new PackedProduct(3, set);
        alone.Multiply(packed, x, one);
        team.Multiply(packed, x, three);
        three.ShouldBe(one);
        for (int i = 0; i < 20; i++)
        {
            alone.Multiply(packed, x, one);
        }

        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 50; i++)
        {
            alone.Multiply(packed, x, one);
        }

        (GC.GetAllocatedBytesForCurrentThread() - before).ShouldBe(0);
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

    internal static float Normal(Random random) =>
        (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));

    private static float[] Vector(Random random, int length) => [.. Enumerable.Range(0, length).Select(_ => Normal(random))];

    // The budget is what rounding can do: of inputs to 8 bits half a step each (integer types), and of float32 sums one part in 2^18.
    private static void Compare(PackedProduct product, PackedType type, float[] w, int rows, int columns, Random random, int vectors)
    {
        using PackedMatrix packed = PackedMatrix.Pack(w, rows, columns, type);
        float[] x = Vector(random, columns * vectors), y = new float[rows * vectors], row = new float[columns];
        product.Multiply(packed, x, y, vectors);
        for (int r = 0; r < rows; r++)
        {
            packed.Unpack(r, row);
            for (int v = 0; v < vectors; v++)
            {
                double exact = 0, sizes = 0, budget = 0;
                for (int j = 0; j < columns; j++)
                {
                    float input = x[v * columns + j];
                    exact += (double)row[j] * input;
                    sizes += Math.Abs((double)row[j] * input);
                    int block = v * columns + j / 64 * 64;
                    float step = x.Skip(block).Take(Math.Min(64, columns - j / 64 * 64)).Max(Math.Abs) / 127;
                    budget += PackedTypes.IsInteger(type) ? Math.Abs(row[j]) * step * 0.5001 : 0;
                }

                double difference = Math.Abs(y[v * rows + r] - exact);
                difference.ShouldBeLessThanOrEqualTo(budget + sizes / (1 << 18) + 1e-30, $"{type}, {rows} x {columns}, row {r}, vector {v} of {vectors}");
            }
        }
    }
}
