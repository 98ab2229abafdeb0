using CsCheck;
using Espalier.Data;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class WgsefTests
{
    private static readonly Gen<(double[] Norms, double[] Costs, double Budget, double Lambda)> AnyGroups =
        from m in Gen.Int[1, 30]
        from norms in Gen.OneOf(Gen.Double[0, 3], Gen.Const(0.0), Gen.Const(1.0)).Array[m]
        from costs in Gen.OneOf(Gen.Double[0.1, 4], Gen.Const(1.0)).Array[m]
        from share in Gen.Double[0.01, 1.2]
        from lambda in Gen.OneOf(Gen.Const(0.0), Gen.Double[0.001, 5])
        select (norms, costs, share * costs.Sum(), lambda);

    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "wgsef")).Lines).ShouldBe("wgsef: 12/12");

    [Fact]
    public void The_worked_example_by_hand()
    {
        double[] a = [3, 2, 1], one = [1, 1, 1];
        double[] u = GroupEnvelope.Shares(a, one, 2, 0);
        u.ShouldBe([1, 2 / 3.0, 1 / 3.0], 1e-12);
        GroupEnvelope.Value(a, u).ShouldBe(9, 1e-12);
        GroupEnvelope.Shares(a, one, 2, 1).ShouldBe([1, 1, 0]);
        GroupEnvelope.Shares(a, one, 1.5, 1).ShouldBe([1, 0.5, 0], 1e-12);
        GroupEnvelope.Shares(a, one, 3, 1).ShouldBe([1, 1, 1]);
        Shrunk(a, one, 1.5, 1).ShouldBe([1.5, 2 / 3.0, 0], 1e-12);
        GroupEnvelope.Shares([3, 0, 1], one, 1, 0)[1].ShouldBe(0);
    }

    [Fact]
    public void The_shares_spend_the_budget_and_balance_the_groups() => AnyGroups.Sample(g =>
    {
        double[] u = GroupEnvelope.Shares(g.Norms, g.Costs, g.Budget, g.Lambda);
        double alive = g.Norms.Zip(g.Costs, (a, d) => a > 0 ? d : 0).Sum();
        u.Zip(g.Costs, (s, d) => s * d).Sum().ShouldBe(Math.Min(alive, g.Budget), 1e-9 * Math.Max(1, alive));
        u.ShouldAllBe(s => s >= 0 && s <= 1);

        // Stationary: a/(√d·(λ+u)) is one number where 0 < u < 1, at least it where u = 1, at most it where u = 0.
        double[] force = [.. g.Norms.Select((a, j) => a / (Math.Sqrt(g.Costs[j]) * (g.Lambda + u[j])))];
        double[] within = [.. force.Where((_, j) => u[j] > 1e-9 && u[j] < 1 - 1e-9)];
        if (within.Length > 0)
        {
            double multiplier = within.Average();
            within.ShouldAllBe(f => Math.Abs(f - multiplier) <= 1e-6 * multiplier);
            force.Where((_, j) => u[j] == 1).ShouldAllBe(f => f >= multiplier * (1 - 1e-6));
            force.Where((_, j) => u[j] == 0 && g.Norms[j] > 0).ShouldAllBe(f => f <= multiplier * (1 + 1e-6));
        }
    });

    [Fact]
    public void The_value_is_the_k_support_norm_and_falls_with_the_budget() => Gen.Select(Gen.Double[0.01, 3].Array[1, 12], Gen.Int[1, 12]).Sample((a, k) =>
    {
        double[] one = [.. a.Select(_ => 1.0)];
        double Value(double budget, double scale = 1)
        {
            double[] scaled = [.. a.Select(x => scale * x)];
            return GroupEnvelope.Value(scaled, GroupEnvelope.Shares(scaled, one, budget, 0));
        }

        Value(k).ShouldBe(SupportNorm(a, k), 1e-9 * Math.Max(1, SupportNorm(a, k)));
        Value(k).ShouldBeGreaterThanOrEqualTo(Value(k + 1) - 1e-9);
        Value(a.Length).ShouldBe(a.Sum(x => x * x) / 2, 1e-9 * Math.Max(1, a.Sum(x => x * x)));
        Value(k, 3).ShouldBe(9 * Value(k), 1e-8 * Math.Max(1, Value(k)));
    });

    [Fact]
    public void The_map_is_non_expansive_and_follows_scale_and_order() => Gen.Select(Gen.Double[-2, 2].Array[12], Gen.Double[-2, 2].Array[12], Gen.Double[0.3, 5], Gen.Double[0.01, 3]).Sample((x, y, k, lambda) =>
    {
        using var scope = NewDisposeScope();
        Tensor group = arange(4, ScalarType.Int64).repeat_interleave(3);
        double[] one = [1, 1, 1, 1];
        Tensor Map(Tensor values) => Wgsef.Prox(values, group, one, k, lambda).Values;
        Tensor a = tensor(x), b = tensor(y);
        (Map(a) - Map(b)).norm().item<double>().ShouldBeLessThanOrEqualTo((a - b).norm().item<double>() + 1e-9);
        Map(2 * a).allclose(2 * Map(a)).ShouldBeTrue();
        Map(a.view(4, 3).flip(0).flatten()).allclose(Map(a).view(4, 3).flip(0).flatten()).ShouldBeTrue();
    });

    [Theory]
    [InlineData(TinyVision.ResNet)]
    [InlineData(TinyVision.Vgg)]
    [InlineData(TinyVision.LeNet)]
    [InlineData(TinyVision.Mlp)]
    public void Units_that_are_zero_are_cut_and_the_net_computes_the_same(string json)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using VisionModel model = TinyVision.Make(json);
        Tensor images = TinyVision.Images(model);
        foreach (WeightGroup kind in (WeightGroup[])[WeightGroup.Filter, WeightGroup.Channel])
        {
            var method = new Wgsef { Keep = 0.5, Groups = kind };
            method.Project(model).ShouldBeGreaterThan(0);
            method.Project(model).ShouldBe(0);
            using VisionModel small = method.Shrink(model);
            small.ParameterCount.ShouldBeLessThan(model.ParameterCount);
            small.Macs.ShouldBeLessThan(model.Macs);
            small.Forward(images).allclose(model.Forward(images), 1e-4, 1e-5).ShouldBeTrue();
        }
    }

    [Theory]
    [InlineData(WeightGroup.Filter, false, GroupCost.One)]
    [InlineData(WeightGroup.Channel, true, GroupCost.Size)]
    [InlineData(WeightGroup.Shape, false, GroupCost.One)]
    [InlineData(WeightGroup.Layer, true, GroupCost.Size)]
    [InlineData(WeightGroup.Weight, true, GroupCost.One)]
    public void Training_reaches_the_number_of_groups_and_leaves_no_tensor_behind(WeightGroup kind, bool whole, GroupCost cost)
    {
        using ImageTensors images = TinyImages.Corners(24);
        using VisionModel model = TinyVision.Make(TinyVision.Vgg);
        long before = Parameters.LiveTensors;
        var method = new Wgsef { Keep = 0.5, Lambda = 3, Groups = kind, WholeNet = whole, Cost = cost, Rise = 0 };
        TrainingResult result = new VisionTraining(new TrainingOptions { Steps = 12, LearningRate = 0.05, Optimizer = "sgd", Momentum = 0.9, Schedule = "constant" }) { Batch = 8, Sparse = method }.Run(model, images);
        using (var run = new WgsefRun(method, NetWeight.Of(model), model))
        {
            (int alive, int groups, double outside) = run.Measure();
            alive.ShouldBeLessThan(groups);
            alive.ShouldBeGreaterThan(0);
            if (cost is GroupCost.One)
            {
                outside.ShouldBe(0);
            }
        }

        result.Sparse!.TrainingShare.ShouldBeInRange(0.1, 1);
        model.ClearGradients();
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
    }

    [Fact]
    public void A_language_model_has_rows_and_columns_as_filters_and_channels()
    {
        using VisionModel model = TinyVision.Make(TinyVision.Mlp);
        foreach (ParameterGrouping grouping in ParameterGrouping.Of(NetWeight.Of(model), null, WeightGroup.Filter))
        {
            using ParameterGrouping disposed = grouping;
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            NetWeight weight = NetWeight.Of(model).Single(w => w.Name == grouping.Name);
            grouping.Norms().ShouldBe(weight.Value.norm(1).data<float>().Select(v => (double)v), 1e-4);
            grouping.Multiply([0, .. Enumerable.Repeat(1.0, grouping.Count - 1)]);
            weight.Value[0].count_nonzero().item<long>().ShouldBe(0);
            weight.Value[1].count_nonzero().item<long>().ShouldBeGreaterThan(0);
        }
    }

    [Fact]
    public void What_is_impossible_is_a_sentence()
    {
        double[] one = [1, 1];
        Should.Throw<EspalierException>(() => GroupEnvelope.Shares(one, one, 0, 1)).Message.ShouldContain("budget of 0");
        Should.Throw<EspalierException>(() => GroupEnvelope.Shares(one, one, 1, -1)).Message.ShouldContain("-1");
        Should.Throw<EspalierException>(() => GroupEnvelope.Shares(one, [1, 0], 1, 1)).Message.ShouldContain("cost 0");
        Should.Throw<EspalierException>(() => GroupEnvelope.Shares(one, [1], 1, 1)).Message.ShouldContain("2 groups but 1 costs");
        Should.Throw<EspalierException>(() => GroupEnvelope.Shares([double.NaN, 1], one, 1, 1)).Message.ShouldContain("NaN");
        Should.Throw<EspalierException>(() => new Wgsef { Keep = 0 }).Message.ShouldContain("keep is 0");
        Should.Throw<EspalierException>(() => new Wgsef { Lambda = -0.5 }).Message.ShouldContain("lambda is -0.5");
        Should.Throw<EspalierException>(() => new Wgsef { Rise = 2 }).Message.ShouldContain("rise is 2");
        using VisionModel model = TinyVision.Make(TinyVision.Mlp);
        TorchSharp.Modules.Parameter weight = model.Weights[0].Weight;
        long[] ids = new long[weight.numel()];
        Should.Throw<EspalierException>(() => new ParameterGrouping("net", 2, [(weight, ids)])).Message.ShouldContain("no entry");
        Should.Throw<EspalierException>(() => new ParameterGrouping("net", 1, [(weight, [0])])).Message.ShouldContain("ids for 1");
        ids[0] = 7;
        Should.Throw<EspalierException>(() => new ParameterGrouping("net", 1, [(weight, ids)])).Message.ShouldContain("no group 7");
    }

    private static double[] Shrunk(double[] a, double[] d, double k, double lambda) =>
        [.. a.Zip(GroupEnvelope.Factors(GroupEnvelope.Shares(a, d, k, lambda), lambda), (x, f) => x * f)];

    // Argyriou, Foygel and Srebro 2012: the squared k-support norm in closed form, halved.
    private static double SupportNorm(double[] a, int k)
    {
        double[] s = [.. a.OrderDescending()];
        if (k >= s.Length)
        {
            return s.Sum(x => x * x) / 2;
        }

        for (int r = 0; r < k; r++)
        {
            double tail = s.Skip(k - r - 1).Sum() / (r + 1);
            bool above = k - r - 2 < 0 || s[k - r - 2] > tail;
            if (above && tail >= s[k - r - 1])
            {
                return (s.Take(k - r - 1).Sum(x => x * x) + (tail * tail * (r + 1))) / 2;
            }
        }

        throw new InvalidOperationException("No r fits.");
    }
}
