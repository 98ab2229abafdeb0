using Espalier.Checkpoints;
using Espalier.Methods.Pruning;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models;
using static TorchSharp.torch;

namespace Espalier.Tests.Pruning;

public sealed class PrunerTests
{
    public static TheoryData<string> Families => TinyModels.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public async Task Every_family_loses_exactly_the_asked_share_and_opens_again(string family)
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Job(folder, family, new Wanda(), Pattern.Unstructured(0.5));
        long live = Parameters.LiveTensors;
        PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
        (Parameters.LiveTensors - live).ShouldBeLessThanOrEqualTo(0, "native tensors outlived the run");
        foreach (LayerReport layer in report.Blocks.SelectMany(b => b.Layers))
        {
            layer.Achieved.ShouldBe(Math.Floor(layer.Columns * 0.5) / layer.Columns, 1e-9, layer.Name);
        }

        report.ReopenedDifference.ShouldBe(0);
        Directory.Exists(Path.Combine(job.Out, ".espalier-work")).ShouldBeFalse();
        using Checkpoint output = Checkpoint.Open(job.Out);
        using LanguageModel model = LanguageModel.Load(ModelConfig.Load(job.Out), output);
        IReadOnlyDictionary<string, SparsityMask> masks = SparsityMasks.Load(job.Out);
        foreach (BlockLinear linear in model.Blocks.SelectMany(b => b.Linears))
        {
            masks[linear.Name].Revived(linear.Linear.Matrix.detach()).ShouldBe(0);
            masks[linear.Name].Kept.ShouldBeGreaterThan(0);
        }
    }

    public static TheoryData<string, string> Parts
    {
        get
        {
            var data = new TheoryData<string, string>();
            foreach (string criterion in new[] { "magnitude", "wanda", "sparsegpt" })
            {
                foreach (string pattern in new[] { "layer", "row", "global", "2:4", "1:4", "4:8" })
                {
                    data.Add(criterion, pattern);
                }
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Parts))]
    public async Task Any_criterion_goes_with_any_pattern_and_the_count_is_exact(string criterion, string shape)
    {
        using var folder = new TemporaryFolder();
        ICriterion part = criterion switch { "magnitude" => new Magnitude(), "wanda" => new Wanda(), _ => new SparseGpt() };
        Pattern pattern = shape.Contains(':') ? Pattern.Parse(shape, null) : Pattern.Unstructured(0.6, Enum.Parse<Scope>(shape, ignoreCase: true));
        PruningReport report = await Pruner.RunAsync(Job(folder, "llama", part, pattern), SilentProgress.Instance);
        if (shape == "global")
        {
            report.Pruned.ShouldBe((long)Math.Floor(report.Prunable * 0.6));
        }

        foreach ((string name, SparsityMask mask) in SparsityMasks.Load(Path.Combine(folder.Path, "out")))
        {
            using var scope = NewDisposeScope();
            if (pattern is Pattern.SemiStructuredPattern groups)
            {
                mask.ToTensor().reshape(-1, groups.M).sum(1).eq(groups.N).all().item<bool>().ShouldBeTrue(name);
            }
        }
    }

    [Fact]
    public async Task SparseGpt_repairs_what_wanda_chose_and_loses_less()
    {
        using var folder = new TemporaryFolder();
        PruningJob plain = Job(folder, "llama", new Wanda(), Pattern.Unstructured(0.5)) with { Out = folder["plain"] };
        PruningJob repaired = plain with { Out = folder["repaired"], Plan = plain.Plan with { Repair = new SparseGpt() } };
        PruningReport a = await Pruner.RunAsync(plain, SilentProgress.Instance);
        PruningReport b = await Pruner.RunAsync(repaired, SilentProgress.Instance);
        b.Blocks[0].OutputError!.Value.ShouldBeLessThan(a.Blocks[0].OutputError!.Value);
        b.Blocks.SelectMany(x => x.Layers).ShouldAllBe(l => l.RepairedError <= l.MaskedError + 1e-9);
        SparsityMasks.Load(plain.Out)["model.layers.0.self_attn.q_proj.weight"].ShouldBe(SparsityMasks.Load(repaired.Out)["model.layers.0.self_attn.q_proj.weight"]);
    }

    [Fact]
    public async Task Pruned_in_memory_it_is_the_model_that_a_run_writes()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Job(folder, "llama", new Wanda(), Pattern.Unstructured(0.5));
        job = job with { Plan = job.Plan with { Repair = new DSnoT(), AlsoCollect = CalibrationNeeds.Hessian } };
        await Pruner.RunAsync(job, SilentProgress.Instance);
        using LanguageModel written = LanguageModel.Load(job.Out);
        long live = Parameters.LiveTensors;
        using (PrunedModel pruned = Pruner.InMemory(job with { Out = string.Empty }, SilentProgress.Instance))
        {
            foreach ((BlockLinear expected, BlockLinear found) in written.Blocks.SelectMany(b => b.Linears).Zip(pruned.Model.Blocks.SelectMany(b => b.Linears)))
            {
                using var scope = NewDisposeScope();
                found.Linear.Matrix.equal(expected.Linear.Matrix).all().item<bool>().ShouldBeTrue(found.Name);
                pruned.Masks[found.Name].Revived(found.Linear.Matrix.detach()).ShouldBe(0);
            }

            pruned.Layers.ShouldAllBe(l => l.MaskedError > 0 && l.RepairedError > 0);
        }

        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(live);
    }

    [Fact]
    public async Task An_interrupted_run_continues_and_ends_with_the_same_bytes()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Job(folder, "llama", new SparseGpt(), Pattern.Unstructured(0.5)) with { Out = folder["whole"] };
        job = job with { Plan = job.Plan with { Repair = (IRepair)job.Plan.Criterion } };
        await Pruner.RunAsync(job, SilentProgress.Instance);

        PruningJob interrupted = job with { Out = folder["halves"] };
        using var stop = new CancellationTokenSource();
        await Should.ThrowAsync<OperationCanceledException>(() => Pruner.RunAsync(interrupted, new StopAt(stop, "sparsity/", 0), stop.Token));
        Directory.GetFiles(Path.Combine(interrupted.Out, ".espalier-work"), "block-*").Length.ShouldBe(1);
        File.Exists(Path.Combine(interrupted.Out, "model.safetensors")).ShouldBeFalse();
        await Pruner.RunAsync(interrupted, SilentProgress.Instance);
        File.ReadAllBytes(Path.Combine(interrupted.Out, "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(job.Out, "model.safetensors")));
    }

    [Fact]
    public async Task An_interrupted_retraining_continues_and_ends_with_the_same_bytes()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Job(folder, "llama", new Wanda(), Pattern.Unstructured(0.5)) with { Out = folder["whole"] };
        long[][] windows = job.Calibration;
        job = job with
        {
            Plan = job.Plan with { Retraining = new Perp { Subset = Subset.Norms | Subset.MaskLora, Steps = 6, Batch = 2, Length = 12, Rank = 2, LearningRate = 1e-2 } },
            RetrainingText = (batch, _) => (step, _) => stack([.. Enumerable.Range(0, batch).Select(i => tensor(windows[(step + i) % windows.Length]))]),
        };
        await Pruner.RunAsync(job, SilentProgress.Instance);

        PruningJob halves = job with { Out = folder["halves"] };
        using var stop = new CancellationTokenSource();
        await Should.ThrowAsync<OperationCanceledException>(() => Pruner.RunAsync(halves, new StopAt(stop, "learning rate", 0), stop.Token));
        Directory.Exists(Path.Combine(halves.Out, ".espalier-work", "retraining")).ShouldBeTrue();
        File.Exists(Path.Combine(halves.Out, "model.safetensors")).ShouldBeFalse();
        PruningReport report = await Pruner.RunAsync(halves, SilentProgress.Instance);
        report.Losses.Count.ShouldBe(6);
        File.ReadAllBytes(Path.Combine(halves.Out, "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(job.Out, "model.safetensors")));
    }

    [Fact]
    public async Task Unfinished_work_of_another_plan_is_refused_in_a_sentence()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Job(folder, "llama", new Wanda(), Pattern.Unstructured(0.5));
        using var stop = new CancellationTokenSource();
        await Should.ThrowAsync<OperationCanceledException>(() => Pruner.RunAsync(job, new StopAt(stop, "sparsity/", 0), stop.Token));
        PruningJob other = job with { Plan = job.Plan with { Pattern = Pattern.Unstructured(0.7) } };
        EspalierException refused = await Should.ThrowAsync<EspalierException>(() => Pruner.RunAsync(other, SilentProgress.Instance));
        refused.Message.ShouldContain("another sparsity");
        PruningReport fresh = await Pruner.RunAsync(other with { Fresh = true }, SilentProgress.Instance);
        ((double)fresh.Pruned / fresh.Prunable).ShouldBeInRange(0.65, 0.7);
    }

    [Fact]
    public async Task Input_and_output_may_be_one_folder()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Job(folder, "qwen2", new Wanda(), Pattern.SemiStructured(2, 4));
        job = job with { Out = job.Folder };
        PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
        ((double)report.Pruned / report.Prunable).ShouldBe(0.5, 1e-12);
    }

    [Fact]
    public async Task A_spilled_run_gives_the_same_bytes_as_one_in_memory()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Job(folder, "llama", new Wanda(), Pattern.Unstructured(0.5)) with { Out = folder["memory"] };
        PruningPreview preview = Pruner.Preview(job);
        PruningJob spilled = job with { Out = folder["file"], Memory = preview.PeakBytes - 1 };
        Pruner.Preview(spilled).Spills.ShouldBeTrue();
        await Pruner.RunAsync(job, SilentProgress.Instance);
        await Pruner.RunAsync(spilled, SilentProgress.Instance);
        File.ReadAllBytes(Path.Combine(spilled.Out, "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(job.Out, "model.safetensors")));
    }

    [Fact]
    public void What_cannot_work_is_refused_before_any_work()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Job(folder, "llama", new Wanda(), Pattern.Unstructured(0.5));
        Refused(job with { Calibration = [] }, "calibration");
        Refused(job with { Plan = job.Plan with { Pattern = Pattern.SemiStructured(5, 7) } }, "groups of 7");
        Refused(job with { Memory = 1_000_000 }, "too small");
        Refused(job with { Calibration = [[1, 2, 100_000]] }, "vocabulary");
        Refused(job with { Calibration = [new long[10_000]] }, "longer than the model's context");
        Should.Throw<EspalierException>(() => Pattern.Unstructured(1.5)).Message.ShouldContain("not possible");

        static void Refused(PruningJob job, string words) => Should.Throw<EspalierException>(() => Pruner.Preview(job)).Message.ShouldContain(words);
    }

    [Fact]
    public async Task A_trial_writes_nothing()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Job(folder, "gpt2", new Wanda(), Pattern.Unstructured(0.5));
        IReadOnlyList<BlockReport> tried = await Pruner.TryAsync(job, SilentProgress.Instance);
        tried.Count.ShouldBe(1);
        Directory.Exists(job.Out).ShouldBeFalse();
    }

    [Fact]
    public async Task Weights_that_are_not_numbers_are_refused_by_name()
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Job(folder, "llama", new Magnitude(), Pattern.Unstructured(0.5));
        using (var tensors = TinyModels.Tensors(TinyModels.Config("llama")))
        {
            using Tensor bad = tensors.Read("model.layers.1.mlp.up_proj.weight");
            bad[0, 0] = float.NaN;
            tensors.Set("model.layers.1.mlp.up_proj.weight", bad.clone());
            TinyModels.Write(job.Folder, TinyModels.Config("llama"), tensors.Names.Select(n => (n, tensors.Read(n))));
        }

        EspalierException refused = await Should.ThrowAsync<EspalierException>(() => Pruner.RunAsync(job, SilentProgress.Instance));
        refused.Message.ShouldContain("model.layers.1.mlp.up_proj.weight");
    }

    internal static PruningJob Job(TemporaryFolder folder, string family, ICriterion criterion, Pattern pattern)
    {
        ModelConfig config = TinyModels.Config(family);
        Directory.CreateDirectory(folder["model"]);
        TinyModels.Write(folder["model"], config);
        var random = new Seed(5).Random("calibration");
        return new PruningJob
        {
            Model = "tiny",
            Folder = folder["model"],
            Out = folder["out"],
            Plan = new PruningPlan { Criterion = criterion, Pattern = pattern },
            Calibration = [.. Enumerable.Range(0, 6).Select(_ => Enumerable.Range(0, 12).Select(_ => random.NextInt64(config.VocabSize)).ToArray())],
        };
    }

    /// <summary>Cancels when a figure of a name is reported for a step.</summary>
    private sealed class StopAt(CancellationTokenSource source, string name, long at) : IProgressSink
    {
        public IProgressTask Begin(string begun, long total, string unit) => SilentProgress.Instance;

        public void Say(string message)
        {
        }

        public void Warn(string message)
        {
        }

        public void Report(string reported, long step, double value)
        {
            if (reported.StartsWith(name, StringComparison.Ordinal) && step >= at)
            {
                source.Cancel();
            }
        }
    }
}
