using Espalier.Evaluation;
using Espalier.Methods.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class WandaTests
{
    private static Tensor Random(string purpose, params long[] shape)
    {
        using var generator = new Seed(6).Generator(purpose);
        return randn(shape, generator: generator);
    }

    [Fact]
    public void Each_row_loses_exactly_its_share()
    {
        using var scope = NewDisposeScope();
        var layer = new LayerContext { Name = "w", Weight = Random("W", 9, 13), InputNorms = Random("s", 13).square() };
        Tensor keep = MaskSelection.Choose(new Wanda(), layer, Pattern.Unstructured(0.37), Scope.Default, 0.37);
        keep.sum(1).to(ScalarType.Int64).data<long>().ToArray().ShouldAllBe(kept => kept == 13 - 4);
        MaskSelection.Choose(new Wanda(), layer, Pattern.Unstructured(0), Scope.Default, 0).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Moving_scale_between_an_input_and_its_weights_or_permuting_rows_changes_nothing_else()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random("W", 6, 16), s = Random("s", 16).square();
        Tensor keep = MaskSelection.KeepLargestPerRow(Wanda.Score(W, s), 0.5, "w");
        Tensor c = tensor(Enumerable.Range(0, 16).Select(i => i == 3 ? 8f : 1f).ToArray());
        MaskSelection.KeepLargestPerRow(Wanda.Score(W / c, s * c.square()), 0.5, "w").equal(keep).all().item<bool>().ShouldBeTrue();
        Tensor order = tensor(new long[] { 5, 3, 0, 1, 2, 4 });
        MaskSelection.KeepLargestPerRow(Wanda.Score(W[order], s), 0.5, "w").equal(keep[order]).all().item<bool>().ShouldBeTrue();
    }

    /// <summary>The synthetic proof of the paper's idea: with a few loud inputs, magnitude throws away what matters.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void With_a_few_loud_inputs_its_output_error_is_a_tenth_of_magnitudes(long seed)
    {
        using var scope = NewDisposeScope();
        using var generator = new Seed(seed).Generator("loud inputs");
        Tensor W = randn([64, 100], generator: generator), X = randn([512, 100], generator: generator);
        X.narrow(1, 0, 7).mul_(20);
        Tensor s = X.square().sum(0);
        double wanda = Error(MaskSelection.KeepLargestPerRow(Wanda.Score(W, s), 0.6, "w"));
        double magnitude = Error(MaskSelection.KeepLargestPerRow(W.abs(), 0.6, "w"));
        (wanda / magnitude).ShouldBeLessThan(0.1);

        double Error(Tensor keep) => X.mm((W - MaskSelection.Apply(W, keep)).t()).square().mean().item<float>();
    }

    [Fact]
    public void The_variant_meets_the_sparsity_and_a_row_whose_smallest_score_is_too_large_keeps_all()
    {
        using var scope = NewDisposeScope();
        (Tensor keep, double alpha, double sparsity) = Wanda.MaskVariant(Wanda.Score(Random("W", 40, 120), Random("s", 120).square()), 0.5);
        sparsity.ShouldBe(0.5, 0.005);
        alpha.ShouldBeInRange(0, 0.8);
        MaskSelection.Sparsity(keep).ShouldBe(sparsity, 1e-12);
        Wanda.MaskVariant(tensor(new[] { 5f }).reshape(1, 1), 0.5).Keep.all().item<bool>().ShouldBeTrue();
        var layer = new LayerContext { Name = "w", Weight = Random("W", 40, 120), InputNorms = Random("s", 120).square() };
        MaskSelection.Choose(new Wanda { UseVariant = true }, layer, Pattern.Unstructured(0.5), Scope.Default, 0.5).equal(keep).all().item<bool>().ShouldBeTrue();
        Should.Throw<EspalierException>(() => MaskSelection.Choose(new Wanda { UseVariant = true }, layer, Pattern.SemiStructured(2, 4), Scope.Default, 0.5)).Message.ShouldContain("use_variant");
    }

    [Fact]
    public void Perplexity_of_uniform_logits_is_the_size_of_the_vocabulary()
    {
        using var scope = NewDisposeScope();
        Perplexity.FromLogits(zeros(3, 8, 50), arange(24, ScalarType.Int64), 8).Value.ShouldBe(50, 1e-3);
    }

    [Fact]
    public void Norms_of_another_layer_and_missing_ones_are_refused()
    {
        using var scope = NewDisposeScope();
        Should.Throw<EspalierException>(() => Wanda.Score(ones(2, 3), ones(4), "o_proj")).Message.ShouldContain("o_proj");
        Should.Throw<EspalierException>(() => new Wanda().Score(new LayerContext { Name = "o_proj", Weight = ones(2, 3) })).Message.ShouldContain("calibration");
    }
}
