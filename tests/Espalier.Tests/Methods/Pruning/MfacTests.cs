using Espalier.Data;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using static TorchSharp.torch;
using Parameter = TorchSharp.Modules.Parameter;

namespace Espalier.Tests.Methods.Pruning;

public sealed class MfacTests
{
    [Theory]
    [InlineData(1e-5)]
    [InlineData(0.1)]
    public void Static_and_dynamic_products_are_those_of_the_explicit_inverse(double damping)
    {
        using var scope = NewDisposeScope();
        (Tensor gradients, Tensor x) = Draw(6, 9);
        Tensor inverse = linalg.inv((gradients.t().matmul(gradients) / 6) + (eye(9, dtype: ScalarType.Float64) * damping));
        using var fisher = new InverseFisher(gradients, damping);
        fisher.Multiply(x).allclose(inverse.mv(x), 1e-6, 1e-6).ShouldBeTrue();
        fisher.Diagonal().allclose(inverse.diagonal(), 1e-6, 1e-6).ShouldBeTrue();
        using var window = new InverseFisherWindow(6, 9, damping);
        window.Add(x);
        foreach (Tensor gradient in gradients.unbind())
        {
            window.Add(gradient);
        }

        window.Multiply(x).to(ScalarType.Float64).allclose(inverse.mv(x), 1e-3, 1e-3).ShouldBeTrue();
    }

    [Fact]
    public void Zero_gradients_divide_by_the_damping()
    {
        using var scope = NewDisposeScope();
        using var fisher = new InverseFisher(zeros([3, 4]), 0.5, blockSize: 3);
        fisher.Multiply(ones([4])).data<double>().ToArray().ShouldBe([2, 2, 2, 2]);
        fisher.Denominators.data<double>().ToArray().ShouldAllBe(d => d == 3);
    }

    [Fact]
    public void Kept_weights_move_and_pruned_ones_stay_zero()
    {
        using var scope = NewDisposeScope();
        (Tensor gradients, Tensor w) = Draw(5, 12);
        Tensor keep = ones([12], ScalarType.Bool);
        ObsStep first = Mfac.Step(w, keep, gradients, 0.25, 0.1, -1);
        first.Dropped.ShouldBe(3);
        ObsStep second = Mfac.Step(first.Weight, first.Keep, gradients, 0.5, 0.1, 5);
        second.Weight.ne(0).sum().item<long>().ShouldBe(6);
        second.Keep.logical_and(first.Keep.logical_not()).any().item<bool>().ShouldBeFalse();
        second.Score.masked_select(first.Keep.logical_not()).ne(0).any().item<bool>().ShouldBeFalse();
        first.Weight.masked_select(first.Keep).allclose(w.masked_select(first.Keep)).ShouldBeFalse();
        Mfac.Step(w, keep, gradients, 0.25, 0.1, -1, updateWeights: false).Weight.masked_select(first.Keep).allclose(w.masked_select(first.Keep)).ShouldBeTrue();
        Should.Throw<EspalierException>(() => Mfac.Step(first.Weight, first.Keep, gradients, 0.1, 0.1, -1)).Message.ShouldContain("higher sparsity");
        Should.Throw<EspalierException>(() => Mfac.Step(w, keep, gradients, 1, 0.1, -1)).Message.ShouldContain("leaves none");
    }

    [Fact]
    public void A_net_is_pruned_at_once_or_in_rounds_with_training()
    {
        using ImageTensors images = TinyVision.Noise();
        using VisionModel net = TinyVision.Make(TinyVision.ResNet);
        var mfac = new Mfac { Sparsity = 0.6, Gradients = 4, GradientBatch = 8, Recomputations = 2, BlockSize = 16 };
        long before = Parameters.LiveTensors;
        foreach (int rounds in new[] { 0, 2 })
        {
            using VisionMethodResult result = (mfac with { Rounds = rounds }).Run(
                new VisionMethodContext { Model = net, Images = images, Test = images, Options = new TrainingOptions { Steps = 4, LearningRate = 0.01 }, Batch = 8 });
            result.Sparsity.ShouldBe(0.6, 0.01);
            result.Masks.Keys.ShouldAllBe(n => n.Contains("conv"));
            result.Net.Weights.Where(w => result.Masks.ContainsKey(w.WeightName)).Sum(w => w.Weight.eq(0).sum().item<long>())
                .ShouldBe(result.Masks.Values.Sum(m => m.Count - m.Kept));
        }

        GC.Collect();
        GC.WaitForPendingFinalizers();
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before + net.Parameters.Count);
        Should.Throw<EspalierException>(() => (mfac with { Layers = ["nothing"] }).Check(net, new TrainingOptions())).Message.ShouldContain("nothing");
        Should.Throw<EspalierException>(() => (mfac with { Rounds = 9 }).Check(net, new TrainingOptions { Steps = 4 })).Message.ShouldContain("rounds");
        Should.Throw<EspalierException>(() => mfac with { Damping = 0 }).Message.ShouldContain("damping");
    }

    [Fact]
    public void The_optimizer_keeps_masks_resumes_to_the_same_bytes_and_refuses_what_is_not_finite()
    {
        using ImageTensors images = TinyVision.Noise();
        var options = new TrainingOptions { Steps = 12, LearningRate = 1e-3, Optimizer = "mfac", FisherGradients = 4, Damping = 1e-3, Momentum = 0.5, WeightDecay = 1e-3 };
        using VisionModel whole = TinyVision.Make(TinyVision.Vgg), parts = TinyVision.Make(TinyVision.Vgg);
        using var folder = new TemporaryFolder();
        var training = (int? stop, string? state) => new VisionTraining(options) { Batch = 8, StateFolder = state, Resume = state is not null, Hooks = stop is { } at ? [new Cancelling(at)] : [new Cancelling(-1)] };
        double[] losses = [.. training(null, null).Run(whole, images).Losses];
        using var source = new CancellationTokenSource();
        Cancelling.Source = source;
        Should.Throw<OperationCanceledException>(() => training(5, folder.Path).Run(parts, images, cancellation: source.Token));
        training(null, folder.Path).Run(parts, images).Losses.ShouldBe(losses);
        using var scope = NewDisposeScope();
        using var window = new InverseFisherWindow(2, 3, 0.1);
        Should.Throw<EspalierException>(() => window.Add(tensor([1.0, double.NaN, 0]))).Message.ShouldContain("NaN");
        using var w = new Parameter(tensor([0.0, 1.0, 2.0]));
        using var sparse = new MfacOptimizer([new OptimizedParameter("w", w)], 2, 0.1, sparse: true);
        (w * 3).sum().backward();
        sparse.Step(0.1);
        w.detach().data<double>().ToArray()[0].ShouldBe(0);
        w.detach().data<double>().ToArray()[1].ShouldNotBe(1);
    }

    private static (Tensor Gradients, Tensor X) Draw(long count, long length)
    {
        using Generator generator = new Seed(2).Generator("gradients");
        return (randn([count, length], ScalarType.Float64, generator: generator), randn([length], ScalarType.Float64, generator: generator));
    }

    private sealed class Cancelling(int step) : ITrainingHook
    {
        public static CancellationTokenSource? Source { get; set; }

        public void AfterStep(TrainingStep current)
        {
            if (current.Index == step)
            {
                Source!.Cancel();
            }
        }
    }
}
