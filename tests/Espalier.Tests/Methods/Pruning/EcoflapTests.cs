using CsCheck;
using Espalier.Catalogue;
using Espalier.Methods.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class EcoflapTests
{
    private static readonly Gen<(float[] Scores, long[] Counts, double Sparsity, double Max)> AnyGroups =
        from groups in Gen.Int[1, 12]
        from scores in Gen.Float[0, 10].Array[groups]
        from counts in Gen.Long[1, 5000].Array[groups]
        from sparsity in Gen.Double[0, 0.95]
        from slack in Gen.Double[0, 1]
        select (scores, counts, sparsity, sparsity + slack * (1 - sparsity));

    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "ecoflap")).Lines).ShouldBe("ecoflap: 12/12");

    [Fact]
    public void The_budget_is_met_within_the_bounds_of_every_group() => AnyGroups.Sample(g =>
    {
        EcoflapAllocation a = Ecoflap.Allocate(g.Scores, g.Counts, g.Sparsity, g.Max);
        long target = (long)Math.Floor(g.Counts.Sum() * (1 - g.Sparsity));
        a.Surplus.ShouldBe(a.Keep.Sum() - target);
        float kept = (float)(1 - g.Max);
        for (int i = 0; i < g.Counts.Length; i++)
        {
            a.Keep[i].ShouldBeInRange(Math.Min(g.Counts[i], (long)MathF.Floor(g.Counts[i] * kept)), g.Counts[i]);
        }

        // Only where float32 rounds n·(1−max) up beyond what the budget holds can weights be left over.
        Math.Abs(a.Surplus).ShouldBeLessThanOrEqualTo(g.Max - g.Sparsity < 1e-6 ? g.Counts.Length : 0);
    });

    [Fact]
    public void Doubling_all_scores_changes_nothing() => AnyGroups.Sample(g =>
        Ecoflap.Allocate([.. g.Scores.Select(s => s * 2)], g.Counts, g.Sparsity, g.Max).Keep.ShouldBe(Ecoflap.Allocate(g.Scores, g.Counts, g.Sparsity, g.Max).Keep));

    [Theory]
    [InlineData(EcoflapOvershoot.Subtract)]
    [InlineData(EcoflapOvershoot.Add)]
    public void No_scores_equal_scores_and_a_tight_cap_are_uniform(EcoflapOvershoot overshoot)
    {
        long[] equal = [1000, 1000, 1000, 1000], sizes = [900, 2000, 100, 4000];
        foreach (EcoflapAllocation a in new[]
        {
            Ecoflap.Allocate([2, 2, 2, 2], equal, 0.6, 0.7, overshoot),
            Ecoflap.Allocate([0, 0, 0, 0], sizes, 0.6, 0.7, overshoot),
            Ecoflap.Allocate([9, 1, 4, 2], sizes, 0.6, 0.6, overshoot),
        })
        {
            a.Sparsity.ShouldAllBe(s => Math.Abs(s - 0.6) < 0.02);
        }
    }

    [Fact]
    public void Scores_that_run_out_leave_the_rest_to_the_others_by_size()
    {
        EcoflapAllocation a = Ecoflap.Allocate([1, 0, 0], [100, 400, 800], 0.5, 0.9);
        a.Keep[0].ShouldBe(100);
        a.Surplus.ShouldBe(0);
        ((double)a.Keep[2] / a.Keep[1]).ShouldBe(2, 0.05);
    }

    [Fact]
    public void A_higher_score_keeps_more_and_layers_of_a_block_share()
    {
        AllocatedLayer[] layers = [new("m.layers.0.q.weight", 0, 8, 8), new("m.layers.0.up.weight", 0, 16, 16), new("m.layers.1.q.weight", 1, 8, 8), new("m.layers.1.up.weight", 1, 16, 16)];
        var scores = layers.ToDictionary(l => l.Name, l => l.Block == 0 ? 1.0 : 3.0);
        IReadOnlyList<double> s = new Ecoflap().WithScores(scores).Allocate(layers, 0.5);
        s[0].ShouldBe(s[1]);
        s[2].ShouldBe(s[3]);
        s[2].ShouldBeLessThan(s[0]);
        s.Zip(layers, (share, l) => share * l.Count).Sum().ShouldBe(320, 1e-6);
        s.Max().ShouldBeLessThanOrEqualTo(0.6 + 1e-6);
        new Ecoflap { Group = EcoflapGroup.Model }.WithScores(scores).Allocate(layers, 0.5).ShouldAllBe(x => Math.Abs(x - 0.5) < 1e-9);
        IReadOnlyList<double> each = new Ecoflap { Group = EcoflapGroup.Layer, Aggregate = EcoflapAggregate.Average }.WithScores(scores).Allocate(layers, 0.5);
        each[2].ShouldBeLessThan(each[3]);
    }

    [Theory]
    [InlineData("model.layers.11.mlp.up_proj.weight", "model.layers.11")]
    [InlineData("encoder.block.3.layer.1.DenseReluDense.wi.weight", "encoder.block.3")]
    [InlineData("classifier.weight", "classifier.weight")]
    public void A_block_is_the_name_up_to_its_number(string name, string block) => Ecoflap.GroupOf(name, EcoflapGroup.Block).ShouldBe(block);

    [Fact]
    public void Zeroth_order_is_the_directional_derivative_and_restores_the_weight_bit_for_bit()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(1, 4, 6).to(ScalarType.Float64), X = Random(2, 9, 6).to(ScalarType.Float64), z = Random(3, 4, 6);
        Tensor Loss(Tensor w) => nn.functional.linear(X, w).tanh().square().mean();
        Tensor leaf = W.clone().requires_grad_(true);
        double exact = Math.Abs((autograd.grad([Loss(leaf)], [leaf])[0] * z).sum().item<double>());
        Tensor before = W.clone();
        double measured = Ecoflap.ProjectedGradientSum(W, 1, 1, 1e-4, _ => Loss(W).item<double>(), (_, _) => z.clone());
        measured.ShouldBe(exact, exact * 0.01);
        W.eq(before).all().item<bool>().ShouldBeTrue();
        Should.Throw<InvalidOperationException>(() => Ecoflap.ProjectedGradientSum(W, 1, 1, 1e-4, _ => throw new InvalidOperationException(), (_, _) => z.clone()));
        W.eq(before).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Scores_depend_on_the_seed_alone()
    {
        using var scope = NewDisposeScope();
        Tensor A = Random(1, 5, 4), B = Random(2, 3, 5), X = Random(3, 8, 4);
        double Loss(int batch) => nn.functional.linear(nn.functional.linear(X, A).relu(), B).square().mean().item<float>() * (batch + 1);
        IReadOnlyDictionary<string, double> Measure((string, Tensor)[] order, long seed) => Ecoflap.ScoreZerothOrder(order, 2, Loss, new Seed(seed), new ZerothOrderOptions { Draws = 2 });
        long live = Tensor.TotalCount;
        IReadOnlyDictionary<string, double> one = Measure([("A", A), ("B", B)], 5), two = Measure([("B", B), ("A", A)], 5);
        one["A"].ShouldBe(two["A"]);
        one["B"].ShouldBe(two["B"]);
        Measure([("A", A)], 6)["A"].ShouldNotBe(one["A"]);
        using var inner = NewDisposeScope();
        Tensor.TotalCount.ShouldBeLessThan(live + 400); // losses of this test live in its scope; the measurement itself leaves none
    }

    [Fact]
    public void The_global_mask_protects_the_top_of_every_tensor()
    {
        using var scope = NewDisposeScope();
        Tensor a = Random(1, 10, 10).abs(), b = Random(2, 100).abs() * 1e-3;
        IReadOnlyList<Tensor> keep = Ecoflap.GlobalMask([a, b], 0.5, 0.75);
        keep[0].sum().item<long>().ShouldBe(75);
        keep[1].sum().item<long>().ShouldBe(25);
        Ecoflap.GlobalMask([a, b], 0.5, 1)[1].sum().item<long>().ShouldBe(0);
        Ecoflap.GlobalMask([a, b], 0, 0.8).ShouldAllBe(k => k.all().item<bool>());
        Ecoflap.GlobalSparsityAfterStep(0.5, 3).ShouldBe(0.5, 1e-12);
    }

    [Fact]
    public void The_word_and_its_options_make_one() =>
        MethodCatalogue.Default.Create<IAllocator>("ecoflap", new Dictionary<string, object?> { ["max_sparsity"] = "0.8", ["group"] = "layer" })
            .ShouldBeOfType<Ecoflap>().ShouldSatisfyAllConditions(e => e.MaxSparsity.ShouldBe(0.8), e => e.Group.ShouldBe(EcoflapGroup.Layer));

    [Fact]
    public void Bad_input_is_named()
    {
        Sentence(() => Ecoflap.Allocate([1, 1], [10, 10], 0.5, 0.4)).ShouldContain("max_sparsity");
        Sentence(() => Ecoflap.Allocate([1, float.NaN], [10, 10], 0.5, 0.6)).ShouldContain("group 1");
        Sentence(() => Ecoflap.Allocate([1, -1], [10, 10], 0.5, 0.6)).ShouldContain("group 1");
        Sentence(() => Ecoflap.Allocate([1], [10, 10], 0.5, 0.6)).ShouldContain("every group");
        Sentence(() => Ecoflap.Allocate([1, 1], [10, 10], 1, 1)).ShouldContain("sparsity");
        Sentence(() => new Ecoflap().Allocate([new("w", 0, 2, 2)], 0.5)).ShouldContain("WithScores");
        Sentence(() => new Ecoflap().WithScores(new Dictionary<string, double>()).Allocate([new("w", 0, 2, 2)], 0.5)).ShouldContain("no score of w");
        Sentence(() => new Ecoflap { MaxSparsity = 2 }).ShouldContain("max_sparsity");
    }

    private static string Sentence(Func<object> act) => Should.Throw<EspalierException>(() => { act(); }).Message;

    private static Tensor Random(int seed, params long[] shape)
    {
        using Generator generator = new Seed(seed).Generator("test");
        return randn(shape, generator: generator);
    }
}
