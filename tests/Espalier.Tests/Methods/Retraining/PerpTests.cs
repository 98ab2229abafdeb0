using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Tests.Models;
using Espalier.Training;
using static Espalier.Tests.Methods.Retraining.TinyRetraining;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Retraining;

public sealed class PerpTests
{
    [Theory]
    [InlineData("opt", Subset.Biases)]
    [InlineData("opt", Subset.Biases | Subset.Norms)]
    [InlineData("llama", Subset.Norms)]
    [InlineData("llama", Subset.Norms | Subset.MaskLora)]
    [InlineData("llama", Subset.Head | Subset.ScaleLora)]
    [InlineData("gpt2", Subset.MaskLora)]
    [InlineData("gpt2", Subset.Full)]
    [InlineData("qwen3", Subset.LoraPrune)]
    [InlineData("llama", Subset.Full)]
    public void Retraining_lowers_the_loss_keeps_every_zero_and_touches_nothing_that_was_not_selected(string family, Subset subset)
    {
        using var folder = new TemporaryFolder();
        using LanguageModel model = TinyModels.Create(TinyModels.Config(family, ("tie_word_embeddings", false)));
        Dictionary<string, SparsityMask> masks = Prune(model.Blocks);
        var perp = new Perp { Subset = subset, Rank = 2, Alpha = 4, Steps = 30, LearningRate = 1e-2 };
        using var scope = NewDisposeScope();
        Dictionary<string, Tensor> before = model.Tensors.ToDictionary(t => t.Name, t => t.Value.detach().clone());

        RetrainingResult result = perp.Retrain(Context(model, masks, folder.Path));

        result.Losses.Count.ShouldBe(30);
        result.Losses.TakeLast(3).Average().ShouldBeLessThan(result.Losses.Take(3).Average());
        foreach (BlockLinear linear in model.Blocks.SelectMany(b => b.Linears))
        {
            masks[linear.Name].Revived(linear.Linear.Matrix.detach()).ShouldBe(0);
            linear.Linear.Adapter.ShouldBeNull();
        }

        bool Selected(string name) => subset.HasFlag(Subset.Full)
            || (subset.HasFlag(Subset.Biases) && name.EndsWith(".bias"))
            || (subset.HasFlag(Subset.Norms) && (name.Contains("norm") || name.Contains("ln_")))
            || (subset.HasFlag(Subset.Head) && name.Contains("lm_head"))
            || ((subset & (Subset.MaskLora | Subset.ScaleLora | Subset.LoraPrune)) != 0 && masks.ContainsKey(name));
        foreach ((string name, var value) in model.Tensors)
        {
            value.equal(before[name]).all().item<bool>().ShouldBe(!Selected(name), name);
        }
    }

    [Theory]
    [InlineData("opt")]
    [InlineData("llama")]
    public void Counts_of_a_real_model_are_those_of_the_formulas(string family)
    {
        using LanguageModel model = TinyModels.Create(TinyModels.Config(family, ("tie_word_embeddings", family == "opt")));
        TrainableCounts counts = family == "opt"
            ? TrainableCounts.Opt(24, 2, 40, 37, 32, rank: 3)
            : TrainableCounts.Llama(24, 2, 40, 37, keyValue: 12, tied: false, rank: 3);
        model.ParameterCount.ShouldBe(counts.Total);
        model.Blocks.SelectMany(b => b.Linears).Sum(l => l.Linear.weight.numel()).ShouldBe(counts.Prunable);
        Selected(Subset.Norms).ShouldBe(counts.Norms);
        Selected(Subset.MaskLora).ShouldBe(counts.Lora);
        Selected(Subset.Norms | Subset.Biases).ShouldBe(counts.BiasesAndNorms);
        if (family == "opt")
        {
            Selected(Subset.Biases).ShouldBe(counts.Biases);
        }
        else
        {
            Selected(Subset.Head).ShouldBe(counts.HeadLora);
            Selected(Subset.Norms | Subset.Head | Subset.MaskLora).ShouldBe(counts.All);
        }

        long Selected(Subset subset)
        {
            using var selected = TrainableSubset.Select(model, new Perp { Subset = subset, Rank = 3 });
            selected.Count.ShouldBe(selected.Parameters.Sum(p => p.Value.numel()));
            return selected.Count;
        }
    }

    [Fact]
    public void An_interrupted_retraining_ends_with_the_same_bytes() => ResumesToTheByte((state, stop) =>
    {
        using LanguageModel model = TinyModels.Create("llama");
        Dictionary<string, SparsityMask> masks = Prune(model.Blocks);
        new Perp { Subset = Subset.Norms | Subset.MaskLora, Rank = 2, Steps = 8, Batch = 2 }.Retrain(Context(model, masks, state, stop: stop));
        return TinyRetraining.Bytes(model);
    });

    [Theory]
    [InlineData(Subset.Norms | Subset.MaskLora)]
    [InlineData(Subset.LoraPrune)]
    [InlineData(Subset.Full)]
    public void Reconstruction_brings_a_pruned_block_closer_to_the_dense_one(Subset subset)
    {
        using var scope = NewDisposeScope();
        using LanguageModel model = TinyModels.Create("llama");
        DecoderBlock block = model.Blocks[0];
        using BlockRepairContextOwner owner = Store(block);
        Dictionary<string, SparsityMask> masks = Prune([block]);
        BlockRepairResult result = new Perp { Subset = subset, Rank = 4, Alpha = 8, Steps = 40, LearningRate = 5e-3 }.Repair(owner.Context(masks));
        result.Kept.ShouldBeTrue();
        result.ErrorAfter.ShouldBeLessThan(result.ErrorBefore);
        owner.Error().ShouldBe(result.ErrorAfter, 1e-4 * result.ErrorBefore);
        block.Linears.ShouldAllBe(l => masks[l.Name].Revived(l.Linear.Matrix.detach()) == 0);
    }

    [Theory]
    [InlineData(Subset.Norms | Subset.MaskLora)]
    [InlineData(Subset.Full)]
    public void A_block_whose_error_did_not_fall_is_left_as_it_was(Subset subset)
    {
        using var scope = NewDisposeScope();
        using LanguageModel model = TinyModels.Create("llama");
        DecoderBlock block = model.Blocks[0];
        using BlockRepairContextOwner owner = Store(block);
        Dictionary<string, SparsityMask> masks = Prune([block]);
        byte[] before = Bytes(block);
        BlockRepairResult result = new Perp { Subset = subset, Rank = 4, Steps = 12, LearningRate = 0.7 }.Repair(owner.Context(masks));
        result.Kept.ShouldBeFalse();
        result.ErrorAfter.ShouldBeGreaterThanOrEqualTo(result.ErrorBefore);
        Bytes(block).ShouldBe(before);
        block.Linears.ShouldAllBe(l => l.Linear.Adapter == null);
    }

    [Fact]
    public void A_subset_that_selects_nothing_or_contradicts_itself_is_refused()
    {
        using LanguageModel llama = TinyModels.Create(TinyModels.Config("llama", ("tie_word_embeddings", true)));
        Should.Throw<EspalierException>(() => TrainableSubset.Select(llama, new Perp { Subset = Subset.Biases })).Message.ShouldContain("biases selects nothing");
        Should.Throw<EspalierException>(() => TrainableSubset.Select(llama, new Perp { Subset = Subset.Head })).Message.ShouldContain("tied");
        Should.Throw<EspalierException>(() => TrainableSubset.Select(llama, new Perp { Subset = Subset.MaskLora, Rank = 100 })).Message.ShouldContain("rank of 100");
        Should.Throw<EspalierException>(() => new Perp { Subset = Subset.None });
        Should.Throw<EspalierException>(() => new Perp { Subset = Subset.MaskLora | Subset.ScaleLora }).Message.ShouldContain("several kinds");
        Should.Throw<EspalierException>(() => new Perp { Subset = Subset.Full | Subset.MaskLora });
        Should.Throw<EspalierException>(() => new Perp { Steps = 0 });
        Should.Throw<EspalierException>(() => new Perp { Rank = 0 });
        Should.Throw<EspalierException>(() => new Perp { LearningRate = 0 });
    }

    [Fact]
    public void Plain_Lora_is_refused_before_any_work_when_the_result_is_to_be_written()
    {
        using LanguageModel model = TinyModels.Create("llama");
        var perp = new Perp { Subset = Subset.Norms | Subset.Lora };
        Should.Throw<EspalierException>(() => perp.Check(model.Config, model.Blocks[0], model.Head)).Message.ShouldContain("mask_lora");
        Should.Throw<EspalierException>(() => perp.Check(model.Blocks[0])).Message.ShouldContain("mask_lora");
        Should.NotThrow(() => new Perp { Subset = Subset.Norms, Rank = 2 }.Check(model.Blocks[0]));
    }

    [Fact]
    public void Selecting_and_letting_go_leaves_the_model_and_the_heap_as_they_were()
    {
        using LanguageModel model = TinyModels.Create("opt");
        var frozen = model.Tensors.Skip(1).First();
        frozen.Value.requires_grad = false;
        long before = Parameters.LiveTensors;
        using (TrainableSubset subset = TrainableSubset.Select(model, new Perp { Subset = Subset.Norms | Subset.MaskLora, Rank = 2 }))
        {
            model.Blocks[0].Linears[0].Linear.weight.requires_grad.ShouldBeFalse();
            model.Blocks[0].Linears[0].Linear.Adapter.ShouldNotBeNull();
        }

        model.Blocks[0].Linears[0].Linear.weight.requires_grad.ShouldBeTrue();
        frozen.Value.requires_grad.ShouldBeFalse();
        model.Blocks.SelectMany(b => b.Linears).ShouldAllBe(l => l.Linear.Adapter == null);
        Parameters.LiveTensors.ShouldBe(before);
    }

    [Theory]
    [InlineData(PerpMode.Reconstruct, 25, 2)]
    [InlineData(PerpMode.Retrain, 25, 3)]
    [InlineData(PerpMode.Reconstruct, 7, 0)]
    public void The_warm_up_is_a_tenth_rounded_by_mode(PerpMode mode, int steps, int warmup)
    {
        PerpSchedule.Warmup(mode, steps).ShouldBe(warmup);
        PerpSchedule.At(mode, 0, steps, 1).ShouldBe(warmup > 0 ? 0 : 1);
        PerpSchedule.At(mode, warmup, steps, 1).ShouldBe(1);
        PerpSchedule.At(mode, steps, steps, 1).ShouldBe(0);
        Should.Throw<EspalierException>(() => PerpSchedule.Warmup(mode, 0));
    }

    [Fact]
    public void Rebuilding_a_linear_map_without_a_bias_cannot_train_one()
    {
        using var scope = NewDisposeScope();
        using var linear = new Linear("linear", 4, 3, bias: false);
        linear.SetMatrix(ones(3, 4));
        using var adapter = new MaskLoraAdapter(ones(3, 4), 1, 2, new Seed(0), "w");
        var options = new TrainingOptions { Steps = 2 };
        Should.Throw<EspalierException>(() => Perp.Reconstruct(ones(2, 5, 4), ones(2, 5, 3), linear, adapter, trainBias: true, options)).Message.ShouldContain("bias");
        Should.Throw<EspalierException>(() => Perp.Reconstruct(ones(2, 5, 4), ones(3, 5, 3), linear, adapter, trainBias: false, options)).Message.ShouldContain("belong together");
    }

    private static byte[] Bytes(DecoderBlock block) => [.. block.Tensors.SelectMany(t => t.Value.detach().contiguous().bytes.ToArray())];

    private static BlockRepairContextOwner Store(DecoderBlock dense)
    {
        using var _ = no_grad();
        using var scope = NewDisposeScope();
        using var generator = new Seed(2).Generator("hidden");
        var owner = new BlockRepairContextOwner(dense);
        for (int i = 0; i < 4; i++)
        {
            Tensor x = randn([1, 10, 24], generator: generator);
            owner.Inputs.Write(i, x);
            owner.Targets.Write(i, dense.Forward(x));
        }

        return owner;
    }

    /// <summary>A block with four sequences of inputs and the dense block's answers.</summary>
    private sealed class BlockRepairContextOwner(DecoderBlock block) : IDisposable
    {
        public ActivationStore Inputs { get; } = ActivationStore.Create(4, 10, 24, CPU, null);

        public ActivationStore Targets { get; } = ActivationStore.Create(4, 10, 24, CPU, null);

        public BlockRepairContext Context(IReadOnlyDictionary<string, SparsityMask> masks) => new()
        {
            Block = block,
            Masks = masks,
            Inputs = Inputs,
            Targets = Targets,
            Seed = new Seed(4),
            Progress = SilentProgress.Instance,
        };

        public double Error()
        {
            using var _ = no_grad();
            using var scope = NewDisposeScope();
            return (block.Forward(Inputs.Read(0, 4)) - Targets.Read(0, 4)).square().mean().item<float>();
        }

        public void Dispose()
        {
            Inputs.Dispose();
            Targets.Dispose();
        }
    }
}
