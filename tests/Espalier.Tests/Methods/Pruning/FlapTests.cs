using CsCheck;
using Espalier.Catalogue;
using Espalier.Methods.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Verification;
using TorchSharp;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class FlapTests
{
    private static readonly FlapUnits Heads4 = new(4);

    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "flap")).Lines).ShouldBe("flap: 9/9");

    [Fact]
    public void A_constant_moves_the_mean_and_leaves_the_fluctuation()
    {
        using var scope = NewDisposeScope();
        Tensor X = Random(1, 5, 6, 8);
        Tensor shifted = X.clone();
        shifted[.., .., 2] += 3;
        FlapStatistics a = Seen(X), b = Seen(shifted);
        (b.Baseline[2] - a.Baseline[2]).item<float>().ShouldBe(3, 1e-4f);
        Close(a.Fluctuation, b.Fluctuation, 1e-4f);
    }

    [Fact]
    public void Scaling_an_input_scales_fluctuation_by_its_square_and_WIFN_by_its_size()
    {
        using var scope = NewDisposeScope();
        Tensor X = Random(2, 4, 6, 8), W = Random(3, 5, 8);
        FlapStatistics a = Seen(X), b = Seen(X * -3);
        Close(a.Fluctuation * 9, b.Fluctuation, 1e-3f);
        Close(Flap.Metric(a, W, FlapMetric.Wifn, false) * 3, Flap.Metric(b, W, FlapMetric.Wifn, false), 1e-4f);
        Close(Flap.Metric(a, W, FlapMetric.Wifv, false).pow(2), Flap.Metric(a, W, FlapMetric.Wifv, attention: true), 1e-3f);
    }

    [Fact]
    public void Windows_may_come_alone_or_together()
    {
        using var scope = NewDisposeScope();
        Tensor X = Random(4, 5, 6, 8);
        using var single = new FlapAccumulator(8);
        for (int n = 0; n < 5; n++)
        {
            single.Observe(X[n]);
        }

        FlapStatistics a = single.Figures(), b = Seen(X);
        a.Windows.ShouldBe(5);
        Close(a.Fluctuation, b.Fluctuation, 0);
    }

    [Fact]
    public void A_constant_input_goes_first_and_its_removal_costs_nothing()
    {
        using var scope = NewDisposeScope();
        Tensor X = Random(5, 4, 6, 8), W = Random(6, 5, 8);
        X[.., .., 3] = 1.5;
        FlapStatistics seen = Seen(X);
        Tensor metric = Flap.Metric(seen, W, FlapMetric.Wifv, false);
        metric[3].item<float>().ShouldBe(0);
        metric.argmin().item<long>().ShouldBe(3);
        Tensor keep = ones(8, ScalarType.Bool);
        keep[3] = false;
        (Tensor bias, Tensor pruned) = Flap.Compensate(W, seen.Baseline, keep);
        Tensor kept = X.reshape(-1, 8).index_select(1, keep.nonzero().reshape(-1));
        Close(kept.mm(pruned.t()) + bias, X.reshape(-1, 8).mm(W.t()), 1e-4f);
    }

    [Fact]
    public void Keeping_all_changes_nothing()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(7, 5, 8);
        (Tensor bias, Tensor pruned) = Flap.Compensate(W, Random(8, 8), ones(2, ScalarType.Bool), headDim: 4);
        bias.count_nonzero().item<long>().ShouldBe(0);
        pruned.Equals(W).ShouldBeTrue();
    }

    [Fact]
    public void Cut_and_masked_maps_answer_alike()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(9, 6, 12), x = Random(10, 7, 12), own = Random(11, 6);
        Tensor keep = tensor(new[] { true, false, true });
        (Tensor bias, Tensor pruned) = Flap.Compensate(W, Random(12, 12), keep, 4, own, addToExisting: true);
        Tensor columns = keep.repeat_interleave(4);
        Tensor cut = x.index_select(1, columns.nonzero().reshape(-1)).mm(pruned.t()) + bias;
        Close(cut, x.masked_fill(columns.logical_not(), 0).mm(W.t()) + bias, 1e-5f);
    }

    [Fact]
    public void A_layers_scale_does_not_matter_to_the_search()
    {
        using var scope = NewDisposeScope();
        Tensor attention = Random(13, 3, 16).abs(), mlp = Random(14, 3, 24).abs();
        Tensor scale = tensor(new[] { 1f, 64, 0.25f }).reshape(3, 1);
        FlapChoice a = Flap.Search(attention, mlp, Asked(0.4)), b = Flap.Search(attention * scale, mlp * scale, Asked(0.4));
        b.KeepHeads.Equals(a.KeepHeads).ShouldBeTrue();
        b.KeepNeurons.Equals(a.KeepNeurons).ShouldBeTrue();
    }

    [Fact]
    public void The_kept_share_is_within_one_head_and_masks_nest_as_the_ratio_grows() =>
        Gen.Select(Gen.Int[1, 1000], Gen.Double[0.05, 0.9], Gen.Double[0.05, 0.9]).Sample((seed, r, q) =>
        {
            using var scope = NewDisposeScope();
            Tensor attention = Random(seed, 4, 32).pow(2), mlp = Random(seed + 5000, 4, 40).abs();
            FlapChoice less = Flap.Search(attention, mlp, Asked(Math.Min(r, q))), more = Flap.Search(attention, mlp, Asked(Math.Max(r, q)));

            // In the ranking a head weighs floor(16 / 3) = 5 neurons of 3 parameters, not 16: 32 heads are up to 32 parameters off.
            double all = 4 * 8 * 16 + 4 * 40 * 3;
            less.KeptFraction.ShouldBe(1 - Math.Min(r, q), (16 + 3 + 32) / all);
            more.KeepHeads.logical_and(less.KeepHeads.logical_not()).any().item<bool>().ShouldBeFalse();
            more.KeepNeurons.logical_and(less.KeepNeurons.logical_not()).any().item<bool>().ShouldBeFalse();
        }, iter: 40, threads: 1);

    [Fact]
    public void Equal_metrics_and_single_columns_give_no_NaN()
    {
        using var scope = NewDisposeScope();
        FlapChoice found = Flap.Search(ones(2, 8), ones(2, 1), Asked(0.5));
        found.HeadScore.count_nonzero().item<long>().ShouldBe(0);
        found.NeuronScore.count_nonzero().item<long>().ShouldBe(0);
    }

    [Fact]
    public void Uniform_structures_take_the_same_from_every_layer()
    {
        using var scope = NewDisposeScope();
        Tensor attention = Random(15, 3, 32).abs(), mlp = Random(16, 3, 30).abs();
        FlapChoice uniform = Flap.Search(attention, mlp, Asked(0.3, FlapStructure.UlUm));
        uniform.KeepHeads.sum(1).eq(6).all().item<bool>().ShouldBeTrue();     // 8 − floor(2.4)
        uniform.KeepNeurons.sum(1).eq(21).all().item<bool>().ShouldBeTrue();  // 30 − 9
        FlapChoice manual = Flap.Search(attention, mlp, Asked(0.3, FlapStructure.UlMm) with { RemoveHeads = 4, Hidden = 32 });
        manual.KeepHeads.sum(1).eq(7).all().item<bool>().ShouldBeTrue();      // floor(4 / 3) = 1

        // floor((0.3·(3·30·32 + 4·32²) − 4·32·1·4) / 96) = 16
        manual.KeepNeurons.sum(1).eq(14).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void No_heads_to_remove_removes_none()
    {
        using var scope = NewDisposeScope();
        FlapChoice found = Flap.Search(Random(17, 3, 16).abs(), Random(18, 3, 30).abs(), Asked(0.2, FlapStructure.AlMm) with { RemoveHeads = 0, Hidden = 16 });
        found.KeepHeads.all().item<bool>().ShouldBeTrue();
        found.KeepNeurons.logical_not().sum().item<long>().ShouldBe(Flap.NeuronsToRemove(3, 30, Asked(0.2) with { Hidden = 16 }, 0));
    }

    [Fact]
    public void A_grouped_head_weighs_its_queries_and_its_own_key_and_value()
    {
        new FlapUnits(24).Weight.ShouldBe(32);
        new FlapUnits(128).Weight.ShouldBe(170);
        new FlapUnits(24, QueryHeads: 2).Weight.ShouldBe(48);
        using var scope = NewDisposeScope();
        FlapChoice found = Flap.Search(Random(19, 3, 32).abs(), Random(20, 3, 30).abs(), Asked(0.3) with { Units = new FlapUnits(4, 2) });
        found.KeepHeads.shape.ShouldBe([3, 4]);
    }

    [Fact]
    public void Every_layer_keeps_its_minimum_and_the_best_return_first()
    {
        using var scope = NewDisposeScope();
        Tensor score = tensor(new[] { 1f, 5, 3, 5, 2, 0 }).reshape(1, 6);
        Flap.KeepAtLeast(zeros([1, 6], ScalarType.Bool), score, 1, 1).data<bool>().ToArray().ShouldBe([false, false, false, true, false, false]);
        Flap.KeepAtLeast(zeros([1, 6], ScalarType.Bool), score, 3, 1).data<bool>().ToArray().ShouldBe([false, true, true, true, false, false]);
        Flap.KeepAtLeast(score > 4, score, 1, 4).data<bool>().ToArray().ShouldBe([false, true, true, true, true, false]);
        Flap.KeepAtLeast(score > 4, score, 9, 4).all().item<bool>().ShouldBeTrue();

        Tensor attention = Random(21, 3, 16).abs(), mlp = Random(22, 3, 24).abs();
        FlapChoice found = new Flap().Choose(attention, mlp, 0.9, Heads4, 16);
        (found.KeepHeads.sum(1) >= 1).all().item<bool>().ShouldBeTrue();
        found.KeepNeurons.sum(1).remainder(8).count_nonzero().item<long>().ShouldBe(0);
        (found.KeepNeurons.sum(1) >= 8).all().item<bool>().ShouldBeTrue();
        double kept = found.KeepHeads.sum().item<long>() * 16 + found.KeepNeurons.sum().item<long>() * 3;
        found.KeptFraction.ShouldBe(kept / (12 * 16 + 72 * 3), 1e-9);
    }

    [Theory]
    [InlineData(0.3)]
    [InlineData(0.5)]
    public void With_its_bias_it_beats_the_norm_and_without_it_does_not(double share)
    {
        for (int seed = 0; seed < 3; seed++)
        {
            using var scope = NewDisposeScope();
            Tensor mean = Random(seed, 64) * 3;
            Tensor sigma = (rand(64, generator: new Seed(seed).Generator("sigma")) * Math.Log(20) + Math.Log(0.1)).exp();
            Tensor X = mean + sigma * Random(seed + 10, 40, 50, 64), W = Random(seed + 20, 48, 64) * 0.1;
            FlapStatistics seen = Seen(X);
            Tensor flap = Keep(Flap.Metric(seen, W, FlapMetric.Wifv, false)), norm = Keep(Flap.Metric(seen, W, FlapMetric.Wifn, false));
            Tensor bias = Flap.Compensate(W, seen.Baseline, flap).Bias;
            double reference = Error(norm, null);
            Error(flap, bias).ShouldBeLessThan(0.15 * reference);
            Error(flap, null).ShouldBeGreaterThan(reference);

            Tensor Keep(Tensor metric) => MaskSelection.KeepLargestPerRow(metric.unsqueeze(0), share, "W")[0];
            double Error(Tensor keep, Tensor? b) =>
                (X.reshape(-1, 64).masked_fill(keep, 0).mm(W.t()) - (b ?? zeros(48))).pow(2).mean().item<float>();
        }
    }

    [Fact]
    public void As_a_criterion_every_row_loses_the_same_inputs()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(23, 6, 20);
        using var statistics = new LayerStatistics(CalibrationNeeds.InputMoments | CalibrationNeeds.InputNorms, 20, CPU);
        statistics.Observe(Random(24, 8, 10, 20) * Random(25, 20));
        LayerContext layer = statistics.Context("model.layers.0.mlp.down_proj.weight", W);
        foreach (FlapMetric metric in Enum.GetValues<FlapMetric>())
        {
            Tensor keep = MaskSelection.Choose(new Flap { Ranking = metric }, layer, Pattern.Unstructured(0.5), Scope.Row, 0.5);
            keep.sum([0]).eq(0).logical_or(keep.sum([0]).eq(6)).all().item<bool>().ShouldBeTrue();
            keep[0].sum().item<long>().ShouldBe(10);
            (new Flap { Ranking = metric }.Score(layer) > 0).all().item<bool>().ShouldBeTrue();
        }
    }

    [Fact]
    public void Bad_input_gets_a_sentence()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(26, 5, 8), attention = Random(27, 3, 16).abs(), mlp = Random(28, 3, 24).abs();
        Should.Throw<EspalierException>(() => Flap.Metric(Seen(Random(29, 1, 6, 8)), W, FlapMetric.Wifv, false)).Message.ShouldContain("at least 2");
        Should.Throw<EspalierException>(() => Flap.Metric(Seen(Random(29, 2, 6, 4)), W, FlapMetric.Wifv, false)).Message.ShouldContain("8 inputs");
        Should.Throw<EspalierException>(() => Seen(Random(29, 2, 6, 8) * float.NaN));
        Should.Throw<EspalierException>(() => Flap.Search(attention, mlp, Asked(0)));
        Should.Throw<EspalierException>(() => Flap.Search(attention, mlp, Asked(1)));
        Should.Throw<EspalierException>(() => Flap.Search(attention, mlp[..2], Asked(0.5)));
        Should.Throw<EspalierException>(() => Flap.Search(attention, mlp, Asked(0.5) with { Units = new FlapUnits(5) })).Message.ShouldContain("head_dim");
        Should.Throw<EspalierException>(() => Flap.Search(attention, mlp * float.NaN, Asked(0.5)));
        Should.Throw<EspalierException>(() => Flap.Search(attention, mlp, Asked(0.1, FlapStructure.AlMm) with { RemoveHeads = 11, Hidden = 16 })).Message.ShouldContain("fewer heads");
        Should.Throw<EspalierException>(() => Flap.Search(attention, mlp, Asked(0.1, FlapStructure.AlMm) with { Hidden = 16 }));
        Should.Throw<EspalierException>(() => Flap.Search(attention, mlp, Asked(0.9, FlapStructure.UlMm) with { RemoveHeads = 3, Hidden = 64 }));
        Should.Throw<EspalierException>(() => Flap.Compensate(W, Random(30, 8), ones(8, ScalarType.Bool), existingBias: Random(31, 5))).Message.ShouldContain("bias");
        Should.Throw<EspalierException>(() => Flap.Compensate(W, Random(30, 8), ones(8, ScalarType.Bool), headDim: 3)).Message.ShouldContain("head");
        Should.Throw<EspalierException>(() => Flap.Compensate(W, Random(30, 7), ones(8, ScalarType.Bool)));
        Should.Throw<EspalierException>(() => new Flap { MinimumNeurons = 0 });
        Should.Throw<EspalierException>(() => new Flap().Score(new LayerContext { Name = "q", Weight = W })).Message.ShouldContain("calibration");
    }

    [Fact]
    public void Plans_find_it_by_name()
    {
        var made = (Flap)MethodCatalogue.Default.Create<ICriterion>("flap", new Dictionary<string, object?> { ["structure"] = "al-mm", ["ranking"] = "wifn" });
        (made.Structure, made.Ranking).ShouldBe((FlapStructure.AlMm, FlapMetric.Wifn));
    }

    [Fact]
    public void No_tensor_outlives_a_search()
    {
        using var scope = NewDisposeScope();
        Tensor attention = Random(21, 3, 16).abs(), mlp = Random(22, 3, 24).abs();
        long before = DisposeScopeManager.Statistics.ThreadTotalLiveCount;
        new Flap().Choose(attention, mlp, 0.4, Heads4, 16).KeptFraction.ShouldBeGreaterThan(0.4);
        (DisposeScopeManager.Statistics.ThreadTotalLiveCount - before).ShouldBe(4);
    }

    private static FlapSearch Asked(double ratio, FlapStructure structure = FlapStructure.AlAm) => new() { Ratio = ratio, Structure = structure, Units = Heads4 };

    private static FlapStatistics Seen(Tensor X)
    {
        using var accumulator = new FlapAccumulator(X.shape[^1]);
        accumulator.Observe(X);
        return accumulator.Figures();
    }

    private static void Close(Tensor a, Tensor b, float tolerance) => (a - b).abs().max().item<float>().ShouldBeLessThanOrEqualTo(tolerance);

    private static Tensor Random(int seed, params long[] shape)
    {
        using var generator = new Seed(seed).Generator("test");
        return randn(shape, generator: generator);
    }
}
