using Espalier.Catalogue;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models;
using Espalier.Tests.Pruning;
using Espalier.Training;
using static Espalier.Tests.Methods.Retraining.TinyRetraining;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Retraining;

public sealed class ProSparseRetrainingTests
{
    private static readonly IReadOnlyDictionary<string, SparsityMask> NoMasks = new Dictionary<string, SparsityMask>();

    public static TheoryData<string> Families => TinyModels.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public async Task Every_family_is_written_with_its_threshold_and_answers_as_in_memory(string family)
    {
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, family, new Magnitude(), Pattern.Unstructured(0)) with { Calibration = [] };
        job = job with
        {
            Plan = job.Plan with { Retraining = new ProSparse { Steps = 20, Batch = 2, Length = 12, LearningRate = 1e-3, Threshold = 0.05 } },
            RetrainingText = (batch, length) => (step, _) => TinyModels.Ids(TinyModels.Config(family), batch, length, step),
        };
        long live = Parameters.LiveTensors;
        PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
        (Parameters.LiveTensors - live).ShouldBeLessThanOrEqualTo(0, "native tensors outlived the run");
        report.Pruned.ShouldBe(0);
        report.ReopenedDifference!.Value.ShouldBeLessThan(1e-6);
        ModelConfig written = ModelConfig.Load(job.Out);
        (written.Activation, written.ActivationThreshold).ShouldBe(("fatrelu", 0.05));
        File.ReadAllText(Path.Combine(job.Out, "config.json")).ShouldContain("\"hidden_act_param\": 0.05");
        report.Activations!.Count.ShouldBe(2);
        foreach (ActivationSparsity block in report.Activations)
        {
            block.Before.ShouldBe(family == "opt" ? block.Before : 0);
            block.Trained.ShouldBeGreaterThan(0.1);
            block.Shifted.ShouldBeGreaterThan(block.Trained);
            block.Neurons.ShouldBe(40);
        }

        PruningReportPage.Make(report).ToHtml().ShouldContain("Activation sparsity per block");

        // The threshold is at work in the model as it is read: its zeros are those of the report's kind.
        using var scope = NewDisposeScope();
        using LanguageModel model = LanguageModel.Load(job.Out);
        Tensor ids = TinyModels.Ids(written, 2, 12, 1);
        using var frozen = no_grad();
        Tensor with = model.Logits(ids);
        model.SetActivation("relu");
        model.Logits(ids).allclose(with, 1e-6, 1e-6).ShouldBeFalse();
        ProSparse.ApplyThreshold(model, 0.05);
        model.Logits(ids).allclose(with, 1e-6, 1e-6).ShouldBeTrue();
    }

    [Fact]
    public void The_loop_follows_the_schedule_and_adds_the_penalty_to_the_loss()
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create("llama");
        var method = new ProSparse { Peaks = [0.5, 0.5], Ends = [1, 31], SubstitutionSteps = 0, Steps = 31 };
        using LanguageModel same = TinyModels.Create("llama");
        same.SetActivation("relu");
        IReadOnlyList<ActivationTap> taps = ProSparse.Watch(same.Blocks);
        RetrainingContext context = Context(model, NoMasks, folder["held"]);
        float plain = new LanguageModelObjective(same, context.Batches).Loss(0, 0).item<float>();
        float penalty = taps.Sum(t => t.Take().item<float>());
        RetrainingResult result = method.Retrain(context);
        result.Losses[0].ShouldBe(plain + (0.5 * penalty), 1e-3);
        foreach (ActivationTap tap in taps)
        {
            tap.Dispose();
        }

        using LanguageModel other = TinyModels.Create("llama");
        var staged = new ProSparse { Peak = 0.1, Steps = 31, Stages = PenaltyStages.Small };
        var listener = new Listener();
        double[] losses = [.. staged.Retrain(Context(other, NoMasks, folder["staged"], listener)).Losses];
        losses[0].ShouldBe(plain, 1e-4); // no penalty while ReLU settles in
        ActivationPenaltySchedule schedule = staged.Schedule(31, 40);
        listener.Reported.Where(r => r.Name == "activation penalty factor").ShouldBe([.. new long[] { 0, 10, 20, 30 }.Select(s => ("activation penalty factor", s, schedule.Factor(s + 1)))]);
        listener.Reported.Count(r => r.Name == "activation sparsity" && r.Value is > 0 and < 1).ShouldBe(4);
    }

    [Fact]
    public void A_larger_penalty_gives_more_zeros_and_masks_are_kept()
    {
        double[] shares = [.. new[] { 1e-4, 0.02, 0.5 }.Select(Train)];
        shares.ShouldBe(shares.Order());
        shares[2].ShouldBeGreaterThan(shares[0] + 0.1);

        static double Train(double peak)
        {
            using var folder = new TemporaryFolder();
            using LanguageModel model = TinyModels.Create("gpt2");
            Dictionary<string, SparsityMask> masks = Prune(model.Blocks);
            RetrainingResult result = new ProSparse { Peak = peak, Steps = 60, LearningRate = 1e-2, Threshold = 0 }.Retrain(Context(model, masks, folder.Path));
            Revived(model, masks).ShouldBe(0);
            (result.Config!.Activation, result.Config.ActivationThreshold).ShouldBe(("relu", 0));
            result.Activations!.ShouldAllBe(a => a.Shifted == a.Trained);
            return result.Activations!.Average(a => a.Trained);
        }
    }

    [Fact]
    public void An_interrupted_run_ends_with_the_same_bytes() => ResumesToTheByte((state, stop) =>
    {
        using LanguageModel model = TinyModels.Create("llama");
        new ProSparse { Steps = 20, Peak = 0.1, LearningRate = 1e-2 }.Retrain(Context(model, Prune(model.Blocks), state, stop: stop));
        return Bytes(model);
    });

    [Theory]
    [InlineData("opt", "relu", "has ReLU already")]
    [InlineData("gpt2", "gelu_new", "ReLU takes the place of gelu_new")]
    [InlineData("llama", "silu", "ReLU takes the place of silu")]
    public void What_happens_to_the_activation_is_said(string family, string before, string sentence)
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create(family);
        model.Config.Activation.ShouldBe(before);
        var listener = new Listener();
        new ProSparse { Steps = 20 }.Retrain(Context(model, NoMasks, folder.Path, listener));
        listener.Said.ShouldContain(s => s.Contains(sentence));
    }

    [Fact]
    public void Stages_follow_the_published_shares_unless_named()
    {
        ActivationPenaltySchedule paper = new ProSparse { Peak = 0.2 }.Schedule(16_500, 11_008);
        paper.Peaks.ShouldBe([5e-3, 5e-2, 5e-2, 2e-1, 2e-1]);
        paper.Ends.ShouldBe([6_000, 10_000, 12_000, 16_000, 16_500]);
        paper.SubstitutionEnd.ShouldBe(5_000);
        new ProSparse().Schedule(100, 400).Peaks[^1].ShouldBe(0.2 / 400, 1e-12);
        foreach (int steps in Enumerable.Range(20, 300))
        {
            new ProSparse().Schedule(steps, 40).Ends[^1].ShouldBe(steps);
        }

        var named = new ProSparse { Peaks = [0.1, 0.3], Ends = [4, 9], SubstitutionSteps = 2 }.Schedule(10, 40);
        named.Factor(2).ShouldBe(0);
        named.Factor(9).ShouldBe(0.3, 1e-12);
    }

    [Fact]
    public void Bad_input_is_named()
    {
        Sentence(() => new ProSparse { Peak = 1, Peaks = [1] }.Schedule(50, 4)).ShouldContain("leave one of them out");
        Sentence(() => new ProSparse { Peaks = [1] }.Schedule(50, 4)).ShouldContain("1 peaks and 5 ends");
        Sentence(() => new ProSparse { Peaks = [1], Ends = [60], SubstitutionSteps = 1 }.Schedule(50, 4)).ShouldContain("the run has 50 steps");
        Sentence(() => new ProSparse().Schedule(5, 4)).ShouldContain("too short");
        Sentence(() => new ProSparse { Threshold = -1 }).ShouldContain("threshold");
        Sentence(() => new ProSparse { Steps = 0 }).ShouldContain("steps");
        Sentence(() => TinyModels.Config("llama", ("hidden_act", "fatrelu"))).ShouldContain("hidden_act_param");
        Sentence(() => TinyModels.Config("llama").WithActivation("relu", 0.1)).ShouldContain("threshold");
        Sentence(() => TinyModels.Config("llama").WithActivation("softplus")).ShouldContain("softplus");

        static string Sentence(Func<object> act) => Should.Throw<EspalierException>(() => { act(); }).Message;
    }

    [Fact]
    public void Configurations_carry_the_threshold_in_the_published_words()
    {
        ModelConfig published = TinyModels.Config("llama", ("hidden_act", "fatrelu"), ("hidden_act_param", 0.01));
        (published.Activation, published.ActivationThreshold).ShouldBe(("fatrelu", 0.01));
        published.WithActivation("relu").ToJsonText().ShouldNotContain("hidden_act_param");
        TinyModels.Config("gpt2").WithActivation("fatrelu", 0.02).Json["activation_function"]!.GetValue<string>().ShouldBe("fatrelu");
        TinyModels.Config("llama", ("hidden_act_param", 0.03)).ActivationThreshold.ShouldBe(0);
    }

    [Fact]
    public void A_plan_says_it_in_words()
    {
        PruningPlan plan = PruneRequest.Parse(new Dictionary<string, object?>
        {
            ["model"] = "m",
            ["out"] = "o",
            ["prune"] = new Dictionary<string, object?> { ["sparsity"] = 0L },
            ["retrain"] = new Dictionary<string, object?> { ["method"] = "prosparse", ["steps"] = 100L, ["peaks"] = new List<object> { 0.1, 0.2 }, ["ends"] = new List<object> { 50L, 100L }, ["substitution_steps"] = 20L },
        }).ToPlan();
        var method = plan.Retraining.ShouldBeOfType<ProSparse>();
        method.Peaks.ShouldBe([0.1, 0.2]);
        method.Schedule(method.Steps, 40).Ends.ShouldBe([50, 100]);
        plan.Criterion.ShouldBeOfType<Magnitude>();
        plan.NeedsActivations.ShouldBeFalse();
        plan.Describe().Single(p => p.Part == "retraining").Value.ShouldContain("Peaks=0.1 0.2");
        MethodCatalogue.Default.Supplying<IRetraining>().Select(e => e.Slug).ShouldContain("prosparse");
    }
}
