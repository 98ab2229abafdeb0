using Espalier.Checkpoints;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Tests.Training;

public sealed class TrainingResumeTests
{
    private static readonly TrainingOptions Options = new()
    {
        Steps = 40,
        LearningRate = 0.03,
        WarmupSteps = 4,
        Accumulation = 2,
        ClipNorm = 1,
        WeightDecay = 0.01,
        SaveEvery = 10,
    };

    public static TheoryData<TrainingOptions> Optimizers =>
    [
        Options,
        Options with { Optimizer = "sgd", Momentum = 0.9, Schedule = "cosine" },
    ];

    [Theory(DisableDiscoveryEnumeration = true)]
    [MemberData(nameof(Optimizers))]
    public void A_crashed_run_resumes_to_the_same_bytes(TrainingOptions options)
    {
        using var whole = new Run(options);
        TrainingResult expected = whole.Loop().Run();
        using var crashed = new Run(options);
        Should.Throw<InvalidCastException>(() => crashed.Loop(crashAt: 27).Run());

        using var resumed = new Run(options, crashed.Folder);
        TrainingResult result = resumed.Loop().Resume();
        result.Losses.ShouldBe(expected.Losses);
        resumed.Net.Bytes().ShouldBe(whole.Net.Bytes());
        Tensors(resumed).ShouldBe(Tensors(whole));
        result.Seconds.ShouldBeGreaterThan(0);
    }

    [Fact]
    public void A_cancelled_run_saves_and_resumes_to_the_same_bytes()
    {
        using var whole = new Run(Options);
        whole.Loop().Run();
        using var cancelled = new Run(Options);
        using var cancellation = new CancellationTokenSource();
        Should.Throw<OperationCanceledException>(() => cancelled.Loop(step => { if (step.Index == 16) { cancellation.Cancel(); } }).Run(cancellation.Token));
        using (var state = SafeTensorsFile.Open(Path.Combine(cancelled.Folder, "state.safetensors")))
        {
            state.Metadata["step"].ShouldBe("17");
        }

        using var resumed = new Run(Options, cancelled.Folder);
        resumed.Loop().Resume();
        resumed.Net.Bytes().ShouldBe(whole.Net.Bytes());
    }

    [Fact]
    public void Chance_inside_the_objective_goes_on_as_well()
    {
        static Func<long, int, Tensor> Noisy(TinyNet net) => (k, m) => net.Loss(k, m) + (net.W1 * randn_like(net.W1)).mean();
        using Run whole = new(Options), crashed = new(Options);
        manual_seed(5);
        whole.Loop(objective: Noisy(whole.Net)).Run();
        manual_seed(5);
        Should.Throw<InvalidCastException>(() => crashed.Loop(crashAt: 13, objective: Noisy(crashed.Net)).Run());
        using var resumed = new Run(Options, crashed.Folder);
        manual_seed(77);
        resumed.Loop(objective: Noisy(resumed.Net)).Resume();
        resumed.Net.Bytes().ShouldBe(whole.Net.Bytes());
    }

    [Fact]
    public void A_finished_run_resumes_to_its_result_and_a_stopped_one_stays_stopped()
    {
        using var stopped = new Run(Options);
        stopped.Loop(step => { if (step.Index == 12) { step.Stop(); } }).Run().Steps.ShouldBe(13);
        byte[] bytes = stopped.Net.Bytes();
        using var again = new Run(Options, stopped.Folder);
        TrainingResult result = again.Loop().Resume();
        (result.Steps, result.StoppedEarly).ShouldBe((13, true));
        again.Net.Bytes().ShouldBe(bytes);
    }

    [Fact]
    public void Another_run_is_refused_with_what_differs()
    {
        using var first = new Run(Options);
        first.Loop().Run();
        Refusal(new Run(Options with { LearningRate = 0.02 }, first.Folder)).ShouldContain("the learning rate was 0.03 and is now 0.02");
        Refusal(new Run(Options with { Optimizer = "sgd" }, first.Folder)).ShouldContain("the optimizer was adamw beta1=0.9");
        Refusal(new Run(Options, first.Folder) { Masked = false }).ShouldContain("the mask of w1 was");
        Refusal(new Run(Options, first.Folder) { Parameters = 2 }).ShouldContain("parameter");
        Refusal(new Run(Options, first.Folder) { Data = "other text" }).ShouldContain("what is trained on was numbers and is now other text");

        static string Refusal(Run run)
        {
            using (run)
            {
                TrainingLoop loop = run.Loop();
                byte[] before = run.Net.Bytes();
                string message = Should.Throw<EspalierException>(() => loop.Resume()).Message;
                run.Net.Bytes().ShouldBe(before);
                return message;
            }
        }
    }

    [Fact]
    public void Without_a_state_there_is_nothing_to_resume()
    {
        using var run = new Run(Options);
        Should.Throw<EspalierException>(() => run.Loop().Resume()).Message.ShouldContain("There is no training to resume");
        TrainingLoop.HasState(run.Folder).ShouldBeFalse();
        using var homeless = new TrainingLoop(Options, run.Net.Trainable, run.Net.Loss);
        Should.Throw<EspalierException>(() => homeless.Resume()).Message.ShouldContain("state folder");
    }

    [Fact]
    public void A_failure_names_the_last_state_on_disk()
    {
        using var run = new Run(Options);
        string message = Should.Throw<EspalierException>(() => run.Loop(objective: (k, m) => run.Net.Loss(k, m) * (k == 34 ? float.PositiveInfinity : 1)).Run()).Message;
        message.ShouldContain("at step 34 of 40");
        message.ShouldContain($"that of step 30 in {run.Folder}");
        run.Net.Bytes().Length.ShouldBeGreaterThan(0);
    }

    private static Dictionary<string, string> Tensors(Run run)
    {
        using var file = SafeTensorsFile.Open(Path.Combine(run.Folder, "state.safetensors"));
        file.Names.ShouldContain("hook.average.w1");
        file.Names.ShouldContain("mask.w1");
        return file.Names.ToDictionary(name => name, name => Convert.ToHexString(file.Bytes(name)));
    }

    /// <summary>A net, its folder and the loops over it.</summary>
    private sealed class Run(TrainingOptions options, string? folder = null) : IDisposable
    {
        private readonly TemporaryFolder _own = new();
        private readonly List<IDisposable> _made = [];

        public TinyNet Net { get; } = new();

        public string Folder => folder ?? _own.Path;

        public bool Masked { get; init; } = true;

        public int Parameters { get; init; } = 3;

        public string Data { get; init; } = "numbers";

        public TrainingLoop Loop(Action<TrainingStep>? afterStep = null, int crashAt = -1, Func<long, int, Tensor>? objective = null)
        {
            Tensor keep = Net.PruneFirst();
            var average = new AverageHook(Net.W1, step =>
            {
                afterStep?.Invoke(step);
                if (step.Index == crashAt)
                {
                    throw new InvalidCastException("a power cut");
                }
            });
            var loop = new TrainingLoop(options, [.. Net.Trainable.Take(Parameters)], objective ?? Net.Loss)
            {
                StateFolder = Folder,
                Masks = Masked ? new Dictionary<string, Tensor> { ["w1"] = keep } : null,
                Hooks = [average],
                Identity = Data,
                Groups = name => new ParameterGroup(name == "bias" ? 2 : 1, name == "bias" ? 0 : 1),
            };
            _made.AddRange([keep, average, loop]);
            return loop;
        }

        public void Dispose()
        {
            _made.ForEach(made => made.Dispose());
            Net.Dispose();
            _own.Dispose();
        }
    }

    /// <summary>A hook with a state: the running mean of a weight, which also pulls the weight a little.</summary>
    private sealed class AverageHook(Tensor weight, Action<TrainingStep> then) : ITrainingHook, IDisposable
    {
        private readonly Tensor _mean = zeros_like(weight, requires_grad: false).DetachFromDisposeScope();

        public string Name => "average";

        public void AfterStep(TrainingStep step)
        {
            _mean.mul_(0.9).add_(weight, 0.1);
            weight.mul_(0.99).add_(_mean, 0.01);
            then(step);
        }

        public IReadOnlyList<(string Name, Tensor Value)> SaveState() => [("w1", _mean)];

        public void LoadState(IReadOnlyDictionary<string, Tensor> state) => _mean.copy_(state["w1"]);

        public void Dispose() => _mean.Dispose();
    }
}
