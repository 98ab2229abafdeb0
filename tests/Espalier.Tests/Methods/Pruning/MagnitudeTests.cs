using Espalier.Methods.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class MagnitudeTests
{
    private static Tensor Random(string purpose, params long[] shape)
    {
        using var generator = new Seed(5).Generator(purpose);
        return randn(shape, generator: generator);
    }

    [Theory]
    [InlineData(0.0)]
    [InlineData(0.37)]
    [InlineData(0.9)]
    public void The_published_rule_removes_one_weight_more_than_floor(double sparsity)
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", 7, 9);
        Magnitude.MaskLayer(W, sparsity).sum().item<long>().ShouldBe(63 - (long)Math.Floor(63 * sparsity) - 1);
        var layer = new LayerContext { Name = "w", Weight = W };
        MaskSelection.Choose(new Magnitude(), layer, Pattern.Unstructured(sparsity), Scope.Default, sparsity).sum().item<long>().ShouldBe(63 - (long)Math.Floor(63 * sparsity));
        MaskSelection.Choose(new Magnitude { Count = MagnitudeCount.Compat }, layer, Pattern.Unstructured(sparsity), Scope.Default, sparsity)
            .equal(Magnitude.MaskLayer(W, sparsity)).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Sign_and_scale_of_a_layer_do_not_change_its_mask_but_scale_changes_the_global_one()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", 6, 8), V = Random("V", 4, 3, 2);
        Magnitude.MaskLayer(W, 0.5).equal(Magnitude.MaskLayer(W * -4, 0.5)).all().item<bool>().ShouldBeTrue();
        IReadOnlyList<Tensor> once = Magnitude.MaskGlobal([("W", W), ("V", V)], 0.5);
        IReadOnlyList<Tensor> scaled = Magnitude.MaskGlobal([("W", W * 10), ("V", V)], 0.5);
        once.Sum(k => k.sum().item<long>()).ShouldBe(36);
        once[1].shape.ShouldBe(V.shape);
        once[0].equal(scaled[0]).all().item<bool>().ShouldBeFalse();
        scaled[1].sum().item<long>().ShouldBeLessThan(once[1].sum().item<long>());
    }

    [Fact]
    public void Zero_weights_go_first_and_convolutions_are_grouped_along_their_inputs()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", 4, 8);
        using (no_grad())
        {
            W.narrow(1, 0, 2).zero_();
        }

        Magnitude.MaskNM(W, 2, 4).narrow(1, 0, 2).any().item<bool>().ShouldBeFalse();
        MaskSelection.IsSemiStructured(Magnitude.MaskNM(Random("conv", 3, 4, 2, 2), 2, 4), 2, 4).ShouldBeTrue();
    }

    [Fact]
    public void Rounds_of_iterative_pruning_remove_equal_shares_of_what_is_left()
    {
        Magnitude.SparsityAfterRound(0.9, 0, 5).ShouldBe(0);
        Magnitude.SparsityAfterRound(0.9, 5, 5).ShouldBe(0.9);
        double[] left = [.. Enumerable.Range(0, 6).Select(k => 1 - Magnitude.SparsityAfterRound(0.9, k, 5))];
        for (int k = 1; k < 6; k++)
        {
            (left[k] / left[k - 1]).ShouldBe(left[1], 1e-12);
        }

        Should.Throw<EspalierException>(() => Magnitude.SparsityAfterRound(0.9, 6, 5));
    }

    [Fact]
    public void Bad_input_is_refused_by_name()
    {
        using var scope = NewDisposeScope();
        Should.Throw<EspalierException>(() => Magnitude.MaskLayer(ones(2, 2), 1));
        Should.Throw<EspalierException>(() => Magnitude.MaskLayer(full([2, 2], float.NaN), 0.5, "q_proj")).Message.ShouldContain("q_proj");
        Should.Throw<EspalierException>(() => Magnitude.MaskGlobal([("a", ones(2)), ("b", full([2], float.NaN))], 0.5)).Message.ShouldContain("b");
        Should.Throw<EspalierException>(() => Magnitude.MaskNM(ones(2, 6), 2, 4, "q_proj")).Message.ShouldContain("q_proj");
    }
}
