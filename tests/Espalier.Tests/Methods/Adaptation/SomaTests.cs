using Espalier.Methods.Adaptation;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Adaptation;

public sealed partial class SomaTests
{
    private static Tensor Random(string purpose, params long[] shape)
    {
        using Generator generator = new Seed(3).Generator(purpose);
        return randn(shape, generator: generator);
    }

    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "soma")).Lines).ShouldBe("soma: 10/10");

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void It_starts_as_the_weight_and_holds_the_smallest_or_largest_components(bool first)
    {
        using var scope = NewDisposeScope();
        Tensor w = Random("w", 6, 9), x = Random("x", 4, 9), bias = Random("b", 6);
        ThinSvd svd = ThinSvd.Of(w);
        (Tensor a, Tensor b) = SomaAdapter.Factors(Soma.Part(svd, 2, first, "w"), 4);
        using var adapter = new SomaAdapter(a, b, 4, whole: true);
        adapter.Merge(w).eq(w).all().item<bool>().ShouldBeTrue();
        adapter.Forward(x, w, bias).eq(nn.functional.linear(x, w, bias)).all().item<bool>().ShouldBeTrue();
        Tensor residual = w.to(ScalarType.Float64) - (4 * b.mm(a));
        double[] left = [.. ThinSvd.Of(residual).S.data<double>()], all = [.. svd.S.data<double>()];
        left.ShouldBe(first ? [.. all[2..], 0, 0] : [.. all[..4], 0, 0], 1e-9);
    }

    [Fact]
    public void Beside_the_weight_or_beside_the_residual_it_computes_the_same()
    {
        using var scope = NewDisposeScope();
        Tensor w = Random("w", 6, 9), x = Random("x", 4, 9);
        (Tensor a, Tensor b) = SomaAdapter.Factors(Soma.Part(ThinSvd.Of(w), 2, false, "w"), 1);
        Tensor residual = (w.to(ScalarType.Float64) - b.mm(a)).to(ScalarType.Float32);
        using SomaAdapter whole = new(a, b, 1, whole: true), beside = new(a, b, 1, whole: false);
        using (no_grad())
        {
            foreach (SomaAdapter adapter in (SomaAdapter[])[whole, beside])
            {
                adapter.A.add_(0.1 * Random("a", 2, 9));
                adapter.B.mul_(1.5);
            }
        }

        whole.Forward(x, w, null).allclose(beside.Forward(x, residual, null), 1e-4, 1e-5).ShouldBeTrue();
        whole.Forward(x, w, null).allclose(x.mm(whole.Weight(w).t()), 1e-4, 1e-5).ShouldBeTrue();
        whole.Merge(w).allclose(beside.Merge(residual), 1e-4, 1e-5).ShouldBeTrue();
    }

    [Fact]
    public void Decay_anneals_and_the_rate_falls_and_both_stay_at_the_end()
    {
        double[] decay = [.. Enumerable.Range(0, 50).Select(t => Soma.AnnealedDecay(t, 40, 0.05, 1e-5))], rate = [.. Enumerable.Range(0, 50).Select(t => Soma.PolynomialRate(t, 40, 1e-4, 0, 0.9))];
        decay.ShouldBe(decay.OrderDescending());
        rate.ShouldBe(rate.OrderDescending());
        new[] { decay[0], decay[20], decay[40], decay[49] }.ShouldBe([0.05, (0.05 + 1e-5) / 2, 1e-5, 1e-5], 1e-12);
        (rate[0], rate[40], rate[49]).ShouldBe((1e-4, 0, 0));
    }

    [Fact]
    public void The_ramp_doubles_and_frozen_blocks_have_no_rank()
    {
        long[] Ranks(params int[] blocks) => [.. blocks.Select(b => Soma.RankOf(b, 4, 8, [12, 16, 20]))];
        Ranks(0, 7, 8, 11, 12, 16, 19, 20, 30).ShouldBe([0, 0, 4, 4, 8, 16, 16, 32, 32]);
        Soma.RankOf(30, 4, 8, null).ShouldBe(4);
    }

    [Fact]
    public void What_is_impossible_is_a_sentence()
    {
        using var scope = NewDisposeScope();
        Should.Throw<EspalierException>(() => new Soma { Rank = 0 }).Message.ShouldContain("rank is 0");
        Should.Throw<EspalierException>(() => new Soma { Alpha = -1 }).Message.ShouldContain("alpha is -1");
        Should.Throw<EspalierException>(() => new Soma { StartIndex = -1 }).Message.ShouldContain("start_index is -1");
        Should.Throw<EspalierException>(() => new Soma { RampIndices = [16, 12, 20] }).Message.ShouldContain("ascending");
        Should.Throw<EspalierException>(() => Soma.Part(ThinSvd.Of(Random("w", 6, 9)), 7, false, "fc1")).Message.ShouldContain("fc1 has 6");
        Should.Throw<EspalierException>(() => Soma.AnnealedDecay(1, 0, 0.05, 0)).Message.ShouldContain("0 steps");
    }
}
