using CsCheck;
using Espalier.Catalogue;
using Espalier.Methods.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Verification;
using TorchSharp;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class DSnoTTests
{
    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "dsnot")).Lines).ShouldBe("dsnot: 11/11");

    [Fact]
    public void Row_sparsity_stays_and_with_same_sign_on_no_error_grows() =>
        Gen.Select(Gen.Int[1, 1000], Gen.Double[0.3, 0.8], Gen.Int[1, 3]).Sample((seed, sparsity, cycles) =>
        {
            using var scope = NewDisposeScope();
            (Tensor W, DSnoTStatistics x) = Layer(seed, 6, 48);
            Tensor start = DSnoT.StartMask(W, x.ScalerRow, DSnoTMetric.Wanda, sparsity);
            DSnoTRefinement refined = DSnoT.Refine(W, start, x.SumRow, x.ScalerRow, x.Var, new DSnoTRules { MaxCycle = cycles, RequireSameSign = true });
            refined.Keep.sum(1).Equals(start.sum(1)).ShouldBeTrue();
            (refined.ErrorEnd.abs() <= refined.ErrorStart.abs() + 1e-5).all().item<bool>().ShouldBeTrue();

            // A swap moves one zero: twice the swaps is what differs between the masks.
            refined.Keep.ne(start).sum(1).Equals(refined.Swaps * 2).ShouldBeTrue();
            Tensor e = (W * x.SumRow).masked_fill(refined.Keep, 0).sum(1);
            (e - refined.ErrorEnd).abs().max().item<float>().ShouldBeLessThan(1e-3f);
        }, iter: 40, threads: 1);

    [Fact]
    public void No_cycles_give_the_start_mask()
    {
        using var scope = NewDisposeScope();
        (Tensor W, DSnoTStatistics x) = Layer(1, 4, 32);
        Tensor start = DSnoT.StartMask(W, x.ScalerRow, DSnoTMetric.Magnitude, 0.5);
        DSnoTRefinement refined = DSnoT.Refine(W, start, x.SumRow, x.ScalerRow, x.Var, new DSnoTRules { MaxCycle = 0 });
        refined.Keep.Equals(start).ShouldBeTrue();
        refined.Swaps.sum().item<long>().ShouldBe(0);
        refined.ErrorEnd.Equals(refined.ErrorStart).ShouldBeTrue();
    }

    [Theory]
    [InlineData(2, 4)]
    [InlineData(4, 8)]
    [InlineData(3, 4)]
    [InlineData(1, 4)]
    public void Groups_keep_their_count(int pruneN, int m)
    {
        using var scope = NewDisposeScope();
        (Tensor W, DSnoTStatistics x) = Layer(2, 5, 64);
        Tensor start = DSnoT.StartMaskNM(W, x.ScalerRow, DSnoTMetric.Wanda, pruneN, m);
        DSnoTRefinement refined = DSnoT.Refine(W, start, x.SumRow, x.ScalerRow, x.Var, new DSnoTRules { GroupSize = m });
        refined.Swaps.sum().item<long>().ShouldBeGreaterThan(0);
        refined.Keep.reshape(-1, m).sum(1).eq(m - pruneN).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Rows_are_independent()
    {
        using var scope = NewDisposeScope();
        (Tensor W, DSnoTStatistics x) = Layer(3, 6, 40);
        Tensor order = tensor(new long[] { 3, 0, 5, 1, 4, 2 });
        DSnoTRefinement a = Run(W), b = Run(W.index_select(0, order));
        b.Keep.Equals(a.Keep.index_select(0, order)).ShouldBeTrue();
        b.Swaps.Equals(a.Swaps.index_select(0, order)).ShouldBeTrue();

        DSnoTRefinement Run(Tensor w) => DSnoT.Refine(w, DSnoT.StartMask(w, x.ScalerRow, DSnoTMetric.Wanda, 0.6), x.SumRow, x.ScalerRow, x.Var, new DSnoTRules { MaxCycle = 6 });
    }

    [Fact]
    public void A_row_stops_for_good_when_its_lists_run_out()
    {
        using var scope = NewDisposeScope();
        (Tensor W, DSnoTStatistics x) = Layer(4, 8, 16);
        foreach (double sparsity in new[] { 0.0, 0.1, 0.5, 0.9, 0.95 })
        {
            Tensor start = DSnoT.StartMask(W, x.ScalerRow, DSnoTMetric.Wanda, sparsity);
            DSnoTRefinement refined = DSnoT.Refine(W, start, x.SumRow, x.ScalerRow, x.Var, new DSnoTRules { MaxCycle = 10_000, Threshold = 0 });
            refined.Keep.sum(1).Equals(start.sum(1)).ShouldBeTrue();
        }
    }

    [Fact]
    public void Constant_inputs_and_zero_columns_stay_finite()
    {
        using var scope = NewDisposeScope();
        (Tensor W, _) = Layer(5, 4, 24);
        Tensor X = Random(6, 3, 5, 24);
        X[.., .., 3] = 2; // variance 0
        X[.., .., 7] = 0; // no contribution at all
        DSnoTStatistics x = DSnoT.Stats(X);
        Tensor start = DSnoT.StartMask(W, x.ScalerRow, DSnoTMetric.Wanda, 0.5);
        DSnoTRefinement refined = DSnoT.Refine(W, start, x.SumRow, x.ScalerRow, x.Var, new DSnoTRules { PowVar = 2 });
        refined.ErrorEnd.isfinite().all().item<bool>().ShouldBeTrue();
        refined.Keep.sum(1).Equals(start.sum(1)).ShouldBeTrue();
    }

    [Fact]
    public void Reordering_puts_zeros_last()
    {
        using var scope = NewDisposeScope();
        (Tensor index, Tensor reordered) = DSnoT.Reorder(tensor(new[] { 0f, 3, -1, 2, 0, -4 }).reshape(1, 6));
        index.data<long>().ToArray().ShouldBe([2, 5, 3, 1, 0, 4]);
        reordered.data<float>().ToArray().ShouldBe([-1, -4, 2, 3, 0, 0]);
    }

    [Theory]
    [InlineData("unstructured")]
    [InlineData("2:4")]
    public void As_a_repair_it_keeps_values_pattern_and_count(string word)
    {
        using var scope = NewDisposeScope();
        LayerContext layer = Context(Random(8, 6, 32) * 0.1, Random(7, 16, 20, 32) + 0.7);
        Pattern pattern = Pattern.Parse(word, word == "2:4" ? null : 0.6);
        PrunedLayer start = Start(layer, pattern);
        PrunedLayer repaired = new DSnoT { Skip = "none", CycleShare = 1, MaxCycle = 4 }.Repair(layer, start, pattern);
        repaired.Keep.Equals(start.Keep).ShouldBeFalse();
        repaired.Keep.sum(1).Equals(start.Keep.sum(1)).ShouldBeTrue();
        repaired.Weight.Equals(layer.Weight.masked_fill(repaired.Keep.logical_not(), 0)).ShouldBeTrue();
        if (word == "2:4")
        {
            MaskSelection.IsSemiStructured(repaired.Keep, 2, 4).ShouldBeTrue();
        }
    }

    [Fact]
    public void Accepting_only_what_is_better_never_raises_a_rows_error()
    {
        using var scope = NewDisposeScope();
        Tensor X = Random(9, 8, 20, 32) + 0.3;
        LayerContext layer = Context(Random(10, 12, 32) * 0.1, X);
        PrunedLayer start = Start(layer, Pattern.Unstructured(0.7));
        PrunedLayer free = new DSnoT { Skip = "none", CycleShare = 1 }.Repair(layer, start, Pattern.Unstructured(0.7));
        PrunedLayer checkedOne = new DSnoT { Skip = "none", CycleShare = 1, AcceptOnlyIfBetter = true }.Repair(layer, start, Pattern.Unstructured(0.7));
        (Error(checkedOne) <= Error(start) + 1e-3).all().item<bool>().ShouldBeTrue();
        (Error(checkedOne) <= Error(free) + 1e-3).all().item<bool>().ShouldBeTrue();
        checkedOne.Keep.sum(1).Equals(start.Keep.sum(1)).ShouldBeTrue();

        Tensor Error(PrunedLayer p) => X.reshape(-1, 32).mm((p.Weight - layer.Weight).t()).pow(2).sum([0]);
    }

    [Theory]
    [InlineData("model.layers.0.mlp.down_proj.weight", "mlp", true)]
    [InlineData("model.decoder.layers.0.fc1.weight", "mlp", true)]
    [InlineData("model.layers.0.self_attn.q_proj.weight", "mlp", false)]
    [InlineData("model.layers.0.self_attn.q_proj.weight", "attention", true)]
    [InlineData("model.layers.0.mlp.down_proj.weight", "down_proj", true)]
    [InlineData("model.layers.0.mlp.down_proj.weight", "none", false)]
    public void Skipped_layers_are_left_alone(string name, string skip, bool same)
    {
        using var scope = NewDisposeScope();
        LayerContext layer = Context(Random(8, 6, 32) * 0.1, Random(7, 16, 20, 32) + 0.7, name);
        PrunedLayer start = Start(layer, Pattern.Unstructured(0.6));
        new DSnoT { Skip = skip }.Repair(layer, start, Pattern.Unstructured(0.6)).Keep.Equals(start.Keep).ShouldBe(same);
    }

    [Fact]
    public void On_inputs_with_strong_means_it_repairs_the_mean_of_the_outputs()
    {
        for (int seed = 0; seed < 3; seed++)
        {
            using var scope = NewDisposeScope();
            Tensor W = Random(seed, 48, 64) * 0.1;
            Tensor X = (Random(seed + 10, 2000, 12).mm(Random(seed + 20, 12, 64)) * 0.4 + Random(seed + 30, 2000, 64) * 0.25 + Random(seed + 40, 64) * 3).reshape(20, 100, 64);
            LayerContext layer = Context(W, X);
            PrunedLayer start = Start(layer, Pattern.Unstructured(0.7));
            PrunedLayer repaired = new DSnoT { Skip = "none", CycleShare = 1, RequireSameSign = true }.Repair(layer, start, Pattern.Unstructured(0.7));
            double Error(Tensor weight) => X.reshape(-1, 64).mm((weight - W).t()).pow(2).mean().item<float>();
            Error(repaired.Weight).ShouldBeLessThan(0.75 * Error(start.Weight));
        }
    }

    [Fact]
    public void Bad_input_gets_a_sentence()
    {
        using var scope = NewDisposeScope();
        (Tensor W, DSnoTStatistics x) = Layer(6, 4, 30);
        Tensor start = DSnoT.StartMask(W, x.ScalerRow, DSnoTMetric.Wanda, 0.5);
        Should.Throw<EspalierException>(() => new DSnoT { MaxCycle = -1 });
        Should.Throw<EspalierException>(() => new DSnoT { CycleShare = 0 });
        Should.Throw<EspalierException>(() => new DSnoT { Threshold = double.NaN });
        Should.Throw<EspalierException>(() => new DSnoT { Skip = " " });
        Should.Throw<EspalierException>(() => DSnoT.StartMask(W, x.ScalerRow, DSnoTMetric.Wanda, 1));
        Should.Throw<EspalierException>(() => DSnoT.Stats(W));
        Should.Throw<EspalierException>(() => DSnoT.Refine(W, start[.., ..10], x.SumRow, x.ScalerRow, x.Var, new DSnoTRules()));
        Should.Throw<EspalierException>(() => DSnoT.Refine(W, start, x.SumRow[..10], x.ScalerRow, x.Var, new DSnoTRules()));
        Should.Throw<EspalierException>(() => DSnoT.Refine(W, start, x.SumRow, x.ScalerRow, x.Var, new DSnoTRules { GroupSize = 4 })).Message.ShouldContain("groups of 4");
        Should.Throw<EspalierException>(() => DSnoT.Refine(W, start, x.SumRow * float.NaN, x.ScalerRow, x.Var, new DSnoTRules())).Message.ShouldContain("NaN");
        Should.Throw<EspalierException>(() => new DSnoT { Skip = "none" }.Repair(new LayerContext { Name = "q", Weight = W }, new PrunedLayer(W, start), Pattern.Unstructured(0.5))).Message.ShouldContain("calibration");
    }

    [Fact]
    public void Plans_find_it_by_name()
    {
        var made = (DSnoT)MethodCatalogue.Default.Create<IRepair>("dsnot", new Dictionary<string, object?> { ["max_cycle"] = 7, ["skip"] = "none", ["pow_var"] = 0.5 });
        (made.MaxCycle, made.Skip, made.PowVar).ShouldBe((7, "none", 0.5));
    }

    [Fact]
    public void No_tensor_outlives_a_repair()
    {
        using var scope = NewDisposeScope();
        LayerContext layer = Context(Random(8, 6, 32), Random(7, 16, 20, 32) + 0.7);
        PrunedLayer start = Start(layer, Pattern.Unstructured(0.6));
        long before = DisposeScopeManager.Statistics.ThreadTotalLiveCount;
        PrunedLayer repaired = new DSnoT { AcceptOnlyIfBetter = true }.Repair(layer, start, Pattern.Unstructured(0.6));
        (DisposeScopeManager.Statistics.ThreadTotalLiveCount - before).ShouldBe(2);
        repaired.Weight.Dispose();
        repaired.Keep.Dispose();
    }

    private static (Tensor W, DSnoTStatistics Statistics) Layer(int seed, long rows, long columns) =>
        (Random(seed, rows, columns) * 0.5, DSnoT.Stats(Random(seed + 1000, 4, 10, columns) + Random(seed + 2000, columns)));

    private static LayerContext Context(Tensor W, Tensor X, string name = "model.layers.0.self_attn.q_proj.weight")
    {
        using var statistics = new LayerStatistics(CalibrationNeeds.InputNorms | CalibrationNeeds.InputMoments | CalibrationNeeds.Hessian, W.shape[1], CPU);
        statistics.Observe(X);
        LayerContext seen = statistics.Context(name, W);

        // The Hessian lives only as long as the statistics.
        return new LayerContext
        {
            Name = name, Weight = W, InputNorms = seen.InputNorms, InputMean = seen.InputMean, WithinVariance = seen.WithinVariance, TokensPerSequence = seen.TokensPerSequence, Hessian = seen.Hessian!.clone(),
        };
    }

    private static PrunedLayer Start(LayerContext layer, Pattern pattern)
    {
        Tensor keep = MaskSelection.Choose(new Wanda(), layer, pattern, Scope.Row, pattern.Sparsity);
        return new PrunedLayer(MaskSelection.Apply(layer.Weight, keep), keep);
    }

    private static Tensor Random(int seed, params long[] shape)
    {
        using var generator = new Seed(seed).Generator("test");
        return randn(shape, generator: generator);
    }
}
