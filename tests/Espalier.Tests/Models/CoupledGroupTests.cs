using System.Text.Json.Nodes;
using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Tests.Models;

public sealed class CoupledGroupTests
{
    public static TheoryData<string, string?> Variants => new()
    {
        { "llama", null }, { "llama", "attention_bias" }, { "llama", "mlp_bias" }, { "mistral", null }, { "qwen2", null }, { "qwen3", null }, { "opt", null }, { "gpt2", null }, { "gpt_neox", null },
    };

    [Theory]
    [MemberData(nameof(Variants))]
    public void Cutting_units_is_masking_their_output(string family, string? flag)
    {
        ModelConfig config = flag is null ? TinyModels.Config(family) : TinyModels.Config(family, (flag, true));
        using LanguageModel model = TinyModels.Create(config);
        foreach ((int groupIndex, int[] units) in new[] { (0, new[] { 1 }), (1, new[] { 0, 17, 39 }) })
        {
            using var scope = NewDisposeScope();
            using var _ = no_grad();
            CoupledGroup group = model.Blocks[1].Groups[groupIndex];
            Tensor ids = TinyModels.Ids(config, 2, 9);

            // Masked: the map that reads the units sees zeros for them.
            using MemoryTensors masked = TinyModels.Tensors(config);
            SlicePattern reader = group.Patterns[^1];
            Tensor weight = masked.Read(reader.Tensor);
            foreach (TensorSlice slice in units.Select(u => reader.At(u)))
            {
                weight.narrow(slice.Axis, slice.Start, slice.Length).zero_();
            }

            masked.Set(reader.Tensor, weight);
            using LanguageModel whole = LanguageModel.Load(config, masked);

            // Cut: the units are gone, and the configuration says so.
            using MemoryTensors cut = new(model.Tensors.Select(t => (t.Name, group.Cut(t.Name, t.Value, units))));
            BlockShape shape = config.ShapeOf(1);
            var shapes = new JsonArray(new JsonObject(), new JsonObject
            {
                ["num_attention_heads"] = shape.Heads - (group.Kind is CoupledKind.Neuron ? 0 : units.Length * shape.Heads / shape.KeyValueHeads),
                ["num_key_value_heads"] = shape.KeyValueHeads - (group.Kind is CoupledKind.Neuron ? 0 : units.Length),
                ["intermediate_size"] = shape.Neurons - (group.Kind is CoupledKind.Neuron ? units.Length : 0),
            });
            using LanguageModel smaller = LanguageModel.Load(config.With("block_shapes", shapes), cut);
            smaller.ParameterCount.ShouldBeLessThan(model.ParameterCount);
            (smaller.Logits(ids) - whole.Logits(ids)).abs().max().item<float>().ShouldBeLessThan(1e-5f);
            (smaller.Logits(ids) - model.Logits(ids)).abs().max().item<float>().ShouldBeGreaterThan(1e-3f);
        }
    }

    [Theory]
    [MemberData(nameof(Variants))]
    public void Hidden_channels_cover_every_tensor_along_the_stream(string family, string? flag)
    {
        ModelConfig config = flag is null ? TinyModels.Config(family) : TinyModels.Config(family, (flag, true));
        using LanguageModel model = TinyModels.Create(config);
        CoupledGroup channels = model.HiddenChannels;
        channels.Count.ShouldBe(24);
        var shapes = model.Tensors.ToDictionary(t => t.Name, t => t.Value.shape);
        foreach (SlicePattern pattern in channels.Patterns)
        {
            shapes[pattern.Tensor][pattern.Axis].ShouldBe(24, pattern.Tensor);
        }

        // A model that is narrower by two channels loads: every tensor was cut where it had to be.
        int[] gone = [3, 20];
        if (family is "llama" or "mistral" or "qwen2" or "qwen3")
        {
            using MemoryTensors cut = new(model.Tensors.Select(t => (t.Name, channels.Cut(t.Name, t.Value, gone))));
            using LanguageModel narrower = LanguageModel.Load(config.With("hidden_size", 22), cut);
            narrower.Config.HiddenSize.ShouldBe(22);
        }
        else
        {
            channels.Patterns.Select(p => p.Tensor).Distinct().Count().ShouldBe(channels.Patterns.Count);
        }
    }

    [Fact]
    public void A_unit_reads_like_a_sentence()
    {
        using DecoderBlock block = Architecture.For(TinyModels.Config("llama")).CreateBlock(TinyModels.Config("llama"), 0);
        block.Groups[1].Describe(17).ShouldBe("neuron 17: gate_proj.weight rows 17, up_proj.weight rows 17, down_proj.weight columns 17");
        block.Groups[0].Describe(1).ShouldBe("key-value group 1: q_proj.weight rows 12-23, k_proj.weight rows 6-11, v_proj.weight rows 6-11, o_proj.weight columns 12-23");
        block.Groups[1].ToString().ShouldBe("40 × neuron of model.layers.0.mlp");
        Should.Throw<ArgumentOutOfRangeException>(() => block.Groups[1].Slices(40));
    }
}
