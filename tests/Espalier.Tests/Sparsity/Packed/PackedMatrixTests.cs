using Espalier.Runtime;
using Espalier.Sparsity.Packed;

namespace Espalier.Tests.Sparsity.Packed;

public sealed class PackedMatrixTests
{
    [Theory]
    [InlineData(MatrixCode.Bitmask, PackedType.BFloat16, 9.1)]
    [InlineData(MatrixCode.Bitmask, PackedType.Float16, 9.1)]
    [InlineData(MatrixCode.Bitmask, PackedType.Int8, 5.2)]
    [InlineData(MatrixCode.Bitmask, PackedType.Int4, 3.4)]
    [InlineData(MatrixCode.TwoOfFour, PackedType.Int8, 4.8)]
    [InlineData(MatrixCode.TwoOfFour, PackedType.Int4, 3.05)]
    [InlineData(MatrixCode.Dense, PackedType.Int8, 8.3)]
    [InlineData(MatrixCode.Dense, PackedType.Int4, 4.55)]
    [InlineData(MatrixCode.Dense, PackedType.BFloat16, 16.05)]
    public void Half_of_the_weights_take_as_many_bits_as_the_format_promises(MatrixCode code, PackedType type, double most)
    {
        const int rows = 64, columns = 2048;
        using PackedMatrix packed = PackedMatrix.Pack(Weights(code, 1, rows, columns), rows, columns, type, code);
        packed.Code.ShouldBe(code);
        packed.BitsPerWeight.ShouldBeLessThanOrEqualTo(most);
    }

    [Fact]
    public void Without_a_code_the_one_with_the_fewest_bytes_is_taken()
    {
        const int rows = 8, columns = 2048;
        foreach (PackedType type in Enum.GetValues<PackedType>())
        {
            foreach (double density in (double[])[0.05, 0.5, 0.75, 0.85, 0.95, 1])
            {
                float[] w = PackedProductTests.Weights(new Random(1), rows, columns, [.. Enumerable.Repeat(density, rows)]);
                foreach (float[] weights in (float[][])[w, PackedProductTests.HalfOfGroups(w, columns)])
                {
                    var sizes = new List<long>();
                    foreach (MatrixCode code in Enum.GetValues<MatrixCode>().Where(c => MatrixCodes.Has(c, type) && (c is not MatrixCode.TwoOfFour || weights != w)))
                    {
                        using PackedMatrix one = PackedMatrix.Pack(weights, rows, columns, type, code);
                        sizes.Add(one.StoredBytes);
                    }

                    using PackedMatrix packed = PackedMatrix.Pack(weights, rows, columns, type);
                    packed.StoredBytes.ShouldBe(sizes.Min(), $"{type} at {density}: {packed.Code}");
                }
            }
        }
    }

    [Fact]
    public void Codes_that_have_no_room_for_the_weights_are_refused()
    {
        Should.Throw<EspalierException>(() => PackedMatrix.Pack([1, 1, 1, 0], 1, 4, PackedType.Int8, MatrixCode.TwoOfFour).Dispose()).Message.ShouldContain("more than two of four");
        Should.Throw<EspalierException>(() => PackedMatrix.Pack([1, 1, 0, 0], 1, 4, PackedType.BFloat16, MatrixCode.TwoOfFour).Dispose()).Message.ShouldContain("There is no 2:4 code of bf16");
    }

    /// <summary>The error budget of each format: root mean square over that of the weights, normal weights of which half are kept (dense: all).</summary>
    [Theory]
    [InlineData(MatrixCode.Bitmask, PackedType.Float32, 0)]
    [InlineData(MatrixCode.Bitmask, PackedType.BFloat16, 0.0025)]
    [InlineData(MatrixCode.Bitmask, PackedType.Float16, 0.0005)]
    [InlineData(MatrixCode.Bitmask, PackedType.Int8, 0.010)]
    [InlineData(MatrixCode.Bitmask, PackedType.Int4, 0.095)]
    [InlineData(MatrixCode.TwoOfFour, PackedType.Int8, 0.010)]
    [InlineData(MatrixCode.TwoOfFour, PackedType.Int4, 0.095)]
    [InlineData(MatrixCode.Dense, PackedType.Float32, 0)]
    [InlineData(MatrixCode.Dense, PackedType.BFloat16, 0.0025)]
    [InlineData(MatrixCode.Dense, PackedType.Float16, 0.0005)]
    [InlineData(MatrixCode.Dense, PackedType.Int8, 0.006)]
    [InlineData(MatrixCode.Dense, PackedType.Int4, 0.095)]
    public void Values_come_back_within_the_budget_of_their_format(MatrixCode code, PackedType type, double budget)
    {
        const int rows = 16, columns = 1000;
        float[] w = Weights(code, 2, rows, columns), row = new float[columns];
        using PackedMatrix packed = PackedMatrix.Pack(w, rows, columns, type, code);
        double error = 0, size = 0;
        for (int r = 0; r < rows; r++)
        {
            packed.Unpack(r, row);
            for (int j = 0; j < columns; j++)
            {
                float original = w[r * columns + j];
                (row[j] == 0 || original != 0).ShouldBeTrue("a zero was revived");
                error += Math.Pow(row[j] - original, 2);
                size += original * original;
            }
        }

        Math.Sqrt(error / size).ShouldBeLessThanOrEqualTo(budget);
    }

    [Fact]
    public void Sixteen_bit_floats_that_a_type_holds_come_back_bit_by_bit()
    {
        foreach (PackedType type in (PackedType[])[PackedType.BFloat16, PackedType.Float16])
        {
            float[] w = [.. Enumerable.Range(0, 65536).Select(i => type is PackedType.BFloat16
                ? BitConverter.UInt32BitsToSingle((uint)i << 16) : (float)BitConverter.UInt16BitsToHalf((ushort)i)).Where(v => float.IsFinite(v) && v != 0 && Math.Abs(v) < 3e38f)];
            using PackedMatrix packed = PackedMatrix.Pack(w, 1, w.Length, type);
            var back = new float[w.Length];
            packed.Unpack(0, back);
            back.ShouldBe(w);
        }
    }

    [Theory]
    [InlineData(float.NaN, PackedType.Int8)]
    [InlineData(float.PositiveInfinity, PackedType.BFloat16)]
    [InlineData(1e6f, PackedType.Float16)]
    public void Weights_that_the_type_cannot_hold_are_refused(float weight, PackedType type) =>
        Should.Throw<EspalierException>(() => PackedMatrix.Pack([1, weight], 1, 2, type).Dispose()).Message.ShouldContain("cannot hold");

    // Half of the weights, two of each four, or all.
    private static float[] Weights(MatrixCode code, int seed, int rows, int columns)
    {
        double density = code switch { MatrixCode.Bitmask => 0.5, MatrixCode.Dense => 1, _ => 0.9 };
        float[] w = PackedProductTests.Weights(new Random(seed), rows, columns, [.. Enumerable.Repeat(density, rows)]);
        return code is MatrixCode.TwoOfFour ? PackedProductTests.HalfOfGroups(w, columns) : w;
    }
}
