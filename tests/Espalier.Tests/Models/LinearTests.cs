using Espalier.Models;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Tests.Models;

public sealed class LinearTests
{
    [Theory]
    [InlineData(WeightLayout.OutIn)]
    [InlineData(WeightLayout.InOut)]
    public void Both_layouts_compute_the_same_map(WeightLayout layout)
    {
        using var scope = NewDisposeScope();
        using var linear = new Espalier.Models.Linear("l", 3, 5, bias: true, layout);
        Tensor w = randn(5, 3), x = randn(2, 4, 3);
        linear.SetMatrix(w);
        using (no_grad())
        {
            linear.bias!.fill_(0.5);
        }

        linear.weight.shape.ShouldBe(layout is WeightLayout.OutIn ? [5, 3] : [3, 5]);
        linear.Matrix.equal(w).all().item<bool>().ShouldBeTrue();
        (linear.call(x) - (x.matmul(w.t()) + 0.5)).abs().max().item<float>().ShouldBeLessThan(1e-5f);
    }

    [Theory]
    [InlineData(WeightLayout.OutIn)]
    [InlineData(WeightLayout.InOut)]
    public void The_matrix_shares_memory_and_gradient_with_the_weight(WeightLayout layout)
    {
        using var scope = NewDisposeScope();
        using var linear = new Espalier.Models.Linear("l", 3, 5, bias: false, layout);
        linear.SetMatrix(zeros(5, 3));
        using (no_grad())
        {
            linear.Matrix[4, 1] = 7;
        }

        linear.weight.sum().item<float>().ShouldBe(7);
        linear.Matrix[4, 1].square().backward();
        linear.weight.grad!.sum().item<float>().ShouldBe(14);
        using Tensor again = linear.Matrix;
        again.Dispose();
        linear.weight.numel().ShouldBe(15); // disposing a view leaves the weight
    }

    [Fact]
    public void The_observer_sees_the_input_and_the_adapter_replaces_the_product()
    {
        using var scope = NewDisposeScope();
        using var linear = new Espalier.Models.Linear("l", 3, 5, bias: false, WeightLayout.InOut);
        linear.SetMatrix(ones(5, 3));
        Tensor x = ones(2, 3);
        long[]? seen = null;
        linear.InputObserver = input => seen = input.shape;
        using var adapter = new Doubling();
        linear.Adapter = adapter;
        linear.call(x).sum().item<float>().ShouldBe(60);
        seen.ShouldBe([2, 3]);
        (linear.Adapter, linear.InputObserver) = (null, null);
        linear.call(x).sum().item<float>().ShouldBe(30);
    }

    [Fact]
    public void A_matrix_of_another_shape_is_refused()
    {
        using var linear = new Espalier.Models.Linear("l", 3, 5, bias: false);
        using Tensor wrong = ones(3, 5);
        Should.Throw<ArgumentException>(() => linear.SetMatrix(wrong)).Message.ShouldContain("[5, 3]");
    }

    private sealed class Doubling : ILinearAdapter
    {
        public IReadOnlyList<(string Name, Parameter Value)> Parameters => [];

        public Tensor Forward(Tensor x, Tensor matrix, Tensor? bias) => nn.functional.linear(x, matrix, bias) * 2;

        public Tensor Weight(Tensor matrix) => matrix * 2;

        public void Dispose()
        {
        }
    }
}
