using Espalier.Data;
using Espalier.Methods.Merging;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Merging;

public sealed class SmsTests
{
    private static readonly TrainingOptions Options = new() { Steps = 6, LearningRate = 0.02, Optimizer = "sgd", Momentum = 0.9, Nesterov = true, WeightDecay = 1e-4 };

    [Theory]
    [InlineData(SoupMerge.Uniform, SoupVariation.PrunedSeed)]
    [InlineData(SoupMerge.Greedy, SoupVariation.PrunedSeed)]
    [InlineData(SoupMerge.Uniform, SoupVariation.WeightDecay)]
    [InlineData(SoupMerge.Uniform, SoupVariation.RetrainLength)]
    [InlineData(SoupMerge.Greedy, SoupVariation.RetrainSchedule)]
    public void A_soup_is_exactly_as_sparse_as_its_goal_whatever_varies_and_merges(SoupMerge merge, SoupVariation vary)
    {
        using ImageTensors images = TinyVision.Noise();
        using VisionModel net = TinyVision.Make(TinyVision.ResNet);
        var sms = new Sms { Sparsity = 0.75, Phases = 2, Models = 2, Merge = merge, Vary = vary, Values = vary is SoupVariation.PrunedSeed ? null : [0.5, 1], HeldOut = 0.25 };
        long before = Parameters.LiveTensors;
        double[] first = [.. net.Weights[0].Weight.detach().flatten().data<float>().Select(v => (double)v)];
        using (VisionMethodResult result = sms.Run(new VisionMethodContext { Model = net, Images = images, Test = images, Options = Options, Batch = 8 }))
        {
            result.Sparsity.ShouldBe(0.75, 0.001);
            result.Net.Weights.Sum(w => w.Weight.eq(0).sum().item<long>()).ShouldBe(result.Masks.Values.Sum(m => m.Count - m.Kept));
            result.Figures.ShouldContain(f => f.Name.Contains("phase 2") && f.Value > 0);
        }

        net.Weights[0].Weight.detach().flatten().data<float>().Select(v => (double)v).ShouldBe(first);
        GC.Collect();
        GC.WaitForPendingFinalizers();
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before + 4);
    }

    [Fact]
    public void Shares_of_what_remains_add_up_to_the_goal()
    {
        (double rate, IReadOnlyList<double> cumulative) = Sms.PhaseRate(0.9, 3);
        rate.ShouldBe(1 - Math.Pow(0.1, 1.0 / 3), 1e-12);
        cumulative[^1].ShouldBe(0.9, 1e-12);
        Should.Throw<EspalierException>(() => Sms.PhaseRate(1, 2)).Message.ShouldContain("sparsity");
    }

    [Fact]
    public void Counts_are_rounded_half_to_even_and_the_lower_place_goes_first()
    {
        using var scope = NewDisposeScope();
        Tensor weight = tensor([2f, -1f, 1f, 3f, 1f]);
        Tensor keep = ones([5], ScalarType.Bool);
        MagnitudePruning.Next([weight], [keep], 0.5, MagnitudeSelector.Global, new Seed(0))[0].data<bool>().ToArray().ShouldBe([true, false, false, true, true]);
        Should.Throw<EspalierException>(() => MagnitudePruning.Next([weight], [keep], 1, MagnitudeSelector.Global, new Seed(0))).Message.ShouldContain("1");
        Should.Throw<EspalierException>(() => MagnitudePruning.Next([tensor([float.NaN])], [ones([1], ScalarType.Bool)], 0.5, MagnitudeSelector.Uniform, new Seed(0))).Message.ShouldContain("NaN");
        MagnitudePruning.Next([weight], [keep], 0.4, MagnitudeSelector.Random, new Seed(0))[0].sum().item<long>().ShouldBe(3);
    }

    [Fact]
    public void What_cannot_be_averaged_is_refused_with_a_sentence()
    {
        using var scope = NewDisposeScope();
        using VisionModel a = TinyVision.Make(TinyVision.Mlp), b = TinyVision.Make(TinyVision.Mlp);
        Dictionary<string, Tensor> all = MagnitudePruning.All(a), other = MagnitudePruning.All(b);
        other["fc2.weight"][0].zero_();
        Should.Throw<EspalierException>(() => ModelSoup.Average([a, b], [all, other])).Message.ShouldContain("fc2.weight");
        Should.Throw<EspalierException>(() => ModelSoup.Average([a], [all])).Message.ShouldContain("at least 2");
        Should.Throw<EspalierException>(() => ModelSoup.Shares(3, [0.5, 0.5])).Message.ShouldContain("one for each");
        Should.Throw<EspalierException>(() => new Sms { Models = 1 }).Message.ShouldContain("at least 2");
        Should.Throw<EspalierException>(() => new Sms { Vary = SoupVariation.WeightDecay }.Check(a, Options)).Message.ShouldContain("values");
        Should.Throw<EspalierException>(() => new Sms { Values = [1, 1, 1] }.Check(a, Options)).Message.ShouldContain("seed");
        Should.Throw<EspalierException>(() => new Sms { RetrainSchedule = RetrainingSchedule.LRW, DenseRates = [0.1] }.Check(a, Options)).Message.ShouldContain("Rewinding");
    }

    [Fact]
    public void Equal_members_average_to_themselves_and_greedy_takes_ties()
    {
        using var scope = NewDisposeScope();
        using VisionModel a = TinyVision.Make(TinyVision.Vgg), b = a.Clone();
        Dictionary<string, Tensor> all = MagnitudePruning.All(a);
        using VisionModel soup = ModelSoup.Average([a, b], [all, all]);
        soup.Tensors.Zip(a.Tensors).ShouldAllBe(p => p.First.Value.allclose(p.Second.Value, 1e-5, 1e-8, false));
        ModelSoup.Greedy([1, 3, 3], _ => 3).Chosen.ShouldBe([1, 2, 0]);
        ModelSoup.Greedy([1, 3, 2], _ => 2.5).Chosen.ShouldBe([1]);
    }

    [Theory]
    [InlineData(RetrainingSchedule.SLR, 0.5)]
    [InlineData(RetrainingSchedule.CLR, 0.8)]
    [InlineData(RetrainingSchedule.LLR, 0.8)]
    public void Rates_warm_up_to_the_peak_and_fall(RetrainingSchedule kind, double last)
    {
        RetrainingRates rates = RetrainingRates.Of(kind, [1, 0.5, 0.25], 20);
        rates.Warmup.ShouldBe(2);
        (rates.Values[0], rates.Values[2], rates.Values[3]).ShouldBe((0, 1, 1));
        rates.Values[^1].ShouldBeLessThan(last);
        Should.Throw<EspalierException>(() => RetrainingRates.Of(RetrainingSchedule.ALLR, [1], 20)).Message.ShouldContain("ALLR");
    }
}
