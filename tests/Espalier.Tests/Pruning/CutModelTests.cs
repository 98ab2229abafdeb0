using Espalier.Checkpoints;
using Espalier.Methods.Pruning;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Pruning.Structured;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models;
using static TorchSharp.torch;

namespace Espalier.Tests.Pruning;

public sealed class CutModelTests
{
    public static TheoryData<string, Units, bool> Cuts
    {
        get
        {
            var data = new TheoryData<string, Units, bool>();
            foreach (string family in Architecture.Known)
            {
                foreach (Units units in new[] { Units.Heads, Units.Neurons, Units.Heads | Units.Neurons })
                {
                    data.Add(family, units, false);
                    Architecture architecture = Architecture.For(TinyModels.Config(family));
                    if ((!units.HasFlag(Units.Heads) || architecture.ReaderBiasField(true) is not null) && (!units.HasFlag(Units.Neurons) || architecture.ReaderBiasField(false) is not null))
                    {
                        data.Add(family, units, true);
                    }
                }
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Cuts))]
    public void The_cut_model_answers_as_the_masked_one(string family, Units units, bool bias)
    {
        using var folder = new TemporaryFolder();
        var flap = new Flap();
        PruningJob job = PrunerTests.Job(folder, family, flap, Pattern.Structured(0.15, new Pattern.StructuredPattern { Units = units }));
        job = job with { Plan = job.Plan with { Repair = bias ? flap : null } };
        long live = Parameters.LiveTensors;
        using (var run = new Run(job))
        {
            using var scope = NewDisposeScope();
            using var _ = no_grad();
            run.Cut.Structure!.Achieved.ShouldBeGreaterThan(0.02);
            using MemoryTensors masked = Masked(run, bias);
            using LanguageModel whole = LanguageModel.Load(run.Model.Config, masked);
            using LanguageModel smaller = LanguageModel.Load(run.Cut.Config, run.Cut.Finished());
            using LanguageModel dense = LanguageModel.Load(job.Folder);
            Tensor ids = TinyModels.Ids(dense.Config, 2, 9);
            smaller.ParameterCount.ShouldBe(run.Cut.Structure.ParametersAfter);
            dense.ParameterCount.ShouldBe(run.Cut.Structure.ParametersBefore);
            Difference(smaller, whole, ids).ShouldBeLessThan(1e-5f);
            Difference(smaller, dense, ids).ShouldBeGreaterThan(1e-3f);
            foreach (BlockChoice block in run.Cut.Plan.Blocks)
            {
                block.Heads.Count.ShouldBeGreaterThanOrEqualTo(1);
                block.Neurons.Count.ShouldBeGreaterThanOrEqualTo(8);
            }
        }

        (Parameters.LiveTensors - live).ShouldBeLessThanOrEqualTo(0, "native tensors outlived the cut");
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void A_model_without_some_layers_is_the_dense_one_that_skips_them(string family)
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Layered(folder, family, new Minitron(), new Pattern.StructuredPattern { Layers = 3 });
        using var run = new Run(job);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using LanguageModel smaller = LanguageModel.Load(run.Cut.Config, run.Cut.Finished());
        using LanguageModel dense = LanguageModel.Load(job.Folder);
        smaller.Blocks.Count.ShouldBe(3);
        Tensor ids = TinyModels.Ids(dense.Config, 2, 9);
        Tensor x = dense.Embedding.Forward(ids, 0);
        foreach (BlockChoice block in run.Cut.Plan.Blocks)
        {
            x = dense.Blocks[block.Index].Forward(x);
        }

        (smaller.Logits(ids) - dense.Head.Forward(x)).abs().max().item<float>().ShouldBeLessThan(1e-5f);

        // Those that turn the stream least are the ones that went.
        double[] importance = Importances(dense, job);
        int[] kept = [.. run.Cut.Plan.Blocks.Select(b => b.Index)];
        kept.ShouldBe(Enumerable.Range(0, 5).Except(Minitron.LayersToDrop(importance, 2)));
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("mistral")]
    [InlineData("qwen2")]
    [InlineData("qwen3")]
    public void Without_some_channels_it_is_the_dense_one_whose_norms_count_the_rest(string family)
    {
        using var folder = new TemporaryFolder();
        PruningJob job = PrunerTests.Job(folder, family, new Minitron(), Pattern.Structured(options: new() { Hidden = 18 }));
        using var run = new Run(job);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using LanguageModel smaller = LanguageModel.Load(run.Cut.Config, run.Cut.Finished());
        smaller.Config.HiddenSize.ShouldBe(18);

        // Masked: channels are 0 everywhere, and as a mean over 24 is 18/24 of the mean over 18, ε and gains follow.
        ModelConfig config = ModelConfig.Load(job.Folder);
        using MemoryTensors masked = TinyModels.Tensors(config);
        using (LanguageModel dense = LanguageModel.Load(job.Folder))
        {
            CoupledGroup channels = dense.HiddenChannels;
            string[] norms = [.. dense.Tensors.Where(t => t.Value.dim() == 1 && t.Value.shape[0] == 24 && t.Name.EndsWith("norm.weight", StringComparison.Ordinal)).Select(t => t.Name)];
            foreach (int channel in Enumerable.Range(0, 24).Except(run.Cut.Plan.Channels))
            {
                foreach (TensorSlice slice in channels.Slices(channel))
                {
                    Tensor value = masked.Read(slice.Tensor);
                    value.narrow(slice.Axis, slice.Start, slice.Length).zero_();
                    masked.Set(slice.Tensor, value);
                }
            }

            foreach (string norm in norms)
            {
                masked.Set(norm, masked.Read(norm) * Math.Sqrt(18.0 / 24));
            }
        }

        using LanguageModel whole = LanguageModel.Load(config.With("rms_norm_eps", config.NormEpsilon * 18 / 24), masked);
        Difference(smaller, whole, TinyModels.Ids(config, 2, 9)).ShouldBeLessThan(family == "qwen3" ? 1e-4f : 1e-5f);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Every_kind_of_unit_may_go_at_once_in_every_family(string family)
    {
        using var folder = new TemporaryFolder();
        PruningJob job = Layered(folder, family, new RandomChoice(), new Pattern.StructuredPattern { Hidden = 18, Neurons = 24, KeyValueHeads = 1, Layers = 3 });
        using var run = new Run(job);
        using var scope = NewDisposeScope();
        using LanguageModel smaller = LanguageModel.Load(run.Cut.Config, run.Cut.Finished());
        smaller.Config.HiddenSize.ShouldBe(18);
        smaller.Config.LayerCount.ShouldBe(3);
        smaller.Config.HeadDim.ShouldBe(6);
        smaller.Config.ShapeOf(2).ShouldBe(new BlockShape(family is "gpt2" or "opt" or "gpt_neox" ? 1 : 2, 1, 24));
        smaller.Config.BlockShapes.ShouldBeNull();
        smaller.Logits(TinyModels.Ids(smaller.Config, 1, 5)).isfinite().all().item<bool>().ShouldBeTrue();
        foreach (string name in run.Cut.Finished().Names)
        {
            run.Cut.Finished().Read(name).shape.ShouldBe(run.Cut.Finished().Info(name).Shape);
        }
    }

    [Fact]
    public void A_larger_share_removes_what_a_smaller_one_removed()
    {
        foreach (ICriterion criterion in new ICriterion[] { new Flap(), new Wanda(), new Magnitude(), new RandomChoice(), new Minitron() })
        {
            using var folder = new TemporaryFolder();
            CutPlan? before = null;
            foreach (double share in new[] { 0.1, 0.25, 0.4 })
            {
                using var run = new Run(PrunerTests.Job(folder, "gpt2", criterion, Pattern.Structured(share, new() { Round = 1 })));
                run.Cut.Structure!.Achieved.ShouldBe(share, 0.06);
                foreach ((BlockChoice now, BlockChoice earlier) in before is null ? [] : run.Cut.Plan.Blocks.Zip(before.Blocks))
                {
                    now.Neurons.ShouldBeSubsetOf(earlier.Neurons);
                    now.Heads.ShouldBeSubsetOf(earlier.Heads);
                }

                before = run.Cut.Plan;
            }
        }
    }

    [Fact]
    public void Flap_chooses_as_its_published_search()
    {
        using var folder = new TemporaryFolder();
        var flap = new Flap { MinimumNeurons = 1, NeuronMultiple = 1 };
        using var run = new Run(PrunerTests.Job(folder, "gpt2", flap, Pattern.Structured(0.3, new() { Round = 1 })));
        using var scope = NewDisposeScope();
        UnitMeasure measure = new(run.Job, run.Model, run.Journal, spills: false, SilentProgress.Instance);
        Tensor attention = stack([measure.ScoresOf(0, CoupledKind.AttentionHead), measure.ScoresOf(1, CoupledKind.AttentionHead)]);
        Tensor neurons = stack([measure.ScoresOf(0, CoupledKind.Neuron), measure.ScoresOf(1, CoupledKind.Neuron)]);

        // The ratio that the search sees is the share of what heads and neurons can give.
        long units = run.Model.Config.LayerCount * ((4 * ((24 * 6 * 4) + 18)) + (40 * 49L));
        double ratio = 0.3 * Architecture.For(run.Model.Config).BlockParameterCount(run.Model.Config) / units;
        FlapChoice published = Flap.Search(attention, neurons, new FlapSearch { Ratio = ratio, Units = new FlapUnits(6) });
        int[] wanted = [.. published.KeepNeurons.sum([1L]).data<long>().ToArray().Select(n => (int)n)];

        // GPT-2's heads weigh more against its ungated neurons than the published floor(4·6/3) = 8: 594 / 49 = 12.
        IReadOnlyList<double> counted = ((IUnitAllocator)flap).Keep(Groups(attention, neurons, 600, 75), ratio * 2 * ((4 * 600) + (40 * 75)));
        counted[1].ShouldBe(wanted[0]);
        counted[3].ShouldBe(wanted[1]);

        static UnitGroup[] Groups(Tensor attention, Tensor neurons, long head, long neuron) =>
        [
            .. Enumerable.Range(0, 2).SelectMany(i => new[]
            {
                new UnitGroup(i, CoupledKind.AttentionHead, 4, head) { Channels = attention[i] },
                new UnitGroup(i, CoupledKind.Neuron, 40, neuron) { Channels = neurons[i] },
            }),
        ];
    }

    public static TheoryData<string> Families => TinyModels.Families;

    internal static PruningJob Layered(TemporaryFolder folder, string family, ICriterion criterion, Pattern.StructuredPattern sizes)
    {
        PruningJob job = PrunerTests.Job(folder, family, criterion, Pattern.Structured(options: sizes));
        TinyModels.Write(job.Folder, TinyModels.Config(family, (family == "gpt2" ? "n_layer" : "num_hidden_layers", 5)));
        return job;
    }

    private static float Difference(LanguageModel a, LanguageModel b, Tensor ids) => (a.Logits(ids) - b.Logits(ids)).abs().max().item<float>();

    // The dense model with the readers' columns at 0, and the mean of what they added in the readers' biases, taken from the dense model's own inputs.
    private static MemoryTensors Masked(Run run, bool bias)
    {
        var masked = new MemoryTensors(run.Model.Source.Names.Select(n => (n, run.Model.Source.Read(n))));
        using LanguageModel dense = LanguageModel.Load(run.Model.Config, run.Model.Source);
        var inputs = new Dictionary<string, List<Tensor>>();
        foreach (BlockLinear linear in dense.Blocks.SelectMany(b => b.Linears))
        {
            inputs[linear.Name] = [];
            linear.Linear.InputObserver = x => inputs[linear.Name].Add(x.reshape(-1, x.shape[^1]).clone().DetachFromDisposeScope());
        }

        foreach (long[] window in run.Job.Calibration)
        {
            dense.Logits(tensor(window).unsqueeze(0)).Dispose();
        }

        foreach (BlockChoice choice in run.Cut.Plan.Blocks)
        {
            foreach (CoupledGroup group in dense.Blocks[choice.Index].Groups)
            {
                IReadOnlyList<int> kept = group.Kind is CoupledKind.Neuron ? choice.Neurons : choice.Heads;
                Linear linear = dense.Blocks[choice.Index].Linears.First(l => l.Name == group.Reader.Tensor).Linear;
                Tensor mean = cat(inputs[group.Reader.Tensor]).mean([0L]);
                Tensor added = zeros(linear.OutFeatures);
                Tensor weight = masked.Read(group.Reader.Tensor);
                foreach (TensorSlice slice in Enumerable.Range(0, group.Count).Except(kept).Select(u => group.Reader.At(u)))
                {
                    added += linear.Matrix.narrow(1, slice.Start, slice.Length).mv(mean.narrow(0, slice.Start, slice.Length));
                    weight.narrow(slice.Axis, slice.Start, slice.Length).zero_();
                }

                masked.Set(group.Reader.Tensor, weight);
                if (bias && kept.Count < group.Count)
                {
                    string name = group.Reader.Tensor.Replace(".weight", ".bias", StringComparison.Ordinal);
                    masked.Set(name, masked.Read(name) + added);
                }
            }
        }

        inputs.Values.SelectMany(x => x).ToList().ForEach(x => x.Dispose());
        return masked;
    }

    private static double[] Importances(LanguageModel dense, PruningJob job)
    {
        var sums = new double[dense.Blocks.Count];
        foreach (long[] window in job.Calibration)
        {
            Tensor x = dense.Embedding.Forward(tensor(window).unsqueeze(0), 0);
            for (int i = 0; i < sums.Length; i++)
            {
                Tensor y = dense.Blocks[i].Forward(x);
                sums[i] += Minitron.BlockImportance(x, y) / job.Calibration.Length;
                x = y;
            }
        }

        return sums;
    }

    /// <summary>Measures and cuts as a run does, and keeps open what the cut is read from.</summary>
    internal sealed class Run : IDisposable
    {
        private readonly Checkpoint _checkpoint;

        public Run(PruningJob job)
        {
            Job = job;
            _checkpoint = Checkpoint.Open(job.Folder);
            Model = Pruner.Open(job, _checkpoint);
            PruningPreview preview = Pruner.Plan(job, Model);
            Journal = PruningJournal.Open(job.Out, [], fresh: true);
            Cut = new StructuredPass(job, Model, Journal, preview, SilentProgress.Instance).Run(CancellationToken.None);
        }

        public PruningJob Job { get; }

        public StreamedModel Model { get; }

        public PruningJournal Journal { get; }

        public CutModel Cut { get; }

        public void Dispose()
        {
            Journal.Dispose();
            _checkpoint.Dispose();
        }
    }
}
