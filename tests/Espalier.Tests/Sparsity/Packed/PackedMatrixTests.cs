using Espalier.Runtime;
using Espalier.Sparsity.Packed;

namespace Espalier.Tests.Sparsity.Packed;

public sealed class PackedMatrixTests
{
    [Theory]
    [InlineData(PackedType.BFloat16, 9.1)]
    [InlineData(PackedType.Float16, 9.1)]
    [InlineData(PackedType.Int8, 5.2)]
    [InlineData(PackedType.Int4, 3.4)]
    public void Half_of_the_weights_take_as_many_bits_as_the_format_promises(PackedType type, double most)
    {
        const int rows = 64, columns = 2048;
        using PackedMatrix packed = PackedMatrix.Pack(PackedProductTests.Weights(new Random(1), rows, columns, Half(rows)), rows, columns, type);
        packed.BitsPerWeight.ShouldBeLessThanOrEqualTo(most);
    }

    /// <summary>The error budget of each format: root mean square over that of the weights, normal weights of which half are kept.</summary>
    [Theory]
    [InlineData(PackedType.Float32, 0)]
    [InlineData(PackedType.BFloat16, 0.0025)]
    [InlineData(PackedType.Float16, 0.0005)]
    [InlineData(PackedType.Int8, 0.010)]
    [InlineData(PackedType.Int4, 0.095)]
    public void Values_come_back_within_the_budget_of_their_format(PackedType type, double budget)
    {
        const int rows = 16, columns = 1000;
        float[] w = PackedProductTests.Weights(new Random(2), rows, columns, Half(rows)), row = new float[columns];
        using PackedMatrix packed = PackedMatrix.Pack(w, rows, columns, type);
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

    private static double[] Half(int rows) => [.. Enumerable.Repeat(0.5, rows)];
}
