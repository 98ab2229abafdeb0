using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

namespace Espalier.Tests.Models;

/// <summary>One token at a time on plain memory, and with compact weights, is what the whole model says at once.</summary>
public sealed class DecodingStepTests
{
    private static readonly long[] Ids = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8];

    public static TheoryData<string> Families => TinyModels.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public void Steps_give_the_logits_of_the_whole(string family)
    {
        using LanguageModel model = TinyModels.Create(family);
        StepsMatch(model, model, 1e-5);
    }

    [Fact]
    public void Steps_give_the_logits_of_the_whole_with_windows_head_norms_and_other_orders_of_norms()
    {
        foreach (ModelConfig config in new[]
        {
            TinyModels.Config("mistral", ("sliding_window", 4)), TinyModels.Config("qwen3"), TinyModels.Config("qwen2"), TinyModels.Config("gpt2", ("scale_attn_by_inverse_layer_idx", true)),
            TinyModels.Config("opt", ("do_layer_norm_before", false)), TinyModels.Config("opt", ("enable_bias", false), ("layer_norm_elementwise_affine", false)), TinyModels.Config("gpt_neox", ("use_parallel_residual", false)),
        })
        {
            using LanguageModel model = TinyModels.Create(config);
            StepsMatch(model, model, 1e-5);
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void A_model_with_packed_weights_says_what_the_dense_one_says(string family)
    {
        using LanguageModel model = TinyModels.Create(family);
        using LanguageModel packed = Packed(model, new PackOptions(PackedType.Float32));
        packed.Blocks.SelectMany(b => b.Linears).ShouldAllBe(l => l.Linear.Compact != null);
        packed.ParameterCount.ShouldBe(model.ParameterCount);
        packed.WeightBytes.ShouldBeLessThan(model.WeightBytes * 2);
        StepsMatch(model, packed, 1e-4);
        Prompts(model, packed, 1e-4);
    }

    [Theory]
    [InlineData("relu", 0.0)]
    [InlineData("fatrelu", 0.05)]
    [InlineData("relu2", 0.0)]
    public void Inactive_neurons_are_left_out_and_nothing_changes(string activation, double threshold)
    {
        ModelConfig config = threshold == 0 ? TinyModels.Config("llama", ("hidden_act", activation)) : TinyModels.Config("llama", ("hidden_act", activation), ("hidden_act_param", threshold));
        using LanguageModel model = TinyModels.Create(config);
        using LanguageModel skipping = Packed(model, new PackOptions(PackedType.Float32)), whole = Packed(model, new PackOptions(PackedType.Float32) { SkipInactive = false });
        bool[] byInput = [.. skipping.Blocks[0].Linears.Select(l => ((PackedWeight)l.Linear.Compact!).Matrix.Rows != l.Linear.OutFeatures)];
        byInput.ShouldBe([false, false, false, false, false, false, true]);
        whole.Blocks[0].Linears.ShouldAllBe(l => ((PackedWeight)l.Linear.Compact!).Matrix.Rows == l.Linear.OutFeatures);
        StepsMatch(model, skipping, 1e-4);
        StepsMatch(model, whole, 1e-4);
        Prompts(model, skipping, 1e-4);
        skipping.Blocks[0].Linears[^1].Linear.Matrix.eq(model.Blocks[0].Linears[^1].Linear.Matrix).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Compact_weights_are_refused_elsewhere_than_in_float32_on_the_processor()
    {
        using LanguageModel model = TinyModels.Create("llama");
        using MemoryTensors source = TensorsOf(model);
        Should.Throw<EspalierException>(() => LanguageModel.Load(model.Config, source, type: ScalarType.BFloat16, compact: true)).Message.ShouldContain("float32 on the CPU");
    }

    [Fact]
    public void A_packed_model_leaves_no_tensors_behind()
    {
        using LanguageModel model = TinyModels.Create("llama");
        long before = Parameters.LiveTensors;
        using (LanguageModel packed = Packed(model, new PackOptions(PackedType.Int4)))
        {
            _ = new TextGenerator(packed).Generate([1, 2, 3], new GenerationOptions { MaxNewTokens = 6 }).ToArray();
        }

        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
    }

    private static LanguageModel Packed(LanguageModel model, PackOptions options)
    {
        using MemoryTensors source = TensorsOf(model);
        return LanguageModel.Load(model.Config, new PackingSource(source, model.Config, options), compact: true);
    }

    private static MemoryTensors TensorsOf(LanguageModel model) => new(model.Tensors.Select(t => (t.Name, (Tensor)t.Value)));

    // Prompt, then token by token, against all at once.
    private static void StepsMatch(LanguageModel model, LanguageModel stepping, double bound)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor whole = model.Logits(tensor(Ids).unsqueeze(0))[0];
        using var cache = new KeyValueCache(stepping.Config);
        stepping.NextLogits(Ids.AsSpan(0, 3), cache).sub(whole[2]).abs().max().item<float>().ShouldBeLessThan((float)bound);
        for (int i = 3; i < Ids.Length; i++)
        {
            stepping.NextLogits(Ids.AsSpan(i, 1), cache).sub(whole[i]).abs().max().item<float>().ShouldBeLessThan((float)bound, $"token {i}");
        }

        cache.Length.ShouldBe(Ids.Length);
    }

    private static void Prompts(LanguageModel model, LanguageModel packed, double bound)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor ids = tensor(Ids).unsqueeze(0).repeat(2, 1);
        packed.Logits(ids).sub(model.Logits(ids)).abs().max().item<float>().ShouldBeLessThan((float)bound);
    }
}
