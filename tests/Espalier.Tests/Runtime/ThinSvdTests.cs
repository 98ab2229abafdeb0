using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Runtime;

public sealed class ThinSvdTests
{
    [Theory]
    [InlineData(7, 4)]
    [InlineData(4, 7)]
    [InlineData(1, 5)]
    [InlineData(3, 3)]
    public void The_triples_give_the_matrix_back_and_are_orthonormal_and_sorted(int rows, int columns)
    {
        using var scope = NewDisposeScope();
        using Generator generator = new Seed(1).Generator("w");
        Tensor w = randn([rows, columns], generator: generator);
        ThinSvd svd = ThinSvd.Of(w);
        svd.Count.ShouldBe(Math.Min(rows, columns));
        svd.Product().allclose(w.to(ScalarType.Float64), 1e-12, 1e-12).ShouldBeTrue();
        Tensor one = eye(svd.Count, dtype: ScalarType.Float64);
        svd.U.t().mm(svd.U).allclose(one, 1e-10, 1e-10).ShouldBeTrue();
        svd.Vt.mm(svd.Vt.t()).allclose(one, 1e-10, 1e-10).ShouldBeTrue();
        double[] values = [.. svd.S.data<double>()];
        values.ShouldBe(values.OrderDescending());
        (svd.Part(0, 1).Product() + (svd.Count > 1 ? svd.Part(1, svd.Count - 1).Product() : 0)).allclose(w.to(ScalarType.Float64), 1e-10, 1e-10).ShouldBeTrue();
    }

    [Fact]
    public void The_polar_part_leaves_out_directions_without_a_value()
    {
        using var scope = NewDisposeScope();
        Tensor rankOne = ones(3, 2);
        ThinSvd.Of(rankOne).Polar(1e-7).allclose(full([3, 2], 1 / Math.Sqrt(6), ScalarType.Float64), 1e-10, 1e-10).ShouldBeTrue();
        ThinSvd.Of(zeros(3, 2)).Polar(1e-7).count_nonzero().item<long>().ShouldBe(0);
    }

    [Fact]
    public void What_has_no_singular_values_is_a_sentence()
    {
        using var scope = NewDisposeScope();
        Should.Throw<EspalierException>(() => ThinSvd.Of(ones(3), "w")).Message.ShouldContain("w is Float32 [3]");
        Should.Throw<EspalierException>(() => ThinSvd.Of(full([2, 2], double.NaN), "q_proj")).Message.ShouldContain("q_proj");
    }
}
