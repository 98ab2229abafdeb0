using CsCheck;
using Espalier.Methods.Adaptation;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Adaptation;

public sealed partial class SstTests
{
    private static Tensor Random(string purpose, params long[] shape)
    {
        using Generator generator = new Seed(3).Generator(purpose);
        return randn(shape, generator: generator);
    }

    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "sst")).Lines).ShouldBe("sst: 15/15");

    [Fact]
    public void A_round_visits_every_column_once() => Gen.Select(Gen.Double[0, 3].Array[1, 20], Gen.Int[1, 25], Gen.Long[0, 1000]).Sample((s, r, seed) =>
    {
        Random random = new Seed(seed).Random("draws");
        IReadOnlyList<long[]> groups = Sst.Partition(Sst.Probabilities(s), [.. s.Select(_ => 1 - random.NextDouble())], r);
        groups.SelectMany(g => g).Order().ShouldBe(Enumerable.Range(0, s.Length).Select(i => (long)i));
        groups.Count.ShouldBe((s.Length + r - 1) / r);
        groups.SkipLast(1).ShouldAllBe(g => g.Length == r);
        Sst.Probabilities(s).Sum().ShouldBe(1, 1e-9);
    });

    [Fact]
    public void Large_values_come_early_more_often()
    {
        Random random = new Seed(1).Random("draws");
        double[] p = Sst.Probabilities([9, 1, 0, 0]);
        int first = 0;
        for (int draw = 0; draw < 4000; draw++)
        {
            first += Sst.Partition(p, [random.NextDouble(), random.NextDouble(), random.NextDouble(), random.NextDouble()], 1)[0][0] == 0 ? 1 : 0;
        }

        (first / 4000.0).ShouldBe(p[0], 0.03);
        Sst.Probabilities([0, 0]).ShouldBe([0.5, 0.5]);
        Sst.Probabilities([3, 1], SpectralSampling.Uniform).ShouldBe([0.5, 0.5]);
        Sst.Probabilities([3, 1], SpectralSampling.Values).ShouldBe([0.75, 0.25]);
    }

    [Fact]
    public void It_computes_as_the_dense_weight_and_decomposing_anew_changes_nothing()
    {
        using var scope = NewDisposeScope();
        Tensor w = Random("w", 6, 9), x = Random("x", 4, 9), bias = Random("b", 6);
        using SpectralAdapter map = SpectralAdapter.Of(ThinSvd.Of(w), 2);
        map.Forward(x, w, bias).allclose(nn.functional.linear(x, w, bias), 1e-4, 1e-5).ShouldBeTrue();
        map.Weight(w).allclose(w, 1e-4, 1e-5).ShouldBeTrue();
        map.Activate([4, 1]);
        using (no_grad())
        {
            map.ActiveU.add_(Random("u", 6, 2));
            map.S.sub_(0.4);
        }

        map.Constrain();
        Tensor moved = map.Product();
        map.Redecompose();
        map.Product().allclose(moved, 1e-4, 1e-5).ShouldBeTrue();
        map.U.t().mm(map.U).allclose(eye(6), 1e-4, 1e-5).ShouldBeTrue();
        map.ActiveU.detach().allclose(map.U.index_select(1, map.Active)).ShouldBeTrue();
        ThinSvd.Of(map.Product(2)).S[2].item<double>().ShouldBeLessThan(1e-5);
        map.Product(6).allclose(map.Product()).ShouldBeTrue();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Gradients_of_active_columns_are_those_of_the_product(bool enhanced)
    {
        using var scope = NewDisposeScope();
        Tensor w = Random("w", 6, 9), x = Random("x", 4, 9), g = Random("g", 4, 6);
        using SpectralAdapter map = SpectralAdapter.Of(ThinSvd.Of(w), 2, enhanced), other = SpectralAdapter.Of(ThinSvd.Of(w), 2, enhanced);
        map.Activate([3, 0]);
        other.Activate([3, 0]);
        map.Forward(x, w, null).backward([g]);
        x.mm(other.Weight(w).t()).backward([g]);
        Tensor gradient = g.t().mm(x), u = map.U.index_select(1, map.Active), v = map.V.index_select(1, map.Active), s = enhanced ? ones(2) : map.S.detach().index_select(0, map.Active);
        foreach (SpectralAdapter one in (SpectralAdapter[])[map, other])
        {
            one.S.grad!.allclose(map.U.t().mm(gradient).mm(map.V).diag(), 1e-4, 1e-4).ShouldBeTrue();
            one.ActiveU.grad!.allclose(gradient.mm(v) * s, 1e-4, 1e-4).ShouldBeTrue();
            one.ActiveV.grad!.allclose(gradient.t().mm(u) * s, 1e-4, 1e-4).ShouldBeTrue();
        }

        map.ProjectGradients();
        (map.ActiveU.grad! * map.ActiveU).sum([0]).abs().max().item<float>().ShouldBeLessThan(1e-4f);
    }

    [Fact]
    public void Constraining_keeps_vectors_at_length_one_and_values_above_zero()
    {
        using var scope = NewDisposeScope();
        using SpectralAdapter map = SpectralAdapter.Of(ThinSvd.Of(Random("w", 6, 9)), 4);
        map.Activate([5, 2, 3]);
        using (no_grad())
        {
            map.ActiveV.add_(Random("v", 9, 4));
            map.S.sub_(100);
        }

        map.Constrain();
        map.V.norm(0).allclose(ones(6), 1e-4, 1e-5).ShouldBeTrue();
        map.S.count_nonzero().item<long>().ShouldBe(0);
    }

    [Fact]
    public void Points_stay_on_the_manifold_and_tangents_come_back()
    {
        using var scope = NewDisposeScope();
        Tensor tangents = cat([zeros(1, 3), Random("t", 5, 3), 2 * Random("far", 2, 3)]).to(ScalarType.Float64);
        Tensor points = Lorentz.Exp0(tangents);
        (Lorentz.Inner(points, points) / points.select(1, 0).square()).allclose(-1 / points.select(1, 0).square(), 1e-9, 1e-9).ShouldBeTrue();
        Lorentz.Log0(points).allclose(tangents, 1e-9, 1e-9).ShouldBeTrue();
        Lorentz.SquaredDistance(points, points).abs().max().item<double>().ShouldBeLessThan(1e-3);
        Lorentz.Exp0(100 * ones(1, 3)).isfinite().all().item<bool>().ShouldBeTrue();
        Lorentz.LinkProbability(tensor([0.0, 2, 1e9])).data<double>().ToArray().ShouldBe([1 / (Math.Exp(-2) + 1), 0.5, 1 / (Math.Exp(50) + 1)], 1e-9);
        using var layer = new LorentzLinear("layer", 4, 6, new Seed(0));
        Tensor lifted = layer.Forward(points.to(ScalarType.Float32));
        lifted = lifted.narrow(0, 1, 7); // the origin has no direction in space, so the layer leaves it without one
        Lorentz.Inner(lifted, lifted).allclose(-ones(7), 1e-3, 1e-2).ShouldBeTrue();
        Tensor centre = Lorentz.Centroid(ones(1, 7) / 7, lifted);
        Lorentz.Inner(centre, centre).allclose(-ones(1), 1e-3, 1e-3).ShouldBeTrue();
        layer.Map.weight.select(1, 0).count_nonzero().item<long>().ShouldBe(0);
    }

    [Fact]
    public void What_is_impossible_is_a_sentence()
    {
        using var scope = NewDisposeScope();
        Should.Throw<EspalierException>(() => new Sst { Rank = 0 }).Message.ShouldContain("rank is 0");
        Should.Throw<EspalierException>(() => new Sst { Share = 0 }).Message.ShouldContain("share is 0");
        Should.Throw<EspalierException>(() => new Sst { Exchange = 0 }).Message.ShouldContain("exchange is 0");
        Should.Throw<EspalierException>(() => new Sst { Warmup = -1 }).Message.ShouldContain("warmup is -1");
        Should.Throw<EspalierException>(() => new SpectralAdapter(ones(3, 2), ones(3), ones(4, 2), 1)).Message.ShouldContain("[3, 2]");
        Should.Throw<EspalierException>(() => SpectralAdapter.Of(ThinSvd.Of(eye(3)), 2).Activate([0, 1, 2])).Message.ShouldContain("1 to 2 of 3");
        Should.Throw<EspalierException>(() => new LorentzLinear("layer", 1, 4, new Seed(0))).Message.ShouldContain("layer");
    }
}
