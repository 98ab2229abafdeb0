using Espalier.Data;
using Espalier.Methods.Merging;
using Espalier.Methods.Pruning;
using Espalier.Methods.Quantization;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Training;

public sealed class TrainingStatesTests
{
    private static readonly TrainingOptions Options = new() { Steps = 6, LearningRate = 0.02, Optimizer = "sgd", Momentum = 0.9, WeightDecay = 1e-4, SaveEvery = 2, LogEvery = 1 };

    public static TheoryData<string, int> Methods => new() { { "sms", 3 }, { "sms", 15 }, { "sms", 23 }, { "mfac", 4 }, { "ofq", 4 }, { "ofq", 7 }, { "ftwt", 4 } };

    [Theory]
    [MemberData(nameof(Methods))]
    public void A_method_that_is_stopped_anywhere_ends_with_the_same_bytes(string name, int stop)
    {
        using var folder = new TemporaryFolder();
        using ImageTensors images = TinyVision.Noise();
        using VisionModel net = TinyVision.Make(TinyVision.ResNet);
        IVisionMethod method = name switch
        {
            "sms" => new Sms { Sparsity = 0.75, Phases = 2, Models = 2 },
            "mfac" => new Mfac { Sparsity = 0.5, Rounds = 2, Gradients = 8, Recomputations = 1 },
            "ofq" => new Ofq { Bits = 3, ActivationBits = 0, QkReparam = false, AnnealShare = 0.5 },
            _ => new Ftwt(),
        };
        using var source = new CancellationTokenSource();
        var whole = new StopAtStep(int.MaxValue, source);
        using VisionMethodResult undisturbed = method.Run(Context(net, images, null, whole), TestContext.Current.CancellationToken);

        var counting = new StopAtStep(stop, source);
        Should.Throw<OperationCanceledException>(() => method.Run(Context(net, images, folder.Path, counting), source.Token));
        TrainingStates.Any(folder.Path).ShouldBeTrue();
        var again = new StopAtStep(int.MaxValue, source);
        using VisionMethodResult resumed = method.Run(Context(net, images, folder.Path, again), TestContext.Current.CancellationToken);

        (counting.Steps + again.Steps).ShouldBe(whole.Steps);
        resumed.Figures.Where(f => !f.Name.EndsWith(", ms", StringComparison.Ordinal)).Except(undisturbed.Figures).ShouldBeEmpty();
        TinyVision.Bytes(resumed.Net).ShouldBe(TinyVision.Bytes(undisturbed.Net));
    }

    [Fact]
    public void States_of_another_run_are_refused()
    {
        using var folder = new TemporaryFolder();
        using ImageTensors images = TinyVision.Noise();
        using VisionModel net = TinyVision.Make(TinyVision.ResNet), other = net.Clone();
        using (no_grad())
        {
            other.Weights[0].Weight.mul_(1.5);
        }

        var sms = new Sms { Sparsity = 0.75, Phases = 1, Models = 2 };
        sms.Run(Context(net, images, folder.Path, SilentProgress.Instance), TestContext.Current.CancellationToken).Dispose();
        Should.Throw<EspalierException>(() => sms.Run(Context(other, images, folder.Path, SilentProgress.Instance))).Message.ShouldContain("belongs to another run");
        TrainingStates.Any(Path.Combine(folder.Path, "nothing")).ShouldBeFalse();
    }

    private static VisionMethodContext Context(VisionModel net, ImageTensors images, string? states, IProgressSink progress) => new()
    {
        Model = net, Images = images, Test = images, Options = Options, Batch = 8, Seed = new Seed(2), States = states is null ? null : new TrainingStates(states), Progress = progress,
    };

    /// <summary>Counts the steps of trainings and cancels after so many.</summary>
    private sealed class StopAtStep(int stop, CancellationTokenSource source) : IProgressSink
    {
        public int Steps { get; private set; }

        public IProgressTask Begin(string name, long total, string unit) => SilentProgress.Instance.Begin(name, total, unit);

        public void Say(string message)
        {
        }

        public void Warn(string message)
        {
        }

        public void Report(string metric, long step, double value)
        {
            if (metric == "loss" && ++Steps == stop)
            {
                source.Cancel();
            }
        }
    }
}
