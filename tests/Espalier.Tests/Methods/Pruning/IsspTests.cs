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

public sealed class IsspTests
{
    private static readonly TrainingOptions Options = new() { Steps = 20, LearningRate = 0.01, SaveEvery = 4 };

    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "issp")).Lines).ShouldBe("issp: 16/16");

    [Fact]
    public void The_worked_example_by_hand()
    {
        using var scope = NewDisposeScope();
        Tensor w = tensor([1f, -0.2f, 0.5f, 0.1f]);
        Tensor keep = Issp.Select(w, 0.5, "w");
        keep.data<bool>().ShouldBe([true, false, true, false]);
        Issp.SelectGroups(w, 1, 2, "w").data<bool>().ShouldBe([true, false, true, false]);
        Issp.Shrink(w, keep, 0.9);
        Issp.Shrink(w, Issp.Select(w, 0.5, "w"), 0.9);
        w.allclose(tensor([1f, -0.162f, 0.5f, 0.081f])).ShouldBeTrue();
        Issp.Adjust([6480, 10800, 32400], 19, 20).ShouldBe((2160, 19, 20));
        Issp.Adjust([108, 180], 3, 5).ShouldBe((36, 4, 6));
    }

    [Fact]
    public void Counts_are_exact_and_ties_go_from_the_front() => Gen.Select(Gen.Int[1, 400], Gen.Double[0.01, 1]).Sample((n, p) =>
    {
        using var scope = NewDisposeScope();
        long pruned = Math.Min((long)Math.Ceiling(p * n), (long)(0.995 * n));
        bool[] keep = [.. Issp.Select(zeros(n), p, "w").data<bool>()];
        keep.Count(k => !k).ShouldBe((int)pruned);
        keep.Take((int)pruned).ShouldAllBe(k => !k);
    });

    [Fact]
    public void A_training_ends_with_the_share_cut_and_leaves_no_tensor_behind()
    {
        using ImageTensors images = TinyImages.Corners(24);
        foreach (Issp method in (Issp[])[new() { Sparsity = 0.8 }, new() { Sparsity = 0.8, Ratio = 0 }, new() { Sparsity = 0.8, Sample = 100 }, new() { PrunedOf = "3:4", Skip = ["classifier.2"] }])
        {
            using VisionModel model = TinyVision.Make(TinyVision.Vgg);
            long before = Parameters.LiveTensors;
            TrainingResult result = new VisionTraining(Options) { Batch = 8, Sparse = method }.Run(model, images);
            foreach (WeightLayer layer in model.Weights.Where(w => !method.Skip.Contains(w.Name)))
            {
                using var scope = NewDisposeScope();
                long n = layer.Weight.numel(), zeros = n - layer.Weight.count_nonzero().item<long>();
                if (method.Sample is null)
                {
                    zeros.ShouldBe(method.PrunedOf is null ? Math.Min((long)Math.Ceiling(0.8 * n), (long)(0.995 * n)) : n * 3 / 4, layer.Name);
                }

                zeros.ShouldBeInRange((long)(0.5 * n), n - 1, layer.Name);
            }

            result.Sparse!.TrainingShare.ShouldBeInRange(0.3, 0.99);
            model.ClearGradients();
            Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
        }
    }

    [Fact]
    public void A_stopped_run_resumes_to_the_same_bytes()
    {
        using ImageTensors images = TinyImages.Corners(24);
        using VisionModel whole = TinyVision.Make(TinyVision.Vgg), part = TinyVision.Make(TinyVision.Vgg), fresh = TinyVision.Make(TinyVision.Vgg);
        using var folder = new TemporaryFolder();
        VisionTraining Training(string? state, CancelAt hook) => new(Options) { Batch = 8, Sparse = new Issp { Sparsity = 0.7, Sample = 100 }, StateFolder = state, Resume = true, Hooks = [hook] };
        using var cancellation = new CancellationTokenSource();
        Training(null, new CancelAt(-1)).Run(whole, images);
        Should.Throw<OperationCanceledException>(() => Training(folder.Path, new CancelAt(7, cancellation)).Run(part, images, cancellation: cancellation.Token));
        Training(folder.Path, new CancelAt(-1)).Run(fresh, images);
        foreach (((_, Tensor a), (_, Tensor b)) in whole.Tensors.Zip(fresh.Tensors))
        {
            a.detach().bytes.ToArray().ShouldBe(b.detach().bytes.ToArray());
        }
    }

    [Fact]
    public void Bicubic_keeps_constants_and_straight_lines_and_halves_as_matlab_does()
    {
        using var scope = NewDisposeScope();
        BicubicResize.Run(full([1, 1, 6, 9], 0.3), 3, 18).allclose(full([1, 1, 3, 18], 0.3)).ShouldBeTrue();
        Tensor line = arange(16, ScalarType.Float64).view(1, 1, 1, 16).expand(1, 1, 4, 16);
        BicubicResize.Run(line, 2, 8)[0, 0, 0].narrow(0, 2, 4).allclose(tensor([4.5, 6.5, 8.5, 10.5])).ShouldBeTrue();

        // imresize([0 0 0 0 1 0 0 0 0 0], 0.5): the kernel at half-pixel distances, halved.
        Tensor impulse = zeros([1, 1, 1, 10], ScalarType.Float64);
        impulse[0, 0, 0, 4] = 1;
        double K(double x) => Math.Abs(x) <= 1 ? (1.5 * Math.Pow(Math.Abs(x), 3)) - (2.5 * x * x) + 1 : (-0.5 * Math.Pow(Math.Abs(x), 3)) + (2.5 * x * x) - (4 * Math.Abs(x)) + 2;
        double[] halved = [.. BicubicResize.Run(impulse, 1, 5).data<double>()];
        halved[2].ShouldBe(K(0.25) / 2, 1e-9);
        halved[1].ShouldBe(K(0.75) / 2, 1e-9);
        Should.Throw<EspalierException>(() => BicubicResize.Run(impulse, 0, 5)).Message.ShouldContain("0×5");
    }

    [Fact]
    public void Super_resolution_learns_from_coarse_images()
    {
        using ImageTensors images = TinyImages.Corners(24);
        using VisionModel model = VisionModel.Random(VisionConfig.Parse("""{"model_type": "edsr", "features": 8, "blocks": 1, "scale": 2, "image_size": 4}"""), new Seed(1));
        TrainingResult result = new VisionTraining(Options with { Steps = 60, LearningRate = 5e-3 })
        {
            Batch = 8, Objective = (net, batches) => new SuperResolutionObjective(net, batches, 2),
        }.Run(model, images);
        result.Losses.TakeLast(5).Average().ShouldBeLessThan(0.7 * result.Losses[0]);
        using Tensor odd = zeros([1, 3, 5, 4]);
        Should.Throw<EspalierException>(() => SuperResolutionObjective.Coarse(odd, 2)).Message.ShouldContain("5×4");
    }

    [Fact]
    public void Equal_images_have_no_noise_and_luma_is_that_of_video()
    {
        using var scope = NewDisposeScope();
        Tensor white = ones([1, 3, 2, 2]);
        ImageQuality.Luma(white).mean().item<double>().ShouldBe(235, 1e-6);
        ImageQuality.Psnr(white, white).ShouldBe(double.PositiveInfinity);
        Should.Throw<EspalierException>(() => ImageQuality.Luma(ones([1, 1, 2, 2]))).Message.ShouldContain("[1, 1, 2, 2]");
    }

    [Fact]
    public void What_is_impossible_is_a_sentence()
    {
        using var scope = NewDisposeScope();
        Should.Throw<EspalierException>(() => new Issp { Sparsity = 0 }).Message.ShouldContain("sparsity is 0");
        Should.Throw<EspalierException>(() => new Issp { Ratio = 1.5 }).Message.ShouldContain("ratio is 1.5");
        Should.Throw<EspalierException>(() => new Issp { Stage = 0 }).Message.ShouldContain("stage is 0");
        Should.Throw<EspalierException>(() => new Issp { Sample = 5 }).Message.ShouldContain("at least 100");
        Should.Throw<EspalierException>(() => new Issp { PrunedOf = "20:19" }).Message.ShouldContain("19:20");
        Should.Throw<EspalierException>(() => Issp.SelectGroups(zeros(7), 1, 2, "w")).Message.ShouldContain("groups of 2");
        Should.Throw<EspalierException>(() => Issp.Adjust([10, 15], 4, 5)).Message.ShouldContain("not above the group size 5");
        Should.Throw<EspalierException>(() => Issp.ThresholdSelect(zeros(10), 1)).Message.ShouldContain("none to be the threshold");
        using VisionModel model = TinyVision.Make(TinyVision.Mlp);
        Should.Throw<EspalierException>(() => new Issp { Skip = ["fc"] }.Check(NetWeight.Of(model), 10)).Message.ShouldContain("skip");
    }

    private sealed class CancelAt(int step, CancellationTokenSource? cancellation = null) : ITrainingHook
    {
        public void AfterStep(TrainingStep current)
        {
            if (current.Index == step)
            {
                cancellation?.Cancel();
            }
        }
    }
}
