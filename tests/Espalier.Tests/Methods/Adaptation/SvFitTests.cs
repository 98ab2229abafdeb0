using Espalier.Methods.Adaptation;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Adaptation;

public sealed partial class SvFitTests
{
    private static Tensor Random(string purpose, params long[] shape)
    {
        using Generator generator = new Seed(3).Generator(purpose);
        return randn(shape, generator: generator);
    }

    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "svfit")).Lines).ShouldBe("svfit: 10/10");

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void The_start_is_the_weight_to_the_last_bit(bool relative)
    {
        using var scope = NewDisposeScope();
        Tensor w = Random("w", 6, 9), x = Random("x", 4, 9), bias = Random("b", 6);
        using SvFitAdapter adapter = SvFitAdapter.Of(ThinSvd.Of(w), 3, relative);
        adapter.Merge(w).eq(w).all().item<bool>().ShouldBeTrue();
        adapter.Forward(x, w, bias).eq(nn.functional.linear(x, w, bias)).all().item<bool>().ShouldBeTrue();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_weight_and_merge_agree_after_training(bool relative)
    {
        using var scope = NewDisposeScope();
        Tensor w = Random("w", 6, 9), x = Random("x", 4, 9);
        using SvFitAdapter adapter = SvFitAdapter.Of(ThinSvd.Of(w), 3, relative);
        using (no_grad())
        {
            adapter.S.add_(0.1 * Random("s", 3));
        }

        adapter.Forward(x, w, null).allclose(x.mm(adapter.Weight(w).t()), 1e-5, 1e-5).ShouldBeTrue();
        adapter.Merge(w).allclose(adapter.Weight(w)).ShouldBeTrue();
        Tensor change = adapter.Merge(w) - w;
        ThinSvd.Of(change).S[3].item<double>().ShouldBeLessThan(1e-5, "only three directions move");
    }

    [Theory]
    [InlineData(new[] { 3.0, 2, 1 }, 0.6, 2, 1)]
    [InlineData(new[] { 3.0, 2, 1 }, 0.65, 2, 2)]
    [InlineData(new[] { 3.0, 2, 1 }, 0.5, 1, 1)]
    [InlineData(new[] { 3.0, 2, 1 }, 1.0, 1, 3)]
    [InlineData(new[] { 3.0, 2, 0, 0 }, 1.0, 2, 2)]
    [InlineData(new[] { 1.0 }, 0.01, 2, 1)]
    public void The_energy_rule_takes_the_smallest_rank(double[] values, double fraction, int power, int rank) => SvFit.RankFor(values, fraction, power).ShouldBe(rank);

    [Fact]
    public void A_planted_change_of_singular_values_is_found_where_LoRA_cannot()
    {
        using var scope = NewDisposeScope();
        Tensor w = Random("toy", 24, 20) / Math.Sqrt(20), x = Random("inputs", 256, 20);
        ThinSvd svd = ThinSvd.Of(w);
        Tensor delta = 0.3 * Random("delta", 20).to(ScalarType.Float64);
        Tensor target = (svd.U * (svd.S * (1 + delta))).mm(svd.Vt).to(ScalarType.Float32), y = x.mm(target.t());
        using SvFitAdapter adapter = SvFitAdapter.Of(svd, 20);
        using var lora = new LoraAdapter(w, 2, 4, new Seed(0), "w");
        var options = new TrainingOptions { Steps = 500, LearningRate = 0.02 };
        double found = Train(adapter), low = Train(lora);
        (adapter.Values().detach().to(ScalarType.Float64) / svd.S - 1 - delta).abs().max().item<double>().ShouldBeLessThan(1e-3);
        found.ShouldBeLessThan(1e-6);
        low.ShouldBeGreaterThan(1e-3);

        double Train(ILinearAdapter one)
        {
            using var loop = new TrainingLoop(options, one.Parameters, (_, _) => nn.functional.mse_loss(one.Forward(x, w, null), y));
            return loop.Run().Losses[^1];
        }
    }

    [Fact]
    public void What_is_impossible_is_a_sentence_or_a_warning()
    {
        using var scope = NewDisposeScope();
        Should.Throw<EspalierException>(() => new SvFit { Rank = 0 }).Message.ShouldContain("rank is 0");
        Should.Throw<EspalierException>(() => new SvFit { Fraction = 1.5 }).Message.ShouldContain("fraction is 1.5");
        Should.Throw<EspalierException>(() => new SvFit { Power = 3 }).Message.ShouldContain("power is 3");
        Should.Throw<EspalierException>(() => new SvFit { Rank = 7 }.RankOf(ThinSvd.Of(Random("w", 6, 9)), "q_proj")).Message.ShouldContain("q_proj has only 6");
        Should.Throw<EspalierException>(() => SvFit.RankFor([0, 0], 0.9, 2)).Message.ShouldContain("All singular values are 0");
        Should.Throw<EspalierException>(() => new SvFitAdapter(ones(3, 2), ones(3), ones(2, 4))).Message.ShouldContain("[3, 2]");
        var heard = new Espalier.Tests.Pruning.Heard();
        new SvFit().RankOf(ThinSvd.Of(zeros(3, 2)), "dead", heard).ShouldBe(0);
        new SvFit { Rank = 1 }.RankOf(ThinSvd.Of(eye(3)), "twins", heard).ShouldBe(1);
        heard.Said.Count.ShouldBe(2);
    }
}
