using Espalier.Data;
using Espalier.Methods.Quantization;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Tests.Models;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Quantization;

public sealed class OfqTests
{
    private static readonly TrainingOptions Options = new() { Steps = 20, LearningRate = 2e-3, WeightDecay = 0.05, SaveEvery = 5 };

    [Fact]
    public void The_reference_cases_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "ofq")).Lines).ShouldBe("ofq: 18/18");

    /// <summary>The two factors of docs/systems/ofq.md, from what the roundings do to normally distributed weights: the density at the thresholds is how many weights lie ready to cross.</summary>
    [Theory]
    [InlineData(2, 1.62)]
    [InlineData(3, 1.94)]
    public void More_weights_lie_at_the_thresholds_of_StatsQ_than_at_those_of_LSQ_as_it_starts(int bits, double times)
    {
        using var scope = NewDisposeScope();
        const int Count = 400_000;
        Tensor w = ((arange(Count, dtype: ScalarType.Float64) + 0.5) / Count * 2 - 1).erfinv().reshape(1, Count) * Math.Sqrt(2);
        var lsq = new Lsq(bits, AllPositive: false, LsqAxis.Row);
        double ratio = AtThresholds(StatsQ.Quantise(w, bits).Value) / AtThresholds(lsq.Quantise(w, lsq.Start(w)));
        ratio.ShouldBe(times, 0.005);

        double AtThresholds(Tensor rounded)
        {
            Tensor crossed = rounded[0, 1..].ne(rounded[0, ..^1]);
            crossed.sum().item<long>().ShouldBe((1 << bits) - 1);
            return (w[0, 1..][crossed].square() / -2).exp().sum().item<double>();
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(8)]
    public void StatsQ_uses_two_to_the_bits_levels_none_of_them_zero_and_leaves_rows_of_zeros(int bits)
    {
        using var scope = NewDisposeScope();
        Tensor w = randn(6, 500);
        w[2].zero_();
        StatsQWeight rounded = StatsQ.Quantise(w, bits);
        rounded.Level.min().item<float>().ShouldBeGreaterThanOrEqualTo(-(float)StatsQ.Half(bits));
        rounded.Level.max().item<float>().ShouldBeLessThanOrEqualTo((float)StatsQ.Half(bits) - 1);
        rounded.Value.isfinite().all().item<bool>().ShouldBeTrue();
        rounded.Value[2].count_nonzero().item<long>().ShouldBe(0);
        rounded.Value.count_nonzero().item<long>().ShouldBe(2500);
        // Scaling a weight scales what it is rounded to.
        (StatsQ.Quantise(w * 4, bits).Value - (rounded.Value * 4)).abs().max().item<float>().ShouldBeLessThan(1e-5f);
    }

    [Fact]
    public void Of_Gaussian_weights_annealing_leaves_less_than_a_hundredth_free()
    {
        using var scope = NewDisposeScope();
        manual_seed(1);
        StatsQWeight rounded = StatsQ.Quantise(randn(64, 2000), 2);
        double free = 1 - ConfidentWeights.Frozen(rounded.Position, rounded.Level, 0.005).to(float64).mean().item<double>();
        free.ShouldBeInRange(0.004, 0.012);
    }

    [Fact]
    public void A_flipping_weight_oscillates_and_a_wandering_one_does_not()
    {
        using var scope = NewDisposeScope();
        using var tracker = new OscillationTracker(0.1);
        for (int t = 0; t < 10; t++)
        {
            tracker.Observe(tensor(new float[] { t % 2, t, 3 }));
        }

        tracker.Total!.data<float>().ToArray().ShouldBe([8, 0, 0]);
        tracker.ShareAbove(0.005).ShouldBe(1 / 3.0, 1e-9);
    }

    [Fact]
    public void A_stopped_run_resumes_to_the_same_bytes_and_leaves_no_tensor()
    {
        using ImageTensors images = Images(40, 3);
        using VisionModel whole = TinyVision.Make(TinyVision.ResNet), parts = TinyVision.Make(TinyVision.ResNet), fresh = TinyVision.Make(TinyVision.ResNet);
        using var folder = new TemporaryFolder();
        long before = Parameters.LiveTensors;
        TrainingResult result = Train(null).Run(whole, images);
        foreach ((_, TorchSharp.Modules.Parameter value) in whole.Parameters)
        {
            value.grad = null;
        }

        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
        using var cancellation = new CancellationTokenSource();
        Should.Throw<OperationCanceledException>(() => Train(folder.Path, new Stop(16, cancellation)).Run(parts, images, cancellation: cancellation.Token));
        TrainingResult resumed = Train(folder.Path, new Stop(-1, cancellation)).Run(fresh, images);
        resumed.Losses.ShouldBe(result.Losses);
        TinyVision.Bytes(fresh).ShouldBe(TinyVision.Bytes(whole));
        whole.Weights.ShouldAllBe(w => w.WeightChange == null);
        using var scope = NewDisposeScope();
        whole.Weights[1].Weight.detach()[0].flatten().data<float>().ToArray().Distinct().Count().ShouldBeLessThanOrEqualTo(4);
        whole.Weights[0].Weight.detach()[0].flatten().data<float>().ToArray().Distinct().Count().ShouldBeGreaterThan(4);
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("gpt2")]
    public void The_weights_of_a_language_model_end_on_few_levels(string family)
    {
        using LanguageModel model = TinyModels.Create(TinyModels.Config(family));
        int[] text = [.. Enumerable.Range(0, 600).Select(i => i * 7 % 37)];
        new LanguageModelTraining(new TrainingOptions { Steps = 10, LearningRate = 1e-3 }) { Batch = 2, Length = 12, Sparse = new Ofq { Bits = 2, AnnealShare = 0.3 } }.Run(model, text, null, CPU, default);
        using var scope = NewDisposeScope();
        foreach (NetWeight weight in NetWeight.Of(model))
        {
            weight.Matrix()[0].data<float>().ToArray().Distinct().Count().ShouldBeLessThanOrEqualTo(4);
        }
    }

    [Theory]
    [InlineData(true, OfqWeights.StatsQ)]
    [InlineData(false, OfqWeights.StatsQ)]
    [InlineData(false, OfqWeights.Lsq)]
    [InlineData(false, OfqWeights.LsqHalves)]
    public void A_rounded_ViT_learns_gives_its_net_back_and_is_the_same_after_writing_and_loading(bool product, OfqWeights weights)
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        using VisionModel net = TinyVision.Make(TinyVision.Vit);
        Tensor images = TinyVision.Images(net), plain = net.Forward(images);
        using (var rounded = new QuantisedNet(net, new Ofq { QkReparam = product, Weights = weights }))
        {
            net.Forward(images).allclose(plain).ShouldBeFalse();
            net.Forward(images).sum().backward();
            rounded.Extra.ShouldAllBe(e => e.Value.grad is object);
            net.Parameters.ShouldAllBe(p => p.Value.grad is object);
            rounded.WeightBits.ShouldBeGreaterThan(0);
        }

        net.Forward(images).equal(plain).all().item<bool>().ShouldBeTrue();
        using ImageTensors data = Images(40, 3);
        long live = Parameters.LiveTensors;
        var context = new VisionMethodContext { Model = net, Images = data, Test = data, Options = Options with { Steps = 6, SaveEvery = 0 }, Batch = 8, Folder = folder.Path };
        using (VisionMethodResult result = new Ofq { QkReparam = product, Weights = weights, AnnealShare = 0.5 }.Run(context, TestContext.Current.CancellationToken))
        {
            result.Figures.ShouldContain(f => f.Name == "accuracy of the rounded net");
            result.Net.Save(folder.Path);
            File.Exists(folder["oscillation.html"]).ShouldBeTrue();
            using VisionModel loaded = VisionModel.Load(folder.Path);
            using QuantisedNet attached = QuantisedNet.Attach(loaded, folder.Path)!;
            Espalier.Evaluation.ImageAccuracy.Evaluate(loaded, data).Top1.ShouldBe(result.Figures.First(f => f.Name == "accuracy of the rounded net").Value);
        }

        foreach ((_, TorchSharp.Modules.Parameter value) in net.Parameters)
        {
            value.grad = null;
        }

        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(live);
    }

    [Fact]
    public void The_query_key_product_without_rounding_is_the_usual_attention()
    {
        using var scope = NewDisposeScope();
        Tensor x = randn(2, 5, 12), wq = randn(12, 12), wk = randn(12, 12);
        Tensor q = x.matmul(wq.t()).view(2, 5, 3, 4).transpose(1, 2), k = x.matmul(wk.t()).view(2, 5, 3, 4).transpose(1, 2);
        (QueryKeyProduct.Scores(x, QueryKeyProduct.Of(wq, wk, 3)) - (q.matmul(k.transpose(-2, -1)) / 2)).abs().max().item<float>().ShouldBeLessThan(1e-3f);
    }

    [Fact]
    public void Bad_input_gets_a_sentence()
    {
        using var scope = NewDisposeScope();
        using VisionModel resnet = TinyVision.Make(TinyVision.ResNet);
        Sentence(() => new Ofq { Bits = 0 }).ShouldContain("weight bits");
        Sentence(() => new Ofq { ActivationBits = 1 }).ShouldContain("activation bits");
        Sentence(() => new Ofq { BoundaryRange = 0 }).ShouldContain("boundary range");
        Sentence(() => new Ofq().Check(resnet, Options)).ShouldContain("activation_bits=0");
        Sentence(() => new Ofq { Weights = OfqWeights.Lsq }.Check(NetWeight.Of(resnet), 10)).ShouldContain("statsq");
        Sentence(() => new Lsq(2, false, LsqAxis.Token).Quantise(randn(1, 5, 4), ones(4))).ShouldContain("length");
        Sentence(() => StatsQ.Quantise(randn(3), 2)).ShouldContain("dimensions");
        Sentence(() => QueryKeyProduct.Of(randn(6, 6), randn(6, 6), 4)).ShouldContain("4 heads");
        PlanWords.Method<IVisionMethod>("ofq", ["bits=3", "qk_reparam=false"]).ShouldBe(new Ofq { Bits = 3, QkReparam = false });
    }

    private static string Sentence(Action act) => Should.Throw<EspalierException>(act).Message;

    private static VisionTraining Train(string? state, params ITrainingHook[] hooks) => new(Options)
    {
        Batch = 8,
        Sparse = new Ofq { AnnealShare = 0.4 },
        StateFolder = state,
        Hooks = hooks,
        Resume = true,
    };

    private static ImageTensors Images(int count, int channels)
    {
        using var scope = NewDisposeScope();
        manual_seed(2);
        return new ImageTensors("noise", (rand(count, channels, 8, 8) * 255).to(ScalarType.Byte), arange(count, ScalarType.Int64).remainder(3));
    }

    private sealed class Stop(long at, CancellationTokenSource source) : ITrainingHook
    {
        public void AfterStep(TrainingStep step)
        {
            if (step.Index == at)
            {
                source.Cancel();
            }
        }
    }
}
