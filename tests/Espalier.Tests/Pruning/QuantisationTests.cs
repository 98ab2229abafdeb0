using Espalier.Checkpoints;
using Espalier.Methods.Pruning;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Sparsity.Packed;
using Espalier.Tests.Models;
using static TorchSharp.torch;

namespace Espalier.Tests.Pruning;

public sealed class QuantisationTests
{
    public static TheoryData<string> Families => TinyModels.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public async Task Packing_gives_back_what_was_written_bit_by_bit(string family)
    {
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, family, new SparseGpt(), Pattern.Unstructured(0.5));
        TinyModels.Write(job.Folder, TinyModels.Config(family), type: ScalarType.BFloat16);
        long live = Parameters.LiveTensors;
        job = job with { Plan = job.Plan with { Repair = (SparseGpt)job.Plan.Criterion, Quantisation = new Quantisation { Type = PackedType.Int4, Method = (SparseGpt)job.Plan.Criterion } } };
        PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
        (Parameters.LiveTensors - live).ShouldBeLessThanOrEqualTo(0, "native tensors outlived the run");
        report.Quantisation!.Type.ShouldBe("int4");
        report.Quantisation.RoundedToZero.ShouldBeGreaterThanOrEqualTo(0);
        ModelConfig.Load(job.Out).ToJsonText().ShouldContain("float32");
        RequirePacks(folder, job.Out, PackedType.Int4);
    }

    [Theory]
    [InlineData(PackedType.Int8, "2:4")]
    [InlineData(PackedType.Int4, "0.5")]
    [InlineData(PackedType.Int4, "0")]
    [InlineData(PackedType.Int8, "0")]
    public async Task Every_criterion_and_repair_ends_on_the_grid(PackedType type, string shape)
    {
        foreach (IWeightQuantiser method in (IWeightQuantiser[])[new RoundToNearest(), new SparseGpt()])
        {
            using var folder = new TemporaryFolder();
            Pattern pattern = shape.Contains(':') ? Pattern.Parse(shape, null) : Pattern.Unstructured(double.Parse(shape, System.Globalization.CultureInfo.InvariantCulture));
            PruningJob job = PrunerTests.Job(folder, "llama", new Wanda(), pattern);
            job = job with { Plan = job.Plan with { Repair = shape == "2:4" ? new SparseGpt() : null, Quantisation = new Quantisation { Type = type, Method = method } } };
            PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
            report.Pruned.ShouldBe((long)(report.Prunable * pattern.Sparsity));
            RequirePacks(folder, job.Out, type);
        }
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("gpt2")]
    public async Task After_training_weights_lie_on_the_grid_again_and_zeros_stay(string family)
    {
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, family, new Magnitude(), Pattern.Unstructured(0.5));
        long[][] windows = job.Calibration;
        job = job with
        {
            Plan = job.Plan with
            {
                Reconstruction = new Perp { Subset = Subset.Norms | Subset.MaskLora, Steps = 2, Batch = 2, Rank = 2 },
                Quantisation = new Quantisation { Type = PackedType.Int8 },
                Retraining = new Perp { Subset = Subset.Norms | Subset.MaskLora, Steps = 4, Batch = 2, Length = 12, Rank = 2, LearningRate = 1e-2 },
            },
            Evaluation = windows,
            RetrainingText = (batch, _) => (step, _) => stack([.. Enumerable.Range(0, batch).Select(i => tensor(windows[(step + i) % windows.Length]))]),
        };
        PruningReport report = await Pruner.RunAsync(job, SilentProgress.Instance);
        report.Quality.Select(q => q.Stage).ShouldBe(["dense", "pruned", "quantised", "retrained", "requantised"]);
        PruningReportPage.RequantisingCost(report).ShouldContain("Rounding again after retraining took perplexity from");
        RequirePacks(folder, job.Out, PackedType.Int8);
        using Checkpoint output = Checkpoint.Open(job.Out);
        using LanguageModel model = LanguageModel.Load(ModelConfig.Load(job.Out), output);
        IReadOnlyDictionary<string, SparsityMask> masks = SparsityMasks.Load(job.Out);
        foreach (BlockLinear linear in model.Blocks.SelectMany(b => b.Linears))
        {
            masks[linear.Name].Revived(linear.Linear.Matrix.detach()).ShouldBe(0);
            masks[linear.Name].Sparsity.ShouldBe(0.5, 0.02);
        }
    }

    [Theory]
    [InlineData("quantise: { type: int5 }", "'int5' is no type")]
    [InlineData("quantise: { type: bf16 }", "int8 or int4")]
    [InlineData("quantise: rtn", "names no type")]
    [InlineData("quantise: { type: int4, method: wanda }", "use one of: rtn, sparsegpt")]
    [InlineData("quantise: { type: int4, method: rtn, blocksize: 3 }", "'blocksize' is no option of rtn")]
    [InlineData("quantise: { type: int4, method: sparsegpt, blocksize: 64 }", "in one sweep")]
    [InlineData("quantize: { type: int4 }", "Did you mean 'quantise'")]
    public void What_is_wrong_with_the_words_gets_a_sentence(string words, params string[] says) =>
        says.ShouldContain(s => Should.Throw<EspalierException>(() => Plan(words)).Message.Contains(s));

    [Fact]
    public void The_words_name_the_sweep_where_sparsegpt_repairs_and_rounding_to_the_nearest_elsewhere()
    {
        PruningPlan joint = Plan("quantise: { type: int4 }");
        joint.Quantisation!.Method.ShouldBeSameAs(joint.Repair);
        joint.Describe().Single(p => p.Part == "quantisation").Value.ShouldStartWith("int4 by sparsegpt(blocksize=128");
        Plan("quantise: { type: int8, method: rtn }").Quantisation!.Method.ShouldBeOfType<RoundToNearest>();
        Plan("quantise: none").Quantisation.ShouldBeNull();
        PruneRequest dense = PruneRequest.Read(PlanWords.Set(PlanFile.Parse("{ model: m, out: o, prune: { sparsity: 0 } }", "p"), "quantise.type=int8"));
        dense.ToPlan().Quantisation!.Method.ShouldBeOfType<RoundToNearest>();
        PlanFile.Parse(dense.ToYaml(), "again").Bind<PruneRequest>().ToPlan().Describe().ShouldBe(dense.ToPlan().Describe());
        Should.Throw<EspalierException>(() => new PruningPlan { Criterion = new Magnitude(), Pattern = Pattern.Structured(0.2), Quantisation = new Quantisation { Type = PackedType.Int8 } }.Validate())
            .Message.ShouldContain("a plan of its own");
    }

    private static PruningPlan Plan(string words) => PruneRequest.Read(PlanFile.Parse($"model: m\nprune: {{ criterion: sparsegpt, sparsity: 0.5 }}\n{words}\nout: o", "plan.yaml")).ToPlan();

    private static void RequirePacks(TemporaryFolder folder, string model, PackedType type)
    {
        using Checkpoint written = Checkpoint.Open(model);
        Packer.Pack(model, new PackOptions(type) { HeadType = null }, folder["packed"], SilentProgress.Instance).LogitDifference.ShouldBe(0);
        using PackedSource packed = PackedSource.Open(folder["packed"]);
        packed.PackedNames.Count.ShouldBeGreaterThan(0);
        foreach (string name in packed.PackedNames)
        {
            using var scope = NewDisposeScope();
            written.Info(name).ElementType.ShouldBe("F32");
            packed.Read(name).bytes.SequenceEqual(written.Read(name).bytes).ShouldBeTrue(name);
        }
    }
}
