using Espalier.Sparsity.Packed;

namespace Espalier.Tests.Sparsity.Packed;

public sealed class PackedSomeTests
{
    [Theory]
    [MemberData(nameof(PackedProductTests.Kernels), MemberType = typeof(PackedProductTests))]
    public void Some_rows_and_sums_of_rows_are_those_of_the_whole(KernelSet set, MatrixCode code, PackedType type)
    {
        var random = new Random(17);
        foreach (int threads in (int[])[1, 2])
        {
            using var product = new PackedProduct(threads, set);
            foreach ((int rows, int columns) in new[] { (1, 1), (7, 63), (65, 130), (200, 64), (333, 500), (2, 1023) })
            {
                float[] w = PackedProductTests.Weights(random, rows, columns, [.. Enumerable.Range(0, rows).Select(_ => 0.5)]);
                if (code is MatrixCode.TwoOfFour)
                {
                    w = [.. w.Select((v, i) => i % columns % 4 < 2 ? v : 0)];
                }

                using PackedMatrix matrix = PackedMatrix.Pack(w, rows, columns, type, code);
                foreach (double share in (double[])[0, 0.1, 0.9, 1])
                {
                    int[] active = [.. Enumerable.Range(0, rows).Where(_ => random.NextDouble() < share)];
                    float[] x = Vector(random, columns), whole = new float[rows], some = [.. Enumerable.Repeat(9f, rows)];
                    product.Multiply(matrix, x, whole);
                    product.MultiplySome(matrix, x, some, active);
                    some.ShouldBe([.. whole.Select((v, r) => active.Contains(r) ? v : 0)]);

                    float[] factors = new float[rows], sum = [.. Enumerable.Repeat(9f, columns)], row = new float[columns];
                    var expected = new double[columns];
                    foreach (int r in active)
                    {
                        factors[r] = (float)random.NextDouble() - 0.5f;
                        matrix.Unpack(r, row);
                        for (int c = 0; c < columns; c++)
                        {
                            expected[c] += (double)factors[r] * row[c];
                        }
                    }

                    product.AddRows(matrix, factors, sum);
                    for (int c = 0; c < columns; c++)
                    {
                        ((double)sum[c]).ShouldBe(expected[c], 1e-4, $"{rows} x {columns}, {active.Length} active");
                    }
                }
            }
        }
    }

    [Fact]
    public void Nothing_is_allocated_after_the_first_product()
    {
        var random = new Random(3);
        using var product = new PackedProduct(2);
        using PackedMatrix matrix = PackedMatrix.Pack(PackedProductTests.Weights(random, 256, 512, [.. Enumerable.Repeat(0.5, 256)]), 256, 512, PackedType.Int8);
        float[] x = Vector(random, 512), y = new float[256], factors = Vector(random, 256), sum = new float[512];
        int[] rows = [.. Enumerable.Range(0, 256).Where(r => r % 3 == 0)];
        SteadyState.Allocated(() =>
        {
            product.MultiplySome(matrix, x, y, rows);
            product.AddRows(matrix, factors, sum);
        }).ShouldBe(0);
    }

    private static float[] Vector(Random random, int length) => [.. Enumerable.Range(0, length).Select(_ => (float)random.NextDouble() - 0.5f)];
}
