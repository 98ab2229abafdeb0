using Espalier.Methods.Pruning;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Pruning.Structured;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models;
using static TorchSharp.torch;

namespace Espalier.Tests.Pruning;

public sealed class StructuredPruningTests
{
    [Fact]
    public async Task A_flap_run_writes_a_smaller_checkpoint_that_opens_again_and_leaves_nothing_behind()
    {
        using var folder = new TemporaryFolder();
        var flap = new Flap();
        PruningJob job = PrunerTests.Job(folder, "llama", flap, Pattern.Structured(0.3));
        job = job with { Plan = job.Plan with { Repair = flap }, Evaluation = job.Calibration };
        long live = Parameters.LiveTensors;
        PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
        (Parameters.LiveTensors - live).ShouldBeLessThanOrEqualTo(0, "native tensors outlived the run");

        report.ReopenedDifference.ShouldBe(0);
        report.Quality.Select(q => q.Stage).ShouldBe(["dense", "pruned", "repaired"]);
        StructureReport structure = report.Structure!;
        structure.Achieved.ShouldBe(0.3, 0.12);
        structure.Speed!.Gain.ShouldBeGreaterThan(0);
        structure.Cuts.ShouldContain(c => c.Contains("neuron ", StringComparison.Ordinal));
        report.DiskBytes.After.ShouldBe(structure.ParametersAfter * 4);
        report.DiskBytes.After.ShouldBeLessThan(report.DiskBytes.Before);
        File.Exists(Path.Combine(job.Out, SparsityMasks.FileName)).ShouldBeFalse();
        Directory.Exists(Path.Combine(job.Out, ".espalier-work")).ShouldBeFalse();

        using LanguageModel smaller = LanguageModel.Load(job.Out);
        smaller.ParameterCount.ShouldBe(structure.ParametersAfter);
        smaller.Blocks[0].Linears.Sum(l => l.Linear.weight.numel()).ShouldBe(report.Blocks[0].Layers.Sum(l => (l.Rows * l.Columns) - l.Removed));
        string page = PruningReportPage.Make(report).ToHtml();
        page.ShouldContain("Neurons per block");
        page.ShouldContain("tokens/s");
    }

    [Fact]
    public void In_memory_it_needs_no_output_folder_and_says_which_units_went()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, "llama", new Magnitude(), Pattern.Structured(options: new() { Neurons = 24, KeyValueHeads = 1 })) with { Out = string.Empty };
        using LanguageModel dense = LanguageModel.Load(job.Folder);
        using PrunedModel pruned = Pruner.InMemory(job, SilentProgress.Instance);
        pruned.Structure!.ParametersAfter.ShouldBe(pruned.Model.ParameterCount);
        pruned.Removed.Select(r => (r.Block, r.Kind, r.Units.Count)).ShouldBe([.. new[] { 0, 1 }.SelectMany(b => new[] { (b, CoupledKind.KeyValueGroup, 1), (b, CoupledKind.Neuron, 16) })]);
        using var scope = NewDisposeScope();
        foreach (RemovedUnits removed in pruned.Removed)
        {
            // What stays of the reader is the dense one without the removed units.
            CoupledGroup group = dense.Blocks[removed.Block].Groups.Single(g => g.Kind == removed.Kind);
            Linear whole = dense.Blocks[removed.Block].Linears.First(l => l.Name == group.Reader.Tensor).Linear, cut = pruned.Model.Blocks[removed.Block].Linears.First(l => l.Name == group.Reader.Tensor).Linear;
            group.Cut(group.Reader.Tensor, whole.weight.detach(), [.. removed.Units]).eq(cut.weight).all().item<bool>().ShouldBeTrue();
        }
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("qwen2")]
    [InlineData("gpt2")]
    public async Task Uniform_sizes_are_exact_and_the_configuration_is_plain(string family)
    {
        using var folder = new TemporaryFolder();
        bool grouped = family is not "gpt2";
        var sizes = new Pattern.StructuredPattern { Neurons = 24, KeyValueHeads = grouped ? 1 : null, Uniform = true };
        PruningJob job = PrunerTests.Job(folder, family, new Wanda(), Pattern.Structured(options: sizes));
        PruningPreview preview = Pruner.Preview(job);
        PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
        ModelConfig config = ModelConfig.Load(job.Out);
        config.BlockShapes.ShouldBeNull();
        config.Json.ContainsKey("block_shapes").ShouldBeFalse();
        config.IntermediateSize.ShouldBe(24);
        config.KeyValueHeadCount.ShouldBe(grouped ? 1 : 4);
        config.HeadCount.ShouldBe(grouped ? 2 : 4);
        config.HeadDim.ShouldBe(6);
        config.Json.ContainsKey("head_dim").ShouldBe(grouped, "GPT-2 keeps its heads, and its loaders know no head_dim");
        report.Structure!.Plain.ShouldBeTrue();
        preview.Structure!.ParametersAfter.ShouldBe(report.Structure.ParametersAfter);
        preview.Structure.Groups.Count.ShouldBe(grouped ? 4 : 2);
        preview.Structure.Groups[^1].Cut.ShouldContain("rows 0");
        using LanguageModel smaller = LanguageModel.Load(job.Out);
        smaller.ParameterCount.ShouldBe(report.Structure.ParametersAfter);
    }

    [Theory]
    [InlineData(1, 30)]
    [InlineData(8, 32)]
    [InlineData(16, 32)]
    public void Widths_are_rounded_to_the_multiple(int round, int neurons)
    {
        using var folder = new TemporaryFolder();
        // 10 of 40 neurons: 2 blocks of 40·72 parameters of 2·4656.
        PruningJob job = PrunerTests.Job(folder, "llama", new Magnitude(), Pattern.Structured(10 * 72 / 4656.0, new() { Units = Units.Neurons, Round = round }));
        StructurePreview preview = Pruner.Preview(job).Structure!;
        preview.Groups.ShouldAllBe(g => g.Kept == neurons);
        preview.Note.ShouldContain("Asked 15.5 %");
    }

    [Fact]
    public void Automatic_rounding_follows_the_dense_width()
    {
        var pattern = new Pattern.StructuredPattern();
        pattern.Rounded(100, 192).ShouldBe(104);
        pattern.Rounded(100, 512).ShouldBe(96);
        pattern.Rounded(1000, 4096).ShouldBe(1024);
        pattern.Rounded(1, 4096).ShouldBe(64);
        pattern.Rounded(40, 40).ShouldBe(40);
    }

    [Fact]
    public async Task A_run_that_was_stopped_while_measuring_goes_on_and_ends_with_the_same_bytes()
    {
        using var folder = new TemporaryFolder();
        var flap = new Flap();
        PruningJob job = CutModelTests.Layered(folder, "llama", flap, new() { Neurons = 16, KeyValueHeads = 1 });
        job = job with { Plan = job.Plan with { Repair = flap }, Out = folder["whole"] };
        await Pruner.RunAsync(job, SilentProgress.Instance);

        PruningJob interrupted = job with { Out = folder["halves"] };
        using var stop = new CancellationTokenSource();
        var first = new Watcher(stop, after: 2);
        await Should.ThrowAsync<OperationCanceledException>(() => Pruner.RunAsync(interrupted, first, stop.Token));
        string[] measured = Directory.GetFiles(Path.Combine(interrupted.Out, ".espalier-work"), "units-*");
        measured.Length.ShouldBe(2);
        File.Exists(Path.Combine(interrupted.Out, "model.safetensors")).ShouldBeFalse();
        var second = new Watcher(null, after: 0);
        await Pruner.RunAsync(interrupted, second, CancellationToken.None);
        second.Measured.ShouldBe([2, 3, 4]);
        File.ReadAllBytes(Path.Combine(interrupted.Out, "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(job.Out, "model.safetensors")));
    }

    [Fact]
    public async Task Retraining_works_on_the_smaller_model()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, "llama", new Minitron(), Pattern.Structured(options: new() { Hidden = 18, Neurons = 24 }));
        job = job with
        {
            Plan = job.Plan with { Retraining = new Perp { Subset = Subset.Norms | Subset.MaskLora, Rank = 2, Steps = 3, Batch = 2, Length = 12 } },
            Evaluation = job.Calibration,
            RetrainingText = (batch, length) => (step, micro) => tensor(job.Calibration.SelectMany(w => w).Take(batch * length).ToArray()).reshape(batch, length),
        };
        PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
        report.Quality.Select(q => q.Stage).ShouldBe(["dense", "pruned", "retrained"]);
        report.Losses.Count.ShouldBe(3);
        report.ReopenedDifference!.Value.ShouldBeLessThan(1e-5);
        using LanguageModel smaller = LanguageModel.Load(job.Out);
        smaller.Config.HiddenSize.ShouldBe(18);

        // A rank that fits the dense model but not the smaller one is refused before anything is measured.
        PruningJob narrow = job with
        {
            Out = folder["narrow"], Evaluation = [], Plan = job.Plan with { Pattern = Pattern.Structured(options: new() { Neurons = 8 }), Retraining = new Perp { Subset = Subset.MaskLora, Rank = 12, Length = 12 } },
        };
        (await Should.ThrowAsync<EspalierException>(() => Pruner.RunAsync(narrow, SilentProgress.Instance))).Message.ShouldContain("rank");
        Directory.Exists(narrow.Out).ShouldBeFalse();
    }

    public static TheoryData<string> Biased => [.. Architecture.Known.Where(f => Architecture.For(TinyModels.Config(f)) is var a && a.ReaderBiasField(true) is not null && a.ReaderBiasField(false) is not null)];

    [Theory]
    [MemberData(nameof(Biased))]
    public async Task A_mask_gets_flaps_bias_too(string family)
    {
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, family, new Magnitude(), Pattern.Unstructured(0.5));
        job = job with { Evaluation = job.Calibration, Plan = job.Plan with { Repair = new Flap() } };
        PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
        report.Quality.Select(q => q.Stage).ShouldBe(["dense", "pruned", "repaired"]);
        report.ReopenedDifference.ShouldBe(0);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using LanguageModel dense = LanguageModel.Load(job.Folder), pruned = LanguageModel.Load(job.Out);
        IReadOnlyDictionary<string, SparsityMask> masks = SparsityMasks.Load(job.Out);

        // The first block sees the dense model's inputs: there the bias is (W − W′)·mean.
        BlockLinear first = dense.Blocks[0].Linears[0], after = pruned.Blocks[0].Linears[0];
        Tensor? seen = null;
        first.Linear.InputObserver = x => seen = (x.reshape(-1, x.shape[^1]).sum([0L]) + (seen ?? zeros(x.shape[^1]))).DetachFromDisposeScope();
        foreach (long[] window in job.Calibration)
        {
            dense.Blocks[0].Forward(dense.Embedding.Forward(tensor(window).unsqueeze(0), 0));
        }

        Tensor mean = seen! / (job.Calibration.Length * job.Calibration[0].Length);
        Tensor change = after.Linear.bias! - (first.Linear.bias is { } old ? old : zeros_like(after.Linear.bias!));
        Tensor wanted = (first.Linear.Matrix - after.Linear.Matrix).mv(mean);
        (change - wanted).abs().max().item<float>().ShouldBeLessThan(1e-4f);
        wanted.abs().max().item<float>().ShouldBeGreaterThan(1e-3f);
        masks[after.Name].Revived(after.Linear.Matrix).ShouldBe(0);
        seen!.Dispose();
    }

    [Fact]
    public void What_cannot_be_cut_is_refused_in_a_sentence_before_any_work()
    {
        using var folder = new TemporaryFolder();
        Refused(new Wanda(), () => Pattern.Structured(1.2), "between 0 and 1");
        Refused(new Wanda(), () => Pattern.Structured(0), "between 0 and 1");
        Refused(new Wanda(), () => Pattern.Structured(), "needs a sparsity");
        Refused(new Wanda(), () => Pattern.Structured(0.2, new() { Neurons = 8 }), "leave one of them out");
        Refused(new Wanda(), () => Pattern.Structured(options: new() { Neurons = 20, Round = 8 }), "no multiple of round 8");
        Refused(new Wanda(), () => Pattern.Structured(0.2, new() { Units = Units.Heads | Units.Layers }), "target sizes");
        Refused(new Wanda(), () => Pattern.Structured(options: new() { Heads = 2, KeyValueHeads = 1 }), "leave one of them out");
        Refused(new Wanda(), () => Pattern.Structured(options: new() { Heads = 3 }), "key-value groups of 2");
        Refused(new Minitron(), () => Pattern.Structured(options: new() { Layers = 3 }), "has 2 layers");
        Refused(new Minitron(), () => Pattern.Structured(options: new() { Hidden = 30 }), "24 channels");
        Refused(new Wanda(), () => Pattern.Structured(options: new() { Neurons = 41 }), "has 40 neurons");
        Refused(new Wanda(), () => Pattern.Structured(options: new() { Neurons = 40 }), "Nothing would be cut");
        Refused(new Wanda(), () => Pattern.Structured(0.001), "Nothing would be cut");
        Refused(new Wanda(), () => Pattern.Structured(0.9), "can give");
        Refused(new Wanda(), () => Pattern.Structured(options: new() { Hidden = 16 }), "cannot rank channels");
        Refused(new SparseGpt(), () => Pattern.Structured(0.2), "ranks single weights");
        Refused(new Minitron(), () => Pattern.Unstructured(0.5), "ranks whole units");
        Refused(new Flap(), () => Pattern.Structured(0.2, new() { Uniform = true }), "different widths", p => p with { UnitAllocator = new Flap() });
        Refused(new Flap(), () => Pattern.Structured(0.2), "repairs masks", p => p with { Repair = new DSnoT() });
        Refused(new Flap(), () => Pattern.Structured(0.2), "rebuilds a block", p => p with { Reconstruction = new Perp() });
        Refused(new Wanda(), () => Pattern.Unstructured(0.2), "goes with the pattern structured", p => p with { UnitAllocator = new GlobalRanking() });
        Refused(new Minitron(), () => Pattern.Structured(options: new() { Layers = 1 }), "A bias can stand in", p => p with { Repair = new Flap() });
        Refused(new Flap(), () => Pattern.Structured(0.2), "needs calibration text", job: j => j with { Calibration = [] });
        Refused(new Magnitude(), () => Pattern.Structured(0.2), "written over", job: j => j with { Out = j.Folder });
        Refused(new Flap(), () => Pattern.Structured(0.2), "repair: none", p => p with { Repair = new Flap() }, family: "mistral");
        Refused(new Flap(), () => Pattern.Structured(0.2), "repair: none", p => p with { Repair = new Flap() }, family: "qwen2");
        Refused(new Magnitude(), () => Pattern.Structured(options: new() { Heads = 3, Uniform = true }), "hidden width / heads", family: "gpt2");

        void Refused(ICriterion criterion, Func<Pattern> pattern, string words, Func<PruningPlan, PruningPlan>? plan = null, Func<PruningJob, PruningJob>? job = null, string family = "llama")
        {
            Should.Throw<EspalierException>(() =>
            {
                PruningJob made = PrunerTests.Job(folder, family, criterion, pattern());
                made = made with { Plan = plan?.Invoke(made.Plan) ?? made.Plan };
                Pruner.Preview(job?.Invoke(made) ?? made);
            }).Message.ShouldContain(words);
        }
    }

    [Fact]
    public void Gpt2_scaled_by_the_layer_s_number_loses_no_layers()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, "gpt2", new Minitron(), Pattern.Structured(options: new() { Layers = 1 }));
        TinyModels.Write(job.Folder, TinyModels.Config("gpt2", ("scale_attn_by_inverse_layer_idx", true)));
        Should.Throw<EspalierException>(() => Pruner.Preview(job)).Message.ShouldContain("layer's number");
    }

    [Fact]
    public async Task A_global_ranking_meets_the_share_over_all_blocks_and_reloads_with_block_shapes()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = CutModelTests.Layered(folder, "llama", new Magnitude(), new() { Neurons = 8 });
        job = job with { Plan = job.Plan with { Pattern = Pattern.Structured(0.3, new() { Units = Units.Neurons, Round = 1 }), UnitAllocator = new GlobalRanking() } };
        Pruner.Preview(job).Structure!.Groups.ShouldAllBe(g => g.Kept == null);
        PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
        report.Structure!.Achieved.ShouldBe(0.3, 72 / (5 * 4656.0));
        report.Structure.Plain.ShouldBeFalse();
        ModelConfig.Load(job.Out).BlockShapes!.Count.ShouldBe(5);

        // Cut again to one size, the blocks are alike and the shapes vanish from the configuration; FLAP's search refuses blocks that differ.
        int least = report.Structure.Blocks.Min(b => b.NeuronsAfter);
        PruningJob second = job with { Folder = job.Out, Out = folder["again"], Plan = job.Plan with { Pattern = Pattern.Structured(options: new() { Neurons = least, Uniform = true }), UnitAllocator = null } };
        PruningReport again = await Pruner.RunAsync(second, SilentProgress.Instance);
        again.Structure!.Plain.ShouldBeTrue();
        ModelConfig.Load(second.Out).Json.ContainsKey("block_shapes").ShouldBeFalse();
        PruningJob searched = second with { Out = folder["flap"], Plan = job.Plan with { Pattern = Pattern.Structured(0.1, new() { Units = Units.Neurons }), UnitAllocator = new Flap() } };
        (await Should.ThrowAsync<EspalierException>(() => Pruner.RunAsync(searched, SilentProgress.Instance))).Message.ShouldContain("use the allocator global");
    }

    [Fact]
    public void A_plan_in_words_goes_round_through_yaml()
    {
        const string yaml = """
            model: m
            data: { calibration: c.txt }
            prune: { criterion: flap, pattern: { method: structured, units: [heads, neurons], round: 8, uniform: true }, sparsity: 0.2, repair: none }
            out: o
            """;
        PruneRequest request = PlanFile.Parse(yaml, "plan.yaml").Bind<PruneRequest>();
        PruningPlan plan = request.ToPlan();
        var pattern = plan.Pattern.ShouldBeOfType<Pattern.StructuredPattern>();
        (pattern.Units, pattern.Round, pattern.Uniform, pattern.Share).ShouldBe((Units.Heads | Units.Neurons, 8, true, 0.2));
        plan.Repair.ShouldBeNull();
        PlanFile.Parse(request.ToYaml(), "again").Bind<PruneRequest>().ToPlan().Describe().ShouldBe(plan.Describe());

        PruningPlan whole = PlanFile.Parse("{ model: m, out: o, prune: { criterion: flap, pattern: structured, sparsity: 0.2 } }", "p").Bind<PruneRequest>().ToPlan();
        whole.Repair.ShouldBeOfType<Flap>();
        whole.EffectiveUnitAllocator.ShouldBeOfType<Flap>();
        PruningPlan sizes = PlanFile.Parse("{ model: m, out: o, prune: { criterion: minitron, pattern: { method: structured, hidden: 144, neurons: 256, layers: 4 } } }", "p").Bind<PruneRequest>().ToPlan();
        sizes.Pattern.ToString().ShouldBe("structured (hidden 144, neurons 256, layers 4)");
        PlanFile.Parse("{ model: m, out: o, prune: { criterion: wanda, pattern: structured, sparsity: 0.2, allocator: global } }", "p").Bind<PruneRequest>().ToPlan().UnitAllocator.ShouldBeOfType<GlobalRanking>();

        foreach ((string prune, string sentence) in new[]
        {
            ("{ criterion: wanda, pattern: { method: unstructured, round: 8 }, sparsity: 0.2 }", "only structured does"),
            ("{ criterion: wanda, pattern: { method: structured, rond: 8 }, sparsity: 0.2 }", "Did you mean 'round'"),
            ("{ criterion: wanda, pattern: structured, sparsity: 0.2, scope: row }", "a scope of weights has no meaning"),
            ("{ criterion: wanda, sparsity: 0.2, allocator: flap }", "goes with the pattern structured"),
        })
        {
            Should.Throw<EspalierException>(() => PlanFile.Parse($"{{ model: m, out: o, prune: {prune} }}", "p").Bind<PruneRequest>().ToPlan()).Message.ShouldContain(sentence);
        }
    }

    [Fact]
    public async Task A_random_choice_follows_the_plan_s_seed()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, "llama", new RandomChoice(), Pattern.Unstructured(0.5));
        byte[][] written = new byte[3][];
        foreach ((int i, long seed) in new[] { (0, 1L), (1, 1L), (2, 2L) })
        {
            await Pruner.RunAsync(job with { Calibration = [], Out = folder[$"out{i}"], Plan = job.Plan with { Seed = new Seed(seed) } }, SilentProgress.Instance);
            written[i] = File.ReadAllBytes(Path.Combine(folder[$"out{i}"], "model.safetensors"));
        }

        written[1].ShouldBe(written[0]);
        written[2].ShouldNotBe(written[0]);
    }

    /// <summary>Notes the blocks that were measured, and cancels after so many.</summary>
    private sealed class Watcher(CancellationTokenSource? source, int after) : IProgressSink
    {
        public List<long> Measured { get; } = [];

        public IProgressTask Begin(string name, long total, string unit) => SilentProgress.Instance;

        public void Say(string message)
        {
        }

        public void Warn(string message)
        {
        }

        public void Report(string reported, long step, double value)
        {
            if (reported == "measured_block")
            {
                Measured.Add(step);
                if (Measured.Count == after)
                {
                    source!.Cancel();
                }
            }
        }
    }
}
