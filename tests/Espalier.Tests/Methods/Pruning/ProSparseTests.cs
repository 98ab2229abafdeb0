using CsCheck;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Runtime;
using Espalier.Tests.Models;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class ProSparseTests
{
    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "prosparse")).Lines).ShouldBe("prosparse: 9/9");

    [Fact]
    public void The_schedule_never_falls_and_moves_gently_at_the_ends_of_a_stage() => Gen.Select(
        Gen.Double[0, 1].Array[1, 5].Select(p => p.Order().ToArray()), Gen.Long[1, 200].Array[5], Gen.Int[0, 50]).Sample((peaks, lengths, start) =>
    {
        long[] ends = [.. lengths.Take(peaks.Length).Select((_, i) => start + lengths.Take(i + 1).Sum())];
        var schedule = new ActivationPenaltySchedule(peaks, ends, start);
        double[] factor = [.. Enumerable.Range(0, (int)ends[^1] + 5).Select(t => schedule.Factor(t))];
        factor.Take(start + 1).ShouldAllBe(f => f == 0);
        factor.Skip(start + 1).Zip(factor.Skip(start + 2)).ShouldAllBe(f => f.First <= f.Second + 1e-12);
        for (int i = 0; i < ends.Length; i++)
        {
            factor[ends[i]].ShouldBe(peaks[i], 1e-9);

            // One step away from a stage's end the sine has moved by (π/2n)² at most.
            double length = lengths[i], gentle = i == 0 ? 1e-9 : (peaks[i] - peaks[i - 1]) * Math.Pow(Math.PI / (2 * length), 2) + 1e-9;
            (factor[ends[i]] - (ends[i] - 1 > start ? factor[ends[i] - 1] : factor[ends[i]])).ShouldBeLessThanOrEqualTo(gentle);
        }
    });

    [Fact]
    public void Equal_peaks_hold_and_the_small_schedule_reaches_its_peak()
    {
        var schedule = new ActivationPenaltySchedule([0.1, 0.5, 0.5], [10, 20, 40], 0);
        Enumerable.Range(20, 30).ShouldAllBe(t => Math.Abs(schedule.Factor(t) - 0.5) < 1e-12);
        ActivationPenaltySchedule small = new ProSparse { Peak = 0.4, Stages = PenaltyStages.Small }.Schedule(100, 40);
        small.Factor(20).ShouldBe(0);
        small.Factor(21).ShouldBe(small.Peaks[0]);
        small.Factor(55).ShouldBe(0.1, 1e-12);
        small.Factor(85).ShouldBe(0.4, 1e-12);
    }

    [Fact]
    public void A_growing_threshold_never_lowers_sparsity_and_none_is_ReLU()
    {
        using var scope = NewDisposeScope();
        Tensor z = Random(1, 40, 30);
        z[0, 0] = 0;
        ProSparse.Activate(z, FeedForwardActivation.FatRelu).eq(z.relu()).all().item<bool>().ShouldBeTrue();
        double[] sparsity = [.. ((double[])[0, 0.1, 0.5, 2]).Select(t => ProSparse.ActivationSparsity(ProSparse.Activate(z, FeedForwardActivation.FatRelu, t)))];
        sparsity.ShouldBe(sparsity.Order());
        ProSparse.Activate(z, FeedForwardActivation.FatRelu, 0.5).max().item<float>().ShouldBe(z.max().item<float>());
    }

    [Theory]
    [InlineData(FeedForwardActivation.Relu, 0)]
    [InlineData(FeedForwardActivation.FatRelu, 0)]
    [InlineData(FeedForwardActivation.FatRelu, 0.8)]
    public void Active_neurons_alone_give_the_dense_result(FeedForwardActivation activation, double threshold)
    {
        using var scope = NewDisposeScope();
        Tensor Ws = Random(1, 12, 6), W1 = Random(2, 12, 6), W2 = Random(3, 6, 12), X = Random(4, 9, 6);
        X[3] = 0; // no neuron is active
        Tensor opposite = nn.functional.linear(X, Ws);
        (Tensor y, Tensor x1) = ProSparse.FeedForward(X, Ws, W1, W2, activation, threshold);
        using var sparse = new SparseFeedForward(Ws, W1, W2, activation, threshold);
        sparse.Forward(X).allclose(y, 1e-5, 1e-5).ShouldBeTrue();
        y[3].eq(0).all().item<bool>().ShouldBeTrue();
        ProSparse.ActivationSparsity(x1).ShouldBeGreaterThanOrEqualTo(ProSparse.ActivationSparsity(ProSparse.Activate(opposite, activation, threshold)));
        (long dense, long less) = sparse.MultiplyAdds(X);
        less.ShouldBeLessThan(dense);

        Tensor positive = Ws.abs(); // all neurons are active
        using var full = new SparseFeedForward(positive, W1, W2);
        full.Forward(X.abs() + 1).allclose(ProSparse.FeedForward(X.abs() + 1, positive, W1, W2, FeedForwardActivation.Relu).Y, 1e-4, 1e-4).ShouldBeTrue();
    }

    [Fact]
    public void Nine_tenths_of_the_neurons_silent_halve_the_multiplications()
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor Ws = Random(1, 1536, 512), W1 = Random(2, 1536, 512), W2 = Random(3, 512, 1536), x = Random(4, 1, 512);
        Tensor z = nn.functional.linear(x, Ws);
        double t = z.flatten().kthvalue(1382, 0, false).values.item<float>();
        using var sparse = new SparseFeedForward(Ws, W1, W2, FeedForwardActivation.FatRelu, t);
        (long dense, long less) = sparse.MultiplyAdds(x);
        ((double)dense / less).ShouldBeGreaterThan(2);
        sparse.Forward(x).allclose(ProSparse.FeedForward(x, Ws, W1, W2, FeedForwardActivation.FatRelu, t).Y, 1e-3, 1e-2).ShouldBeTrue();
    }

    [Fact]
    public void The_penalty_does_not_reach_closed_gates()
    {
        using var scope = NewDisposeScope();
        Tensor Ws = Random(1, 8, 5).requires_grad_(true), W1 = Random(2, 8, 5), W2 = Random(3, 5, 8), X = Random(4, 1, 5);
        (_, Tensor x1) = ProSparse.FeedForward(X, Ws, W1, W2, FeedForwardActivation.Relu);
        Tensor g = autograd.grad([ProSparse.ActivationL1(x1)], [Ws])[0];
        Tensor closed = x1[0].eq(0);
        g.index_select(0, closed.nonzero().reshape(-1)).eq(0).all().item<bool>().ShouldBeTrue();
        g.abs().sum().item<float>().ShouldBeGreaterThan(0);
        Tensor two = stack([tensor([1f, -2f]), tensor([5f, 5f])]);
        ProSparse.ActivationL1(two, tensor([true, false])).item<float>().ShouldBe(3);
        ProSparse.DeadNeurons(tensor(new float[,] { { 1, 0 }, { 2, 0 } })).ShouldBe(1);
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("opt")]
    public void A_language_model_is_substituted_watched_penalised_and_shifted(string family)
    {
        using var scope = NewDisposeScope();
        ModelConfig config = ProSparse.Substitute(TinyModels.Config(family));
        using LanguageModel model = TinyModels.Create(config);
        using Generator generator = new Seed(2).Generator("ids");
        Tensor ids = randint(0, 37, [2, 8], generator: generator);
        IReadOnlyList<ActivationTap> taps = ProSparse.Watch(model.Blocks);
        Tensor first = model.Blocks[0].Linears[^2].Linear.weight;
        first.requires_grad_(true);
        Tensor loss = model.Logits(ids).square().mean();
        Tensor total = ProSparse.PenalisedLoss(loss, taps, 0.5);
        total.item<float>().ShouldBeGreaterThan(loss.item<float>());
        total.backward();
        first.grad!.abs().sum().item<float>().ShouldBeGreaterThan(0);
        double before = taps.Average(t => t.Sparsity);
        before.ShouldBeInRange(0.2, 0.8);
        taps[0].DeadNeurons.ShouldBeInRange(0, 39);
        Should.Throw<EspalierException>(() => taps[0].Take());

        foreach (ActivationTap tap in taps)
        {
            tap.Reset();
        }

        ProSparse.ApplyThreshold(model, 0.5);
        using (no_grad())
        {
            model.Logits(ids).isfinite().all().item<bool>().ShouldBeTrue();
        }

        taps.Average(t => t.Sparsity).ShouldBeGreaterThan(before);
        foreach (ActivationTap tap in taps)
        {
            tap.Dispose();
        }

        model.Blocks.SelectMany(b => b.Linears).ShouldAllBe(l => l.Linear.InputObserver == null);
    }

    [Fact]
    public void Bad_input_is_named()
    {
        using var scope = NewDisposeScope();
        Sentence(() => new ActivationPenaltySchedule([0.2, 0.1], [5, 9], 0)).ShouldContain("0.2, 0.1");
        Sentence(() => new ActivationPenaltySchedule([0.1, 0.2], [5, 5], 0)).ShouldContain("5, 5");
        Sentence(() => new ActivationPenaltySchedule([0.1], [5], 5)).ShouldContain("substitution");
        Sentence(() => new ActivationPenaltySchedule([], [], 0)).ShouldContain("one stage");
        Sentence(() => ProSparse.Activate(ones(2), FeedForwardActivation.FatRelu, -1)).ShouldContain("threshold");
        Sentence(() => new SparseFeedForward(ones(4, 2), ones(4, 2), ones(2, 4), FeedForwardActivation.Silu)).ShouldContain("SiLU");
        Sentence(() => ProSparse.FeedForward(ones(1, 2), ones(4, 2), ones(4, 2), ones(2, 5), FeedForwardActivation.Relu)).ShouldContain("[2, 5]");
        Sentence(() => new ProSparse { Peak = 0 }).ShouldContain("penalty");
        using LanguageModel silu = TinyModels.Create("llama");
        Should.Throw<EspalierException>(() => ProSparse.ApplyThreshold(silu, 0.1)).Message.ShouldContain("silu");
    }

    private static string Sentence(Func<object> act) => Should.Throw<EspalierException>(() => { act(); }).Message;

    private static Tensor Random(int seed, params long[] shape)
    {
        using Generator generator = new Seed(seed).Generator("test");
        return randn(shape, generator: generator);
    }
}
