using CsCheck;
using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class ApTests
{
    private static readonly TrainingOptions Options = new() { Steps = 20, LearningRate = 0.05, Optimizer = "sgd", Momentum = 0.9, SaveEvery = 3 };

    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "ap")).Lines).ShouldBe("ap: 8/8");

    [Fact]
    public void The_worked_example_by_hand()
    {
        using var scope = NewDisposeScope();
        Tensor all = ones(5, ScalarType.Bool);
        (IReadOnlyList<Tensor> keep, double threshold, long count) = Ap.PercentilePrune([tensor([0.1, 0.2, 0.3, 0.4, 0.5])], [all], 20, 20);
        threshold.ShouldBe(0.18, 1e-12);
        count.ShouldBe(1);
        keep[0].data<bool>().ShouldBe([false, true, true, true, true]);

        Tensor w = tensor([-0.2, 0.3, -0.4, 0.5]), moved = (w - tensor([-0.25, 0.1, -0.1, 0.5])).abs(), left = ones(4, ScalarType.Bool);
        (keep, threshold, long pruned) = Ap.TakeSmallest([moved], [w.lt(0)], [left], 0);
        threshold.ShouldBe(0.05, 1e-12);
        pruned.ShouldBe(1);
        keep[0].data<bool>().ShouldBe([false, true, true, true]);
        Ap.TakeSmallest([moved], [w.lt(0)], [left], 1).Pruned.ShouldBe(2);
        Should.Throw<EspalierException>(() => Ap.TakeSmallest([moved], [w.lt(0)], [left], 2)).Message.ShouldContain("only 2 negative");

        IReadOnlyList<DeadNeuronRate> rates = DeadNeurons.Of([("layer", tensor([0f, 1, 0, 0, 2, 3]).view(2, 3), tensor([0f, 0, 1, 0, 0, 1]).view(3, 2))]);
        rates[^1].Total.ShouldBe(50, 1e-9);
        rates[^1].Static.ShouldBe(100 / 3.0, 1e-9);
        rates[^1].Dynamic.ShouldBe(100 / 6.0, 1e-9);
    }

    [Fact]
    public void A_percentile_lies_between_the_scores_it_divides() => Gen.Select(Gen.Double[0, 1].Array[1, 50], Gen.Double[0, 100]).Sample((values, percent) =>
    {
        using var scope = NewDisposeScope();
        double p = Ap.Percentile(tensor(values), percent);
        p.ShouldBeInRange(values.Min() - 1e-12, values.Max() + 1e-12);
        values.Count(v => v < p - 1e-12).ShouldBeLessThanOrEqualTo((int)Math.Ceiling(percent / 100 * (values.Length - 1)));
        Ap.Percentile(tensor([0.7, 0.7, 0.7]), percent).ShouldBe(0.7);
    });

    [Theory]
    [InlineData(ApPruner.Magnitude, ApChoice.NegativeStill, 10, true)]
    [InlineData(ApPruner.Gradient, ApChoice.NegativeRandom, 10, true)]
    [InlineData(ApPruner.Magnitude, ApChoice.PositiveStill, 10, false)]
    [InlineData(ApPruner.Magnitude, ApChoice.NegativeStill, 0, true)]
    public void Each_cycle_removes_its_percentage_and_leaves_no_tensor_behind(ApPruner pruner, ApChoice choice, double rate, bool rewind)
    {
        using ImageTensors images = TinyImages.Corners(24);
        using VisionModel model = TinyVision.Make(TinyVision.Vgg);
        long before = Parameters.LiveTensors;
        var method = new Ap { Percent = 40, Rate = rate, Cycles = 3, Pruner = pruner, Choice = choice, Rewind = rewind };
        TrainingResult result = new VisionTraining(Options) { Batch = 8, Sparse = method }.Run(model, images);
        (1 - result.Sparse!.Sparsity).ShouldBe(0.216, 0.02);
        result.Sparse.TrainingShare.ShouldBeInRange(0.2, 0.95);
        model.ClearGradients();
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
    }

    [Fact]
    public void Weights_go_back_to_the_first_ones_with_the_mask_and_the_schedule_begins_again()
    {
        using VisionModel model = TinyVision.Make(TinyVision.Mlp), first = model.Clone();
        using ImageTensors grey = TinyImages.Corners(24, channels: 1);
        var watch = new Watch(model);
        var method = new Ap { Percent = 50, Rate = 5, Cycles = 1 };
        method.Start(1, 20).ShouldBe(10);
        new VisionTraining(Options) { Batch = 8, Sparse = method, Hooks = [watch] }.Run(model, grey);
        watch.Rates[10].ShouldBe(watch.Rates[0]);
        watch.Rates[9].ShouldBe(0.05 / 10, 1e-12);
        foreach (WeightLayer layer in first.Weights)
        {
            using var scope = NewDisposeScope();
            Tensor after = watch.AfterRewind[layer.WeightName], kept = after.ne(0);
            after.masked_select(kept).eq(layer.Weight.detach().masked_select(kept)).all().item<bool>().ShouldBeTrue(layer.Name);
            kept.all().item<bool>().ShouldBeFalse(layer.Name);
        }

        watch.Dispose();
    }

    [Fact]
    public void A_stopped_run_resumes_to_the_same_bytes()
    {
        using ImageTensors images = TinyImages.Corners(24);
        using VisionModel whole = TinyVision.Make(TinyVision.Vgg), part = TinyVision.Make(TinyVision.Vgg), fresh = TinyVision.Make(TinyVision.Vgg);
        using var folder = new TemporaryFolder();
        using var cancellation = new CancellationTokenSource();
        VisionTraining Training(string? state, bool cancel) => new(Options)
        {
            Batch = 8, Sparse = new Ap { Percent = 40, Rate = 10, Cycles = 3 }, StateFolder = state, Resume = true, Hooks = [new CancelAt(cancel ? 12 : -1, cancellation)],
        };
        Training(null, false).Run(whole, images);
        Should.Throw<OperationCanceledException>(() => Training(folder.Path, true).Run(part, images, cancellation: cancellation.Token));
        Training(folder.Path, false).Run(fresh, images);
        foreach (((_, Tensor a), (_, Tensor b)) in whole.Tensors.Zip(fresh.Tensors))
        {
            a.detach().bytes.ToArray().ShouldBe(b.detach().bytes.ToArray());
        }
    }

    [Fact]
    public void A_unit_whose_weights_are_cut_is_static_unless_its_bias_keeps_it_alive()
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using VisionModel model = TinyVision.Make(TinyVision.Mlp);
        WeightLayer layer = model.Weights[0];
        layer.Weight[0].zero_();
        layer.Bias![0] = -1;
        layer.Weight[1].zero_();
        layer.Bias[1] = 1;
        Tensor images = TinyVision.Images(model, 4);
        IReadOnlyList<DeadNeuronRate> rates = DeadNeurons.Measure(model, [images.clone(), images.clone()]);
        rates.Select(r => r.Layer).ShouldBe(["fc1", "fc2", "all"]);
        rates[0].Static.ShouldBe(100 / 6.0, 1e-9);
        rates[0].Count.ShouldBe(2 * 4 * 6);
        rates[^1].Count.ShouldBe(2 * 4 * (6 + 5));
        model.Layers.ShouldAllBe(l => l.OutputObserver == null);
        using VisionModel gelu = TinyVision.Make(TinyVision.Vit);
        Should.Throw<EspalierException>(() => DeadNeurons.Measure(gelu, [TinyVision.Images(gelu)])).Message.ShouldContain("no ReLU");
        Should.Throw<EspalierException>(() => DeadNeurons.Of([("layer", zeros(2, 3), zeros(4, 1))])).Message.ShouldContain("3 units");
    }

    [Fact]
    public void What_is_impossible_is_a_sentence()
    {
        using VisionModel model = TinyVision.Make(TinyVision.Mlp);
        IReadOnlyList<NetWeight> weights = NetWeight.Of(model);
        Should.Throw<EspalierException>(() => new Ap { Percent = 100 }).Message.ShouldContain("percentage of 100");
        Should.Throw<EspalierException>(() => new Ap { Rate = -1 }).Message.ShouldContain("-1");
        Should.Throw<EspalierException>(() => new Ap { Cycles = 0 }).Message.ShouldContain("cycles");
        Should.Throw<EspalierException>(() => new Ap { Percent = 10, Rate = 20 }.Check(weights, 100)).Message.ShouldContain("no part of 10");
        Should.Throw<EspalierException>(() => new Ap { Cycles = 9 }.Check(weights, 9)).Message.ShouldContain("too few");
    }

    private sealed class Watch(VisionModel model) : ITrainingHook, IDisposable
    {
        public List<double> Rates { get; } = [];

        public Dictionary<string, Tensor> AfterRewind { get; } = [];

        public void AfterStep(TrainingStep step)
        {
            Rates.Add(step.LearningRate);
            if (step.Index == 9)
            {
                foreach (WeightLayer layer in model.Weights)
                {
                    AfterRewind[layer.WeightName] = layer.Weight.detach().clone().DetachFromDisposeScope();
                }
            }
        }

        public void Dispose()
        {
            foreach (Tensor value in AfterRewind.Values)
            {
                value.Dispose();
            }
        }
    }

    private sealed class CancelAt(int step, CancellationTokenSource cancellation) : ITrainingHook
    {
        public void AfterStep(TrainingStep current)
        {
            if (current.Index == step)
            {
                cancellation.Cancel();
            }
        }
    }
}
