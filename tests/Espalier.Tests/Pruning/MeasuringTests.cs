using Espalier.Checkpoints;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Pruning.Measuring;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models;
using static TorchSharp.torch;

namespace Espalier.Tests.Pruning;

/// <summary>What plans measure block by block is what the whole model in memory gives.</summary>
public sealed class MeasuringTests
{
    public static TheoryData<string> Families => TinyModels.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public void Gradients_of_one_block_at_a_time_are_those_of_the_whole_model(string family)
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, family, new Gblm(), Pattern.Unstructured(0.5));
        using LanguageModel whole = Whole(job);
        BlockLinear[] linears = [.. whole.Blocks.SelectMany(b => b.Linears)];
        IReadOnlyDictionary<string, Tensor> expected = Gblm.MeasureGradients([.. linears.Select(l => (l.Name, (Tensor)l.Linear.weight))], job.Calibration.Length, k => Loss(whole, job, k, 1));

        long live = Parameters.LiveTensors;
        Measured(job, folder, results =>
        {
            foreach (BlockLinear linear in linears)
            {
                Tensor norm = linear.Linear.Layout is WeightLayout.OutIn ? expected[linear.Name] : expected[linear.Name].t();
                Close(results.Read(linear.Name), norm, 1e-4);
            }
        }, job.Plan.Criterion);
        (Parameters.LiveTensors - live).ShouldBe(0, "parameters outlived the measurement");
    }

    [Theory]
    [InlineData(EcoflapScore.GradOnly)]
    [InlineData(EcoflapScore.GradMagAbs)]
    [InlineData(EcoflapScore.GradMagSquare)]
    public void Zeroth_order_scores_are_those_of_the_whole_model(EcoflapScore kind)
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        var part = new Ecoflap { Samples = 5, Batch = 2, Draws = 2, Epsilon = 0.05, Score = kind };
        PruningJob job = WithAllocator(folder, part);
        using LanguageModel whole = Whole(job);
        IReadOnlyDictionary<string, double> expected = Ecoflap.ScoreZerothOrder(
            [.. whole.Blocks.SelectMany(b => b.Linears).Select(l => (l.Name, (Tensor)l.Linear.weight))], 3, b => Loss(whole, job, b * 2, Math.Min(2, 5 - (b * 2))).item<float>(),
            job.Seed, new ZerothOrderOptions { Epsilon = 0.05, Draws = 2, Score = kind });
        Measured(job, folder, results =>
        {
            foreach ((string name, double score) in expected)
            {
                results.Number(name).ShouldBe(score, score * 1e-3, name);
            }
        }, part);
    }

    [Fact]
    public void First_order_scores_are_those_of_the_whole_model()
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        var part = new Ecoflap { Order = EcoflapOrder.First, Samples = 6, Batch = 3, Score = EcoflapScore.GradMagAbs };
        PruningJob job = WithAllocator(folder, part);
        using LanguageModel whole = Whole(job);
        Measured(job, folder, results =>
        {
            foreach (BlockLinear linear in whole.Blocks.SelectMany(b => b.Linears))
            {
                Tensor[] gradients = [.. new[] { 0, 3 }.Select(from => autograd.grad([Loss(whole, job, from, 3)], [linear.Linear.weight])[0])];
                double score = Ecoflap.FirstOrderImportance(linear.Linear.weight, gradients, EcoflapScore.GradMagAbs).sum(ScalarType.Float64).item<double>();
                results.Number(linear.Name).ShouldBe(score, score * 1e-4, linear.Name);
            }
        }, part);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Distortion_curves_are_those_of_the_whole_model(bool worstCase)
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        var part = new RdPrune { Levels = 4, Samples = 3, WorstCase = worstCase };
        PruningJob job = WithAllocator(folder, part);
        using LanguageModel whole = Whole(job);
        BlockLinear[] linears = [.. whole.Blocks.SelectMany(b => b.Linears)];
        IReadOnlyList<RdCurve> expected = RdPrune.MeasureCurves(
            [.. linears.Select(l => (l.Name, (Tensor)l.Linear.weight))], 4, _ => whole.Logits(Ids(job, 0, 3)), worstCase);
        var allocator = (RdPrune)part.With(MeasuredIn(job, folder, part));
        for (int i = 0; i < linears.Length; i++)
        {
            using Tensor measured = MeasuredIn(job, folder, part).Read(linears[i].Name);
            foreach ((float ours, float theirs) in measured.data<float>().Zip(expected[i].Distortion))
            {
                ours.ShouldBe(theirs, Math.Max(1e-6f, theirs * 1e-3f), linears[i].Name);
            }
        }

        AllocatedLayer[] layers = [.. linears.Select(l => new AllocatedLayer(l.Name, 0, l.Linear.OutFeatures, l.Linear.InFeatures))];
        IReadOnlyList<double> shares = allocator.Allocate(layers, 0.5);
        shares.Zip(layers, (s, l) => s * l.Count).Sum().ShouldBe(layers.Sum(l => l.Count) * 0.5, 1);
        shares.Distinct().Count().ShouldBeGreaterThan(1);
    }

    [Fact]
    public async Task An_interrupted_measurement_continues_and_ends_with_the_same_bytes()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, "llama", new Gblm(), Pattern.Unstructured(0.5)) with { Out = folder["whole"] };
        job = job with { Plan = job.Plan with { Allocator = new Ecoflap { Samples = 4, Batch = 2 } } };
        await Pruner.RunAsync(job, SilentProgress.Instance);

        PruningJob halves = job with { Out = folder["halves"] };
        using var stop = new CancellationTokenSource();
        await Should.ThrowAsync<OperationCanceledException>(() => Pruner.RunAsync(halves, new StopWhen(stop, "measuring the output"), stop.Token));
        string[] measured = Directory.GetFiles(Path.Combine(halves.Out, ".espalier-work"), "measured-gblm-*");
        measured.Length.ShouldBe(2);
        DateTime[] written = [.. measured.Select(File.GetLastWriteTimeUtc)];
        await Should.ThrowAsync<OperationCanceledException>(() => Pruner.RunAsync(halves, new StopWhen(stop, "measuring the output"), stop.Token));
        measured.Select(File.GetLastWriteTimeUtc).ShouldBe(written);
        await Pruner.RunAsync(halves, SilentProgress.Instance);
        File.ReadAllBytes(Path.Combine(halves.Out, "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(job.Out, "model.safetensors")));

        EspalierException other = await Should.ThrowAsync<EspalierException>(async () =>
        {
            using var again = new CancellationTokenSource();
            PruningJob third = job with { Out = folder["third"] };
            await Should.ThrowAsync<OperationCanceledException>(() => Pruner.RunAsync(third, new StopWhen(again, "measuring the output"), again.Token));
            await Pruner.RunAsync(third with { Plan = third.Plan with { Allocator = new Ecoflap { Samples = 3 } } }, SilentProgress.Instance);
        });
        other.Message.ShouldContain("another allocator");
    }

    [Fact]
    public async Task A_trial_of_a_measuring_plan_writes_nothing_and_needs_text()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = WithAllocator(folder, new RdPrune { Levels = 2 });
        Pruner.Preview(job).DecidedBy.ShouldBe("rdprune");
        (await Pruner.TryAsync(job, SilentProgress.Instance)).Count.ShouldBe(1);
        Directory.Exists(job.Out).ShouldBeFalse();
        Should.Throw<EspalierException>(() => Pruner.Preview(job with { Calibration = [] })).Message.ShouldContain("rdprune looks at the dense model");
    }

    private static PruningJob WithAllocator(TemporaryFolder folder, IAllocator allocator)
    {
        PruningJob job = PrunerTests.Job(folder, "llama", new Magnitude(), Pattern.Unstructured(0.5));
        return job with { Plan = job.Plan with { Allocator = allocator } };
    }

    private static LanguageModel Whole(PruningJob job)
    {
        using Checkpoint checkpoint = Checkpoint.Open(job.Folder);
        return LanguageModel.Load(ModelConfig.Load(job.Folder), checkpoint);
    }

    private static Tensor Ids(PruningJob job, int from, int count) => stack([.. job.Calibration.Skip(from).Take(count).Select(w => tensor(w))]);

    private static Tensor Loss(LanguageModel whole, PruningJob job, int from, int count)
    {
        Tensor ids = Ids(job, from, count), logits = whole.Logits(ids);
        long tokens = ids.shape[1] - 1;
        return nn.functional.cross_entropy(logits.narrow(1, 0, tokens).flatten(0, 1), ids.narrow(1, 1, tokens).flatten());
    }

    private static void Measured(PruningJob job, TemporaryFolder folder, Action<Measurements> check, object part)
    {
        using Measurements results = MeasuredIn(job, folder, part);
        using var scope = NewDisposeScope();
        check(results);
    }

    private static Measurements MeasuredIn(PruningJob job, TemporaryFolder folder, object part)
    {
        Directory.CreateDirectory(folder["work"]);
        using StreamedModel model = StreamedModel.Open(job.Folder);
        using MeasuredPlan plan = MeasuredPlan.Of(job, model, folder["work"], spills: true, SilentProgress.Instance, CancellationToken.None);
        plan.Plan.Measured.ShouldAllBe(p => p.IsMeasured);
        return new Measurements(folder["work"], PruningPlan.NameOf(part));
    }

    private static void Close(Tensor ours, Tensor theirs, double relative)
    {
        double largest = theirs.abs().max().item<float>();
        largest.ShouldBeGreaterThan(0);
        ((double)(ours - theirs).abs().max().item<float>()).ShouldBeLessThan(largest * relative);
    }

    /// <summary>Cancels when work of a name begins.</summary>
    private sealed class StopWhen(CancellationTokenSource source, string begins) : IProgressSink
    {
        public IProgressTask Begin(string name, long total, string unit)
        {
            if (name == begins)
            {
                source.Cancel();
            }

            return SilentProgress.Instance;
        }

        public void Say(string message)
        {
        }

        public void Warn(string message)
        {
        }

        public void Report(string reported, long step, double value)
        {
        }
    }
}
