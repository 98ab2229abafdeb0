using Espalier.Data;
using Espalier.Methods.Pruning;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using Espalier.Training;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class GranetTests
{
    [Fact]
    public void The_reference_cases_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "granet")).Lines).ShouldBe("granet: 15/15");

    [Fact]
    public void The_worked_example_of_the_card()
    {
        using var scope = NewDisposeScope();
        Tensor w = tensor([0.5f, -0.1f, 0.3f, -0.05f]);
        Tensor keep = Granet.GradualPrune([w], 0.5).Single();
        keep.data<bool>().ToArray().ShouldBe([true, false, false, false]);
        (Tensor grown, long count) = Granet.Regenerate(w * keep, keep, tensor([0.2f, 0.9f, -1.0f, 0.1f]), 0.5);
        grown.data<bool>().ToArray().ShouldBe([false, false, true, false]);
        count.ShouldBe(1);

        var schedule = new GranetSchedule(0.5, 0.1, 0, 200, 20);
        schedule.End.ShouldBe(10);
        Enumerable.Range(1, 300).Where(s => schedule.Changes(s) && schedule.PruneRate(s) is not null).ShouldBe(Enumerable.Range(1, 9).Select(c => 20 * c));
        schedule.PruneRate(100)!.Value.ShouldBe(0.5 + (0.4 * (1 - 0.125)), 1e-12);
        schedule.PruneRate(180)!.Value.ShouldBe(1 - 0.1 - (0.4 / 1000), 1e-12);
        (schedule with { ExactFinal = true }).PruneRate(180).ShouldBe(0.9);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void Regeneration_keeps_the_number_of_weights_and_pruning_never_revives(long seed)
    {
        using var scope = NewDisposeScope();
        using Generator generator = new Seed(seed).Generator("weights");
        Tensor keep = rand([7, 9], generator: generator).lt(0.4), w = randn([7, 9], generator: generator) * keep, g = randn([7, 9], generator: generator);
        foreach (double rho in (double[])[0, 0.1, 0.5, 1])
        {
            (Tensor next, long grown) = Granet.Regenerate(w, keep, g, rho);
            next.sum().item<long>().ShouldBe(keep.sum().item<long>());
            grown.ShouldBe((long)Math.Ceiling(rho * keep.sum().item<long>()));
        }

        foreach (double rate in (double[])[0.1, 0.7, 0.95])
        {
            Granet.GradualPrune([w], rate).Single().logical_and(keep.logical_not()).any().item<bool>().ShouldBeFalse();
        }
    }

    [Fact]
    public void Erk_shares_out_the_density_and_a_full_one_is_dense()
    {
        long[][] shapes = [[8, 3, 3, 3], [32, 16, 3, 3], [10, 32]];
        IReadOnlyList<double> densities = Granet.ErkDensities(shapes, 0.3);
        double[] counts = [.. shapes.Select(s => (double)s.Aggregate((a, b) => a * b))];
        densities.Zip(counts, (d, n) => d * n).Sum().ShouldBe(0.3 * counts.Sum(), 1e-6);
        densities.ShouldAllBe(d => d > 0 && d <= 1);
        Granet.ErkDensities(shapes, 1).ShouldBe([1, 1, 1], 1e-12);
    }

    [Fact]
    public void Training_follows_the_schedule_and_a_weight_that_comes_back_starts_at_zero()
    {
        using var scope = NewDisposeScope();
        using ImageTensors images = new("noise", (rand(32, 1, 8, 8) * 255).to(ScalarType.Byte), tensor([.. Enumerable.Range(0, 32).Select(i => (long)(i % 3))]));
        using VisionModel net = TinyVision.Make(TinyVision.Mlp);
        var method = new Granet { Sparsity = 0.8, InitialSparsity = 0, UpdateEvery = 4, Until = 1, ExactFinal = true };
        var watch = new Watch(net, 4);
        var options = new TrainingOptions { Steps = 24, LearningRate = 0.05, Optimizer = "sgd", Momentum = 0.9 };
        TrainingResult result = new VisionTraining(options) { Batch = 8, Sparse = method, Hooks = [watch] }.Run(net, images);
        watch.Densities.Zip(watch.Densities.Skip(1)).ShouldAllBe(p => p.Second <= p.First);
        watch.Grown.ShouldBeGreaterThan(0);
        watch.NotZero.ShouldBe(0);
        result.Sparse!.Sparsity.ShouldBeInRange(0.8, 0.83);
        result.Sparse.TrainingShare.ShouldBeInRange(0.3, 0.9);
    }

    [Fact]
    public void Bad_options_get_a_sentence()
    {
        using VisionModel net = TinyVision.Make(TinyVision.Mlp);
        IReadOnlyList<NetWeight> weights = NetWeight.Of(net);
        Sentence(() => new Granet { Sparsity = 1 }).ShouldContain("sparsity");
        Sentence(() => new Granet { UpdateEvery = 0 }).ShouldContain("at least 1");
        Sentence(() => new Granet { Sparsity = 0.3 }.Check(weights, 1000)).ShouldContain("initial_sparsity");
        Sentence(() => new Granet { UpdateEvery = 100 }.Check(weights, 120)).ShouldContain("no change of the masks");
        Sentence(() => new Granet { Variant = GranetVariant.RigL, UpdateEvery = 100 }.Check(weights, 90)).ShouldContain("never change");
        Sentence(() => new Granet { Sparsity = 0.9999 }.Check(weights, 1000)).ShouldContain("none would be left");
    }

    private static string Sentence(Action act) => Should.Throw<EspalierException>(act).Message;

    private sealed class Watch(VisionModel net, int every) : ITrainingHook
    {
        private Dictionary<string, Tensor> _before = [];

        public List<double> Densities { get; } = [];

        public long Grown { get; private set; }

        public long NotZero { get; private set; }

        public void BeforeStep(TrainingStep step) =>
            _before = net.Weights.ToDictionary(w => w.WeightName, w => step.Loop.KeepMask(w.WeightName)!.DetachFromDisposeScope());

        public void AfterStep(TrainingStep step)
        {
            foreach (WeightLayer layer in net.Weights)
            {
                Tensor now = step.Loop.KeepMask(layer.WeightName)!, came = now.logical_and(_before[layer.WeightName].logical_not());
                Grown += came.sum().item<long>();
                NotZero += layer.Weight.masked_select(came).ne(0).sum().item<long>();
                _before[layer.WeightName].Dispose();
            }

            if ((step.Index + 1) % every == 0)
            {
                Densities.Add(net.Weights.Sum(w => step.Loop.KeepMask(w.WeightName)!.sum().item<long>()));
            }
        }
    }
}
