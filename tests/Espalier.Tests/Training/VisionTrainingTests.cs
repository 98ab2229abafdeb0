using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Training;

public sealed class VisionTrainingTests
{
    private static readonly TrainingOptions Options = new() { Steps = 24, LearningRate = 0.05, Optimizer = "sgd", Momentum = 0.9, Nesterov = true, WeightDecay = 1e-4, Schedule = "multistep", SaveEvery = 5 };

    [Fact]
    public void A_net_learns_to_tell_bright_corners()
    {
        using ImageTensors images = TinyImages.Corners(96);
        using VisionModel model = TinyVision.Make(TinyVision.ResNet);
        ImageAccuracy.Evaluate(model, images).Top1.ShouldBeLessThan(70);
        TrainingResult result = new VisionTraining(Options with { Steps = 60 }) { Batch = 16 }.Run(model, images);
        ImageAccuracy.Evaluate(model, images).Top1.ShouldBeGreaterThan(90);
        result.FinalLoss.ShouldBeLessThan(result.Losses[0]);
        model.Training.ShouldBeFalse();
    }

    [Fact]
    public void A_stopped_run_resumes_to_the_same_bytes_running_statistics_included()
    {
        using ImageTensors images = TinyImages.Corners(40);
        using VisionModel whole = TinyVision.Make(TinyVision.ResNet), parts = TinyVision.Make(TinyVision.ResNet), fresh = TinyVision.Make(TinyVision.ResNet);
        using var folder = new TemporaryFolder();
        var training = (string? state, ITrainingHook[] hooks) => new VisionTraining(Options) { Batch = 8, Augmentation = new ImageAugmentation(1, true), StateFolder = state, Hooks = hooks, Resume = true };
        IReadOnlyList<double> losses = training(null, []).Run(whole, images).Losses;
        using var cancellation = new CancellationTokenSource();
        var watch = new CancelAt(13, cancellation);
        Should.Throw<OperationCanceledException>(() => training(folder.Path, [watch]).Run(parts, images, cancellation: cancellation.Token));
        training(folder.Path, [new CancelAt(-1, cancellation)]).Run(fresh, images).Losses.ShouldBe(losses);
        TinyVision.Bytes(fresh).ShouldBe(TinyVision.Bytes(whole));
        fresh.Buffers.Count.ShouldBeGreaterThan(0);
    }

    [Fact]
    public void Pruned_weights_stay_zero()
    {
        using ImageTensors images = TinyImages.Corners(40);
        using VisionModel model = TinyVision.Make(TinyVision.ResNet);
        using var scope = NewDisposeScope();
        Dictionary<string, Tensor> masks = model.Weights.ToDictionary(w => w.WeightName, w => w.Weight.detach().abs().gt(0.2));
        foreach (WeightLayer layer in model.Weights)
        {
            using var frozen = no_grad();
            layer.Weight.mul_(masks[layer.WeightName]);
        }

        new VisionTraining(Options) { Batch = 8 }.Run(model, images, masks);
        foreach (WeightLayer layer in model.Weights)
        {
            layer.Weight.masked_select(masks[layer.WeightName].logical_not()).ne(0).any().item<bool>().ShouldBeFalse(layer.Name);
            layer.Weight.masked_select(masks[layer.WeightName]).eq(0).any().item<bool>().ShouldBeFalse(layer.Name);
        }
    }

    [Fact]
    public void Training_leaves_no_tensor_behind()
    {
        using ImageTensors images = TinyImages.Corners(40);
        using VisionModel model = TinyVision.Make(TinyVision.Vgg);
        long before = Parameters.LiveTensors;
        new VisionTraining(Options) { Batch = 8, Augmentation = ImageAugmentation.Cifar }.Run(model, images);
        ImageAccuracy.Evaluate(model, images, batch: 7);
        BatchNormRecalibration.Run(model, new ImageBatches(images, 8).InOrder().Select(b =>
        {
            b.Labels.Dispose();
            return b.Images;
        }));
        model.ClearGradients();
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
    }

    [Fact]
    public void Recalibrated_statistics_are_those_of_the_batches()
    {
        using VisionModel model = TinyVision.Make(TinyVision.Vgg);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using Generator generator = new Seed(6).Generator("images");
        Tensor[] batches = [.. Enumerable.Range(0, 3).Select(_ => rand([4, 3, 8, 8], generator: generator))];
        Tensor[] maps = [.. batches.Select(b => nn.functional.conv2d(b, model.Weights[0].Weight, model.Weights[0].Bias, padding: [1, 1]))];
        var norm = model.Layers.OfType<BatchNormLayer>().First();
        BatchNormRecalibration.Run(model, batches.Select(b => b.clone())).ShouldBe(3);
        norm.RunningMean.allclose(stack([.. maps.Select(m => m.mean([0, 2, 3]))]).mean([0])).ShouldBeTrue();
        norm.RunningVariance.allclose(stack([.. maps.Select(m => m.transpose(0, 1).flatten(1).var(1))]).mean([0])).ShouldBeTrue();

        BatchNormRecalibration.Run(model, [batches[0].clone(), batches[1].clone()], momentum: 0.1);
        Tensor expected = (0.09 * maps[0].mean([0, 2, 3])) + (0.1 * maps[1].mean([0, 2, 3]));
        norm.RunningMean.allclose(expected, 1e-4, 1e-6).ShouldBeTrue();
        norm.Momentum.ShouldBe(0.1);
        model.Training.ShouldBeFalse();
    }

    [Fact]
    public void Multistep_falls_at_its_milestones()
    {
        var options = new TrainingOptions { Steps = 10, LearningRate = 1, Schedule = "multistep", WarmupSteps = 2 };
        double[] rates = [.. Enumerable.Range(0, 10).Select(k => LearningRateSchedule.At(options, k))];
        rates.ShouldBe([0, 0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01], 1e-12);
        Should.Throw<EspalierException>(() => new TrainingOptions { Milestones = [0.5, 0.5] }).Message.ShouldContain("ascend");
        Should.Throw<EspalierException>(() => new TrainingOptions { Nesterov = true }.Validate()).Message.ShouldContain("momentum");
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
