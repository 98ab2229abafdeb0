using CsCheck;
using Espalier.Catalogue;
using Espalier.Data;
using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class RdPruneTests
{
    private static readonly Gen<(RdCurve[] Curves, long[] Counts, float[] Previous, double Sparsity)> AnyLayers =
        from layers in Gen.Int[1, 3]
        from levels in Gen.Int[1, 5]
        from distortion in Gen.Float[0, 1].Array[levels + 1].Array[layers]
        from counts in Gen.Long[1, 40].Array[layers]
        from previous in Gen.Float[0, 0.6f].Array[layers]
        from sparsity in Gen.Double[0.05, 0.95]
        select ((RdCurve[])[.. distortion.Select(d => new RdCurve(Levels(levels), d))], counts, previous, sparsity);

    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "rdprune")).Lines).ShouldBe("rdprune: 11/11");

    [Fact]
    public void The_exact_program_equals_exhaustive_search() => AnyLayers.Sample(g =>
    {
        long budget = RdPrune.Budget(g.Counts, g.Sparsity);
        RdAllocation a = RdPrune.AllocateExact(g.Curves, g.Counts, budget, g.Previous);
        a.Kept.ShouldBeLessThanOrEqualTo(budget);
        a.TotalDistortion.ShouldBe(Exhaustive(g.Curves, g.Counts, budget, g.Previous), 1e-9);
        a.Phi.Zip(g.Previous).ShouldAllBe(p => p.First >= p.Second - 1e-6f);
        if (budget > 0)
        {
            RdPrune.AllocateExact(g.Curves, g.Counts, budget - 1, g.Previous).TotalDistortion.ShouldBeGreaterThanOrEqualTo(a.TotalDistortion - 1e-12);
        }
    });

    [Fact]
    public void Both_programs_choose_levels_and_amounts_that_lead_there() => AnyLayers.Sample(g =>
    {
        RdAllocation a = RdPrune.AllocatePublished(g.Curves, g.Counts, g.Sparsity, g.Previous);
        a.Amount.ShouldAllBe(x => x >= 0 && x <= 1);
        a.Levels.Select((d, l) => g.Curves[l].Phi[d]).ShouldBe(a.Phi);
    });

    [Fact]
    public void Equal_layers_get_equal_levels_up_to_one_step()
    {
        float[] D = [.. Enumerable.Range(0, 21).Select(d => d * d * 0.01f)];
        RdCurve[] curves = [.. Enumerable.Range(0, 4).Select(_ => new RdCurve(Levels(20), D))];
        RdAllocation a = RdPrune.AllocateExact(curves, [200, 200, 200, 200], 290);
        (a.Levels.Max() - a.Levels.Min()).ShouldBeLessThanOrEqualTo(1);
    }

    [Fact]
    public void A_coarse_unit_stays_within_the_budget_and_near_the_optimum()
    {
        RdCurve[] curves = [.. Enumerable.Range(1, 5).Select(l => new RdCurve(Levels(50), [.. Enumerable.Range(0, 51).Select(d => l * MathF.Pow(d / 50f, 2))]))];
        long[] counts = [30_000, 50_000, 20_000, 70_000, 40_000];
        RdAllocation fine = RdPrune.AllocateExact(curves, counts, 60_000), coarse = RdPrune.AllocateExact(curves, counts, 60_000, unit: 64);
        coarse.Kept.ShouldBeLessThanOrEqualTo(60_000);
        coarse.TotalDistortion.ShouldBeInRange(fine.TotalDistortion, fine.TotalDistortion * 1.05);
    }

    [Fact]
    public void Curves_start_at_zero_end_without_the_layer_and_worst_is_above_mean()
    {
        using var scope = NewDisposeScope();
        Tensor A = Random(1, 7, 5), B = Random(2, 3, 7), X = Random(3, 6, 5);
        Tensor beforeA = A.clone(), beforeB = B.clone();
        Tensor Forward(int _) => nn.functional.linear(nn.functional.linear(X, A).relu(), B);
        (string, Tensor)[] weights = [("A", A), ("B", B)];
        IReadOnlyList<RdCurve> mean = RdPrune.MeasureCurves(weights, 8, Forward, worstCase: false), worst = RdPrune.MeasureCurves(weights, 8, Forward);
        for (int l = 0; l < 2; l++)
        {
            mean[l].Distortion[0].ShouldBe(0);
            mean[l].Phi[8].ShouldBe(1);
            worst[l].Distortion.Zip(mean[l].Distortion).ShouldAllBe(d => d.First >= d.Second);
            mean[l].Distortion[8].ShouldBe(Forward(0).square().mean().item<float>(), 1e-5f); // both layers: without one the output is 0
        }

        A.eq(beforeA).all().item<bool>().ShouldBeTrue();
        B.eq(beforeB).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Applying_the_amount_to_what_remains_leads_to_phi()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(1, 9, 11);
        Tensor keep = RdPrune.PruneRemaining(W, ones(9, 11, ScalarType.Bool), 0.3);
        float previous = 1 - keep.sum().item<long>() / 99f;
        Tensor next = RdPrune.PruneRemaining(W, keep, RdPrune.Amounts([0.7f], [previous])[0]);
        (1 - next.sum().item<long>() / 99.0).ShouldBe(0.7, 1.0 / 99);
        next.logical_and(keep.logical_not()).any().item<bool>().ShouldBeFalse();
        RdPrune.Amounts([1f, 0.2f], [1f, 0.5f]).ShouldBe([0f, 0f]);
        RdPrune.SparsityAfterIteration(2).ShouldBe(0.36, 1e-12);
    }

    [Theory]
    [InlineData(RdProgram.Exact)]
    [InlineData(RdProgram.Published)]
    public void As_an_allocator_it_meets_the_sparsity_and_removes_no_layer(RdProgram program)
    {
        AllocatedLayer[] layers = [new("a", 0, 20, 20), new("b", 0, 30, 30), new("c", 0, 10, 10)];
        var curves = new Dictionary<string, RdCurve>
        {
            ["a"] = new(Levels(20), [.. Enumerable.Range(0, 21).Select(d => d * 0.001f)]),
            ["b"] = new(Levels(20), [.. Enumerable.Range(0, 21).Select(d => d * d * 0.01f)]),
            ["c"] = new(Levels(20), [.. Enumerable.Range(0, 21).Select(d => d * 1f)]),
        };
        IReadOnlyList<double> s = new RdPrune { Program = program }.WithCurves(curves).Allocate(layers, 0.5);
        s.ShouldAllBe(x => x >= 0 && x < 1);
        s[0].ShouldBeGreaterThan(s[2]);
        if (program is RdProgram.Exact)
        {
            s.Zip(layers, (x, l) => x * l.Count).Sum().ShouldBe(700, 1e-6);
        }
    }

    [Fact]
    public void Baselines_remove_their_share()
    {
        using var scope = NewDisposeScope();
        Tensor[] W = [Random(1, 8, 3, 3, 3), Random(2, 16, 8, 3, 3), Random(3, 10, 16)];
        long[] n = [216, 1152, 160];
        foreach (Func<IReadOnlyList<Tensor>, double, IReadOnlyList<double>> rule in (Func<IReadOnlyList<Tensor>, double, IReadOnlyList<double>>[])[RdPrune.LampAmounts, RdPrune.ErkAmounts, RdPrune.UniformPlusAmounts])
        {
            IReadOnlyList<double> a = rule(W, 0.6);
            a.ShouldAllBe(x => x >= 0 && x <= 1);
            a.Zip(n, (x, c) => x * c).Sum().ShouldBe(0.6 * n.Sum(), 2);
            rule(W, 0).ShouldAllBe(x => Math.Abs(x) < 1e-12);
        }

        RdPrune.UniformPlusAmounts(W, 0.6)[0].ShouldBe(0);
        RdPrune.LampAmounts([W[0], zeros(4, 4)], 0.5)[1].ShouldBe(0);
    }

    [Fact]
    public void The_word_and_its_options_make_one() =>
        MethodCatalogue.Default.Create<IAllocator>("rdprune", new Dictionary<string, object?> { ["max_amount"] = 0.95, ["unit"] = 64 })
            .ShouldBeOfType<RdPrune>().ShouldSatisfyAllConditions(r => r.MaxAmount.ShouldBe(0.95), r => r.Unit.ShouldBe(64));

    [Fact]
    public void Bad_input_is_named()
    {
        using var scope = NewDisposeScope();
        RdCurve curve = new(Levels(4), [0, 1, 2, 3, 4]);
        Sentence(() => RdPrune.AllocateExact([curve], [10, 10], 5)).ShouldContain("every layer");
        Sentence(() => RdPrune.AllocateExact([curve, new(Levels(3), [0, 1, 2, 3])], [10, 10], 5)).ShouldContain("layer 1");
        Sentence(() => RdPrune.AllocateExact([new([0f, 0.5f], [0, 1])], [10], 2)).ShouldContain("No choice of levels");
        Sentence(() => RdPrune.AllocateExact([new([0f, 1f], [0, float.NaN])], [10], 2)).ShouldContain("NaN");
        Sentence(() => RdPrune.AllocatePublished([new([0f, 0.5f], [0, 1])], [10], 0.5)).ShouldContain("removes everything");
        Sentence(() => new RdPrune().Allocate([new("w", 0, 2, 2)], 0.5)).ShouldContain("WithCurves");
        Sentence(() => new RdPrune { MaxAmount = 0.5 }.WithCurves(new Dictionary<string, RdCurve> { ["w"] = curve }).Allocate([new("w", 0, 4, 10)], 0.9)).ShouldContain("max_amount");
        Sentence(() => RdPrune.UniformPlusAmounts([Random(1, 100, 9, 3, 3), Random(2, 10, 10)], 0.9)).ShouldContain("Unif+");
        Sentence(() => RdPrune.MeasureCurves([("w", ones(2, 2))], 4, _ => full([2, 2], float.NaN))).ShouldContain("NaN");
    }

    private static string Sentence(Func<object> act) => Should.Throw<EspalierException>(() => { act(); }).Message;

    private static float[] Levels(int count) => [.. Enumerable.Range(0, count + 1).Select(d => (float)((double)d / count))];

    private static double Exhaustive(RdCurve[] curves, long[] counts, long budget, float[] previous, int layer = 0)
    {
        if (layer == curves.Length)
        {
            return 0;
        }

        double best = double.PositiveInfinity;
        for (int d = 0; d < curves[layer].Phi.Count; d++)
        {
            // Levels are exact multiples here, so the count needs none of the program's guards.
            long kept = counts[layer] - (long)Math.Floor(Math.Round((double)curves[layer].Phi[d] * counts[layer], 4));
            if (kept <= budget && curves[layer].Phi[d] >= previous[layer] - 1e-6)
            {
                best = Math.Min(best, curves[layer].Distortion[d] + Exhaustive(curves, counts, budget - kept, previous, layer + 1));
            }
        }

        return best;
    }

    private static Tensor Random(int seed, params long[] shape)
    {
        using Generator generator = new Seed(seed).Generator("test");
        return randn(shape, generator: generator);
    }

    [Theory]
    [InlineData(1, RdProgram.Exact)]
    [InlineData(3, RdProgram.Exact)]
    public void A_vision_net_is_pruned_to_its_sparsity_by_curves_of_its_logits(int iterations, RdProgram program)
    {
        using VisionModel net = TinyVision.Make(TinyVision.ResNet);
        using ImageTensors images = TinyImages.Corners(24);
        var method = new RdPrune { Sparsity = 0.7, Iterations = iterations, Levels = 10, Samples = 8, Program = program };
        float[] before = [.. net.Weights[2].Weight.detach().flatten().data<float>()];
        using (VisionMethodResult result = method.Run(new VisionMethodContext { Model = net, Images = images, Test = images, Options = new TrainingOptions { Steps = 3, LearningRate = 1e-3 }, Batch = 8 }))
        {
            result.Sparsity.ShouldBe(0.7, 0.02);
            result.Figures.Count.ShouldBe(iterations);
            result.Masks.Values.Select(m => 1 - ((double)m.Kept / m.Count)).Distinct().Count().ShouldBeGreaterThan(1);
        }

        net.Weights[2].Weight.detach().flatten().data<float>().ToArray().ShouldBe(before);
        Should.Throw<EspalierException>(() => new RdPrune().Check(net, new TrainingOptions())).Message.ShouldContain("set sparsity");
        Should.Throw<EspalierException>(() => new RdPrune { Sparsity = 0.9, MaxAmount = 0.8 }.Check(net, new TrainingOptions())).Message.ShouldContain("max_amount");
        Should.Throw<EspalierException>(() => new RdPrune { Iterations = 0 }).Message.ShouldContain("iterations");
    }

    [Fact]
    public void Worst_and_mean_curves_come_from_the_same_passes()
    {
        using VisionModel net = TinyVision.Make(TinyVision.Vgg);
        using var scope = NewDisposeScope();
        Tensor images = TinyVision.Images(net, 5);
        (IReadOnlyList<RdCurve> worst, IReadOnlyList<RdCurve> mean) = RdPrune.MeasureBoth(net, images, 5);
        (worst.Count, mean.Count).ShouldBe((net.Weights.Count, net.Weights.Count));
        worst.Zip(mean).ShouldAllBe(p => p.First.Distortion.Zip(p.Second.Distortion).All(d => d.First >= d.Second) && p.First.Distortion[0] == 0 && p.First.Phi.Last() == 1);
    }
}
