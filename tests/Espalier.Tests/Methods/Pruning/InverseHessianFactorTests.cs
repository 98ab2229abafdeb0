using Espalier.Methods.Pruning;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class InverseHessianFactorTests
{
    /// <summary>Widths below, at and across the block sizes of the factorisation in place.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(5)]
    [InlineData(128)]
    [InlineData(256)]
    [InlineData(257)]
    [InlineData(700)]
    [InlineData(1301)]
    public void U_is_upper_triangular_and_its_square_is_the_damped_inverse(int columns)
    {
        using var scope = NewDisposeScope();
        using var generator = new Seed(columns).Generator("x");
        Tensor x = randn([columns + 20, columns], ScalarType.Float64, generator: generator);
        Tensor H = x.t().mm(x);
        using InverseHessianFactor factor = InverseHessianFactor.Compute(H, 0.01, ScalarType.Float64, "layer");
        Tensor damped = H + (eye(columns, dtype: ScalarType.Float64) * (0.01 * H.diagonal().mean()));
        (factor.U.t().mm(factor.U).mm(damped) - eye(columns, dtype: ScalarType.Float64)).abs().max().item<double>().ShouldBeLessThan(1e-8);
        factor.U.tril(-1).abs().max().item<double>().ShouldBe(0);
        factor.U.diagonal().min().item<double>().ShouldBeGreaterThan(0);
        factor.Raised.ShouldBe(0);
    }
}
