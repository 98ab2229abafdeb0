using Espalier.Models;
using Espalier.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace Espalier.Tests.Models;

public sealed class LanguageModelTests
{
    public static TheoryData<string> Families => TinyModels.Families;

    [Theory]
    [MemberData(nameof(Families))]
    public void Every_parameter_gets_a_gradient(string family)
    {
        using LanguageModel model = TinyModels.Create(family);
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 9);
        model.Logits(ids).square().mean().backward();
        foreach ((string name, var value) in model.Tensors)
        {
            value.grad.ShouldNotBeNull(name);
            value.grad.isfinite().all().item<bool>().ShouldBeTrue(name);
            // A bias on keys moves every score of a query alike, so softmax does not see it; only rotary positions do.
            if (!name.EndsWith("k_proj.bias", StringComparison.Ordinal))
            {
                value.grad.abs().max().item<float>().ShouldBeGreaterThan(0, name);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void A_token_changes_no_logits_before_it(string family)
    {
        using LanguageModel model = TinyModels.Create(family);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor ids = TinyModels.Ids(model.Config, 1, 12);
        Tensor before = model.Logits(ids);
        ids[0, 7] = (ids[0, 7] + 1) % model.Config.VocabSize;
        Tensor change = (model.Logits(ids) - before).abs().amax([0, 2]);
        change.narrow(0, 0, 7).max().item<float>().ShouldBe(0);
        change[7].item<float>().ShouldBeGreaterThan(1e-4f);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Loading_and_running_leaves_no_tensor_behind(string family)
    {
        ModelConfig config = TinyModels.Config(family);
        using MemoryTensors tensors = TinyModels.Tensors(config);
        NativeLibraries.EnsureLoaded();
        DisposeScopeManager.Statistics.Reset();
        using (LanguageModel model = LanguageModel.Load(config, tensors))
        {
            using Tensor ids = TinyModels.Ids(config, 2, 6);
            using Tensor logits = model.Logits(ids);
            using Tensor loss = logits.sum();
            loss.backward();
            foreach ((_, var value) in model.Tensors)
            {
                value.grad?.Dispose();
            }
        }

        DisposeScopeManager.Statistics.ThreadTotalLiveCount.ShouldBe(0);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void Random_models_repeat_with_their_seed(string family)
    {
        ModelConfig config = TinyModels.Config(family);
        using LanguageModel first = LanguageModel.Random(config, new Seed(5));
        using LanguageModel second = LanguageModel.Random(config, new Seed(5));
        using LanguageModel other = LanguageModel.Random(config, new Seed(6));
        using var scope = NewDisposeScope();
        foreach (((string name, var a), (_, var b), (_, var c)) in first.Tensors.Zip(second.Tensors, other.Tensors))
        {
            a.equal(b).all().item<bool>().ShouldBeTrue(name);
            (a.dim() == 1 || !a.equal(c).all().item<bool>()).ShouldBeTrue(name);
        }

        float deviation = first.Embedding.Tokens.weight.std().item<float>();
        deviation.ShouldBe(0.02f, 0.002f);
    }

    [Theory]
    [InlineData("llama", false)]
    [InlineData("opt", true)]
    public void A_tied_head_counts_once(string family, bool tied)
    {
        using LanguageModel model = TinyModels.Create(family);
        model.Config.TieWordEmbeddings.ShouldBe(tied);
        (model.Head.Projection is null).ShouldBe(tied);
        model.Tensors.Select(t => t.Name).ShouldBeUnique();
        model.ParameterCount.ShouldBe(model.Tensors.Sum(t => t.Value.numel()));
        model.Tensors.Any(t => t.Name == "lm_head.weight").ShouldBe(!tied);
    }

    [Theory]
    [InlineData("llama", "model.")]
    [InlineData("opt", "model.")]
    [InlineData("opt", "model.decoder.")]
    [InlineData("gpt2", "transformer.")]
    [InlineData("gpt_neox", "gpt_neox.")]
    public void Shorter_prefixes_are_recognized(string family, string dropped)
    {
        ModelConfig config = TinyModels.Config(family);
        using MemoryTensors tensors = TinyModels.Tensors(config);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor ids = TinyModels.Ids(config, 1, 8);
        using LanguageModel usual = LanguageModel.Load(config, tensors);
        foreach (string name in tensors.Names.Where(n => n.StartsWith(dropped, StringComparison.Ordinal)).ToList())
        {
            tensors.Rename(name, name[dropped.Length..]);
        }

        using LanguageModel other = LanguageModel.Load(config, tensors);
        other.Tensors.Select(t => t.Name).ShouldBe(tensors.Names, ignoreOrder: true);
        other.Logits(ids).equal(usual.Logits(ids)).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void What_holds_nothing_learned_is_ignored()
    {
        ModelConfig config = TinyModels.Config("gpt2");
        using MemoryTensors tensors = TinyModels.Tensors(config);
        using Tensor mask = ones(1, 1, 32, 32);
        tensors.Set("transformer.h.0.attn.bias", mask);
        tensors.Set("transformer.h.1.attn.masked_bias", mask);
        tensors.Set("lm_head.weight", mask);
        Should.NotThrow(() => LanguageModel.Load(config, tensors).Dispose());
    }

    [Fact]
    public void Faulty_checkpoints_are_told_apart_in_one_sentence()
    {
        ModelConfig config = TinyModels.Config("llama");
        using MemoryTensors tensors = TinyModels.Tensors(config);
        foreach (string part in (string[])["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"])
        {
            tensors.Remove($"model.layers.1.{(part.Length == 6 && part[1] == '_' && part != "up_proj" ? "self_attn" : "mlp")}.{part}.weight");
        }

        using Tensor wrong = ones(3, 3);
        tensors.Set("model.layers.0.mlp.down_proj.weight", wrong);
        tensors.Set("model.layers.2.input_layernorm.weight", wrong);
        string message = Should.Throw<EspalierException>(() => LanguageModel.Load(config, tensors)).Message;
        message.ShouldContain("6 tensors are missing (model.layers.1.self_attn.q_proj.weight");
        message.ShouldContain("and 1 more");
        message.ShouldContain("1 tensor is unknown (model.layers.2.input_layernorm.weight)");
        message.ShouldContain("model.layers.0.mlp.down_proj.weight is [3, 3] instead of [24, 40]");
    }

    [Fact]
    public void A_context_that_is_too_long_and_ids_that_are_unknown_are_sentences()
    {
        using LanguageModel model = TinyModels.Create("llama");
        using Tensor ids = zeros(1, 33, ScalarType.Int64);
        Should.Throw<EspalierException>(() => model.Logits(ids)).Message.ShouldContain("33 tokens is longer than the 32");
        using Tensor unknown = full(1, 2, 37, ScalarType.Int64);
        Should.Throw<EspalierException>(() => model.Logits(unknown)).Message.ShouldContain("token id 37");
    }

    [Fact]
    public void A_window_wider_than_the_text_changes_nothing()
    {
        using LanguageModel wide = TinyModels.Create(TinyModels.Config("mistral", ("sliding_window", 12)));
        using LanguageModel none = TinyModels.Create(TinyModels.Config("mistral", ("sliding_window", null)));
        using LanguageModel narrow = TinyModels.Create(TinyModels.Config("mistral", ("sliding_window", 11)));
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor ids = TinyModels.Ids(wide.Config, 1, 12);
        Tensor expected = none.Logits(ids);
        (wide.Logits(ids) - expected).abs().max().item<float>().ShouldBe(0);
        Tensor change = (narrow.Logits(ids) - expected).abs().amax([0, 2]); // only the last token loses one: the first
        change.narrow(0, 0, 11).max().item<float>().ShouldBeLessThan(1e-5f);
        change[11].item<float>().ShouldBeGreaterThan(1e-4f);
    }

    [Fact]
    public void Qwen2_windows_only_its_upper_blocks()
    {
        (string, System.Text.Json.Nodes.JsonNode?)[] windowed = [("use_sliding_window", true), ("sliding_window", 3), ("max_window_layers", 1)];
        using LanguageModel upper = TinyModels.Create(TinyModels.Config("qwen2", windowed));
        using LanguageModel typed = TinyModels.Create(TinyModels.Config("qwen2", [.. windowed[..2], ("layer_types", new System.Text.Json.Nodes.JsonArray("full_attention", "sliding_attention"))]));
        using LanguageModel full = TinyModels.Create(TinyModels.Config("qwen2"));
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor ids = TinyModels.Ids(full.Config, 1, 10);
        Tensor hidden = full.Embedding.Forward(ids, 0);
        Tensor first = full.Blocks[0].Forward(hidden);
        upper.Blocks[0].Forward(hidden).equal(first).all().item<bool>().ShouldBeTrue();
        (upper.Blocks[1].Forward(first) - full.Blocks[1].Forward(first)).abs().max().item<float>().ShouldBeGreaterThan(1e-4f);
        typed.Logits(ids).equal(upper.Logits(ids)).all().item<bool>().ShouldBeTrue();
    }

    [Fact]
    public void Linear_rotary_scaling_at_twice_the_position_is_none_at_the_position()
    {
        var plain = new RopeSettings(10000, RopeScaling.None, 1, 1, 1, 32);
        using var one = new Rotary(plain, 6);
        using var two = new Rotary(plain with { Scaling = RopeScaling.Linear, Factor = 2 }, 6);
        using var scope = NewDisposeScope();
        Tensor x = randn(1, 2, 1, 8);
        (one.Turn(x, 5) - two.Turn(x, 10)).abs().max().item<float>().ShouldBeLessThan(1e-6f);
        one.Turn(x, 5).narrow(-1, 6, 2).equal(x.narrow(-1, 6, 2)).all().item<bool>().ShouldBeTrue();
    }

    [Theory]
    [InlineData("llama", "attention_bias", true)]
    [InlineData("llama", "mlp_bias", true)]
    [InlineData("llama", "num_key_value_heads", 1)]
    [InlineData("llama", "head_dim", 10)]
    [InlineData("qwen3", "attention_bias", true)]
    [InlineData("opt", "enable_bias", false)]
    [InlineData("opt", "layer_norm_elementwise_affine", false)]
    [InlineData("opt", "_remove_final_layer_norm", true)]
    [InlineData("opt", "word_embed_proj_dim", 10)]
    [InlineData("opt", "tie_word_embeddings", false)]
    [InlineData("gpt2", "scale_attn_by_inverse_layer_idx", true)]
    [InlineData("gpt2", "scale_attn_weights", false)]
    [InlineData("gpt_neox", "use_parallel_residual", false)]
    [InlineData("gpt_neox", "tie_word_embeddings", true)]
    public void A_configured_variant_computes_something_else_and_trains(string family, string field, object value)
    {
        System.Text.Json.Nodes.JsonNode node = System.Text.Json.JsonSerializer.SerializeToNode(value)!;
        using LanguageModel model = TinyModels.Create(TinyModels.Config(family, (field, node)));
        using LanguageModel plain = TinyModels.Create(family);
        using var scope = NewDisposeScope();
        Tensor ids = TinyModels.Ids(model.Config, 2, 8);
        Tensor logits = model.Logits(ids);
        logits.shape.ShouldBe([2, 8, 37]);
        (logits - plain.Logits(ids)).abs().max().item<float>().ShouldBeGreaterThan(1e-4f);
        logits.mean().backward();
        model.Tensors.ShouldAllBe(t => !ReferenceEquals(t.Value.grad, null));
    }
}
