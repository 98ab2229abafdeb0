using CsCheck;
using Espalier.Catalogue;
using Espalier.Methods.Pruning;
using Espalier.Runtime;
using Espalier.Verification;
using TorchSharp;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning;

public sealed class MinitronTests
{
    private static readonly MinitronSpace Space = new()
    {
        Layers = [2, 4], Heads = [4, 8], FeedForward = [128, 256], Embedding = [64, 128], Vocabulary = 1000, HeadDim = 16, Tied = true,
    };

    [Fact]
    public void Reference_vectors_pass() =>
        string.Join("\n", ParityVerifier.Run(Path.Combine(TestPaths.Repository, "tests", "parity", "minitron")).Lines).ShouldBe("minitron: 18/18");

    [Fact]
    public void Importance_collected_in_batches_is_that_of_the_whole()
    {
        using var scope = NewDisposeScope();
        Tensor acts = Random(1, 1, 6, 5, 7);
        foreach (MinitronAggregation batch in Enum.GetValues<MinitronAggregation>())
        {
            foreach (MinitronAggregation sequence in Enum.GetValues<MinitronAggregation>())
            {
                using var collected = new Minitron { BatchAggregation = batch, SequenceAggregation = sequence }.Accumulate();
                collected.Observe(acts[0][..2]);
                collected.Observe(acts[0][2..]);
                collected.Samples.ShouldBe(6);
                Close(collected.Score(), Minitron.WidthImportance(acts, batch, sequence).Score, 1e-5f);
            }
        }
    }

    [Fact]
    public void Channels_of_equal_importance_stay_in_order()
    {
        using var scope = NewDisposeScope();
        Tensor acts = ones(2, 3, 4, 9);
        acts[.., .., .., 5] = 0;
        Minitron.WidthImportance(acts).Ranking.data<long>().ToArray().ShouldBe([0, 1, 2, 3, 4, 6, 7, 8, 5]);
        Tensor heads = ones(2, 3, 12);
        Minitron.HeadImportance(heads, 6, 2, 2).OrderWithinGroup.data<long>().ToArray().ShouldBe([0, 1, 2, 3, 4, 5]);
    }

    [Fact]
    public void Permuted_channels_permute_the_scores()
    {
        using var scope = NewDisposeScope();
        Tensor acts = Random(2, 2, 3, 4, 6), order = tensor(new long[] { 4, 0, 5, 2, 1, 3 });
        Close(Minitron.WidthImportance(acts.index_select(3, order)).Score, Minitron.WidthImportance(acts).Score.index_select(0, order), 1e-6f);
    }

    [Fact]
    public void Heads_are_ranked_within_their_group()
    {
        using var scope = NewDisposeScope();
        Tensor size = tensor(new[] { 1f, 3, 2, 9, 8, 7 }).repeat_interleave(4);
        HeadRanking found = Minitron.HeadImportance(ones(2, 5, 24) * size, 6, 2, 4);
        found.OrderWithinGroup.data<long>().ToArray().ShouldBe([1, 2, 0, 3, 4, 5]);
        found.GroupScore[1].item<float>().ShouldBeGreaterThan(found.GroupScore[0].item<float>());
    }

    [Fact]
    public void A_block_that_does_nothing_has_no_importance_and_one_that_turns_has_most()
    {
        using var scope = NewDisposeScope();
        Tensor x = Random(3, 2, 4, 8);
        Minitron.BlockImportance(x, x * 3).ShouldBe(0, 1e-6);
        Minitron.BlockImportance(x, -x).ShouldBe(2, 1e-6);
        Minitron.BlockImportance(zeros(1, 2, 4), x[..1, ..2, ..4]).ShouldBe(1, 1e-9);
        Minitron.LayersToDrop([0.4, 0.1, 0.3, 0.1, 0.2], 3).ShouldBe([1, 3, 4]);
    }

    [Fact]
    public void The_head_residual_pairs_the_worst_kept_with_the_best_removed()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(4, 6, 2, 3);
        Tensor residual = Minitron.HeadResidual(W, 4);
        Close(residual[..2], W[..2], 0);                      // partners 8 and 7 do not exist
        Close(residual[2], W[2] * 2 - W[5], 1e-6f);
        Close(residual[3], W[3] * 2 - W[4], 1e-6f);
        Close(Minitron.HeadResidual(W, 6), W, 0);
    }

    [Fact]
    public void With_more_than_half_of_the_heads_gone_there_is_no_residual_but_a_warning()
    {
        using var scope = NewDisposeScope();
        Tensor W = Random(5, 7, 2, 3);
        var log = new WarningLog(SilentProgress.Instance);
        Close(Minitron.HeadResidual(W, 3, log), W[..3], 0);
        log.Warnings.Single().ShouldContain("7 heads");
    }

    [Fact]
    public void Equal_predictions_cost_nothing_and_others_cost_something() =>
        Gen.Select(Gen.Int[1, 1000], Gen.Enum<LogitDistance>(), Gen.Double[0.5, 4]).Sample((seed, distance, tau) =>
        {
            using var scope = NewDisposeScope();
            Tensor a = Random(seed, 2, 3, 7), b = Random(seed + 5000, 2, 3, 7);
            Minitron.LogitLoss(a, a + 3, tau, distance).item<float>().ShouldBe(0, 1e-5f);
            Minitron.LogitLoss(a, b, tau, distance).item<float>().ShouldBeGreaterThan(0);
        }, iter: 40, threads: 1);

    [Fact]
    public void Alpha_balances_the_parts_and_carries_no_gradient()
    {
        using var scope = NewDisposeScope();
        Tensor student = Random(6, 2, 3, 5).requires_grad_(true), h = Random(7, 2, 3, 4).requires_grad_(true), P = Random(8, 6, 4);
        var pair = new HiddenPair(h, Random(9, 2, 3, 6), P);
        MinitronLoss total = Minitron.TotalLoss(student, Random(10, 2, 3, 5), pair);
        total.Loss.item<float>().ShouldBe(2 * total.Logits.item<float>(), 1e-5f);
        total.CrossEntropy.ShouldBeNull();
        total.Loss.backward();
        Tensor expected = autograd.grad([Minitron.LogitLoss(student, Random(10, 2, 3, 5))], [student])[0];
        Close(student.grad!, expected, 1e-6f);
    }

    [Fact]
    public void Matching_hidden_states_have_alpha_0()
    {
        using var scope = NewDisposeScope();
        Tensor h = Random(11, 2, 3, 4);
        Tensor student = Random(12, 2, 3, 5).requires_grad_(true);
        MinitronLoss total = new Minitron().Loss(student, Random(13, 2, 3, 5), new HiddenPair(h, h, eye(4)));
        total.Alpha.item<float>().ShouldBe(0);
        total.Loss.item<float>().ShouldBe(total.Logits.item<float>());
        total.Loss.backward();
        student.grad!.isfinite().all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Cross_entropy_is_reported_and_added_only_where_asked()
    {
        using var scope = NewDisposeScope();
        Tensor student = Random(14, 2, 3, 5), teacher = Random(15, 2, 3, 5), labels = zeros([2, 3], ScalarType.Int64);
        MinitronLoss without = Minitron.TotalLoss(student, teacher, labels: labels), with = new Minitron { UseCrossEntropy = true }.Loss(student, teacher, labels: labels);
        without.Loss.item<float>().ShouldBe(without.Logits.item<float>());
        (with.Loss - without.Loss).item<float>().ShouldBe(without.CrossEntropy!.item<float>(), 1e-5f);
    }

    [Fact]
    public void Every_candidate_is_near_the_target_and_none_is_missed()
    {
        long target = Space.Parameters(4, 8, 256, 64);
        IReadOnlyList<MinitronCandidate> found = Minitron.Enumerate(Space, target, 0.2);
        found.ShouldContain(c => c.Parameters == target);
        found.ShouldAllBe(c => Math.Abs(c.Parameters - target) <= 0.2 * target);
        Minitron.Enumerate(Space, target, 1e6).Count.ShouldBe(16);
        Minitron.Enumerate(Space, 1, 0).ShouldBeEmpty();
    }

    [Fact]
    public void No_candidate_at_all_names_the_nearest() =>
        Should.Throw<EspalierException>(() => new Minitron().Candidates(Space, 10_000_000)).Message.ShouldContain("4 layers × 8 heads × 256 neurons × 128 channels");

    [Fact]
    public void Sizes_shrink_in_equal_steps_to_allowed_widths()
    {
        Minitron.SizesByRound(512, 256, 4).ShouldBe([448, 384, 320, 256]);
        new Minitron().RoundWidth(150).ShouldBe(128);
        new Minitron().RoundWidth(160).ShouldBe(192);
        new Minitron { Divisor = 8 }.RoundWidth(1).ShouldBe(8);
    }

    [Fact]
    public void Bad_input_gets_a_sentence()
    {
        using var scope = NewDisposeScope();
        Tensor x = Random(16, 2, 3, 8);
        Should.Throw<EspalierException>(() => Minitron.WidthImportance(x)).Message.ShouldContain("[layers, batch, tokens, channels]");
        Should.Throw<EspalierException>(() => Minitron.WidthImportance(x.unsqueeze(0) * float.NaN));
        Should.Throw<EspalierException>(() => Minitron.HeadImportance(x, 3, 1, 3));
        Should.Throw<EspalierException>(() => Minitron.HeadImportance(x, 4, 3, 2)).Message.ShouldContain("groups");
        Should.Throw<EspalierException>(() => Minitron.BlockImportance(x, x[..1]));
        Should.Throw<EspalierException>(() => Minitron.LayersToDrop([0.1, 0.2], 2));
        Should.Throw<EspalierException>(() => Minitron.HeadResidual(x, 3));
        Should.Throw<EspalierException>(() => Minitron.LogitLoss(x, x, 0));
        Should.Throw<EspalierException>(() => Minitron.LogitLoss(x, x[.., .., ..4])).Message.ShouldContain("vocabulary");
        Should.Throw<EspalierException>(() => Minitron.TotalLoss(x, x, useCrossEntropy: true)).Message.ShouldContain("labels");
        Should.Throw<EspalierException>(() => Minitron.TotalLoss(x, x, labels: zeros([3, 2], ScalarType.Int64)));
        Should.Throw<EspalierException>(() => Minitron.TotalLoss(x, x, new HiddenPair(x, x, eye(5)))).Message.ShouldContain("projection");
        Should.Throw<EspalierException>(() => Minitron.Enumerate(Space with { Heads = [] }, 1000));
        Should.Throw<EspalierException>(() => Minitron.SizesByRound(10, 20, 1));
        Should.Throw<EspalierException>(() => new Minitron { Temperature = -1 });
        Should.Throw<EspalierException>(() => new Minitron { Tolerance = 1 });
        using var empty = new Minitron().Accumulate();
        Should.Throw<EspalierException>(() => empty.Score());
        Should.Throw<EspalierException>(() => empty.Observe(x[0]));
    }

    [Fact]
    public void The_catalogue_has_it_with_its_options()
    {
        MethodCatalogue.Default["minitron"].Implementation.ShouldBe(typeof(Minitron));
        var made = MethodCatalogue.Default.Create<Minitron>("minitron", new Dictionary<string, object?> { ["batch_aggregation"] = "l2", ["temperature"] = 2, ["distance"] = "rkld" });
        (made.Temperature, made.Distance).ShouldBe((2, LogitDistance.Rkld));
    }

    [Fact]
    public void No_tensor_outlives_a_step()
    {
        using var scope = NewDisposeScope();
        Tensor acts = Random(17, 2, 3, 4, 6), x = Random(18, 2, 3, 8), h = Random(19, 2, 3, 4), labels = zeros([2, 3], ScalarType.Int64), P = eye(4);
        long before = DisposeScopeManager.Statistics.ThreadTotalLiveCount;
        Minitron.WidthImportance(acts).Ranking.numel().ShouldBe(6);
        Minitron.HeadImportance(x, 4, 2, 2).HeadScore.numel().ShouldBe(4);
        Minitron.BlockImportance(x, x).ShouldBe(0, 1e-6);
        Minitron.TotalLoss(x, x, new HiddenPair(h, h, P), labels).Loss.numel().ShouldBe(1);
        (DisposeScopeManager.Statistics.ThreadTotalLiveCount - before).ShouldBe(3 + 5 + 5);
    }

    private static void Close(Tensor a, Tensor b, float tolerance) => (a - b).abs().max().item<float>().ShouldBeLessThanOrEqualTo(tolerance);

    private static Tensor Random(int seed, params long[] shape)
    {
        using var generator = new Seed(seed).Generator("test");
        return randn(shape, generator: generator);
    }
}
