using System.Text.Json.Nodes;
using Espalier.Models;
using Espalier.Runtime;

namespace Espalier.Tests.Models;

public sealed class ModelConfigTests
{
    [Fact]
    public void Absent_fields_take_the_familys_defaults()
    {
        ModelConfig llama = ModelConfig.Parse("""{"model_type":"llama","hidden_size":64,"intermediate_size":96,"num_hidden_layers":3,"num_attention_heads":8,"vocab_size":100,"max_position_embeddings":128}""");
        llama.KeyValueHeadCount.ShouldBe(8);
        llama.HeadDim.ShouldBe(8);
        llama.NormEpsilon.ShouldBe(1e-6);
        llama.Rope.ShouldBe(new RopeSettings(10000, RopeScaling.None, 1, 1, 1, 128));
        llama.Activation.ShouldBe("silu");
        llama.TieWordEmbeddings.ShouldBeFalse();
        TinyModels.Config("gpt2", ("n_inner", null)).IntermediateSize.ShouldBe(96);
        TinyModels.Config("gpt2").TieWordEmbeddings.ShouldBeTrue();
        TinyModels.Config("qwen3", ("head_dim", null)).HeadDim.ShouldBe(128);
    }

    [Fact]
    public void The_newer_rope_parameters_hold_base_and_scaling()
    {
        ModelConfig config = TinyModels.Config("llama", ("rope_parameters", JsonNode.Parse("""{"rope_theta":500000.0,"rope_type":"linear","factor":4}""")));
        config.Rope!.Theta.ShouldBe(500000);
        config.Rope.Scaling.ShouldBe(RopeScaling.Linear);
        config.Rope.Factor.ShouldBe(4);
        TinyModels.Config("llama", ("rope_scaling", JsonNode.Parse("""{"type":"linear","factor":2.5}"""))).Rope!.Factor.ShouldBe(2.5);
    }

    [Fact]
    public void Unknown_keys_survive_rewriting()
    {
        ModelConfig config = TinyModels.Config("llama", ("my_key", JsonNode.Parse("""{"a":[1,2]}""")));
        ModelConfig changed = config.With("num_hidden_layers", 1);
        changed.LayerCount.ShouldBe(1);
        config.LayerCount.ShouldBe(2);
        ModelConfig.Parse(changed.ToJsonText()).Json["my_key"]!.ToJsonString().ShouldBe("""{"a":[1,2]}""");
    }

    [Fact]
    public void Ending_tokens_are_one_or_many()
    {
        TinyModels.Config("llama", ("eos_token_id", 2)).EosTokenIds.ShouldBe([2]);
        TinyModels.Config("llama", ("eos_token_id", new JsonArray(2, 7))).EosTokenIds.ShouldBe([2, 7]);
        TinyModels.Config("llama").EosTokenIds.ShouldBeEmpty();
    }

    [Theory]
    [InlineData("llama", "hidden_size", "null", "has no 'hidden_size'")]
    [InlineData("llama", "hidden_size", "-3", "'hidden_size' is -3, but must be a whole number of at least 1")]
    [InlineData("llama", "hidden_size", "\"wide\"", "'hidden_size' is \"wide\"")]
    [InlineData("llama", "num_hidden_layers", "2.5", "'num_hidden_layers' is 2.5")]
    [InlineData("llama", "num_key_value_heads", "3", "4 attention heads cannot be shared out among 3")]
    [InlineData("llama", "head_dim", "5", "head width of 5")]
    [InlineData("llama", "hidden_act", "\"sine\"", "activation 'sine'")]
    [InlineData("llama", "rms_norm_eps", "0", "'rms_norm_eps' is 0")]
    [InlineData("llama", "tie_word_embeddings", "1", "must be true or false")]
    [InlineData("llama", "rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":2}", "rotary scaling 'yarn' is not supported")]
    [InlineData("llama", "rope_scaling", "{\"type\":\"dynamic\",\"factor\":2}", "rotary scaling 'dynamic' is not supported")]
    [InlineData("llama", "rope_scaling", "{\"rope_type\":\"linear\"}", "has no 'factor'")]
    [InlineData("llama", "rope_scaling", "7", "'rope_scaling' is 7, but must be an object")]
    [InlineData("llama", "block_shapes", "[{}]", "1 entries for 2 blocks")]
    [InlineData("opt", "num_attention_heads", "5", "24 cannot be shared out among 5")]
    [InlineData("gpt2", "add_cross_attention", "true", "cross-attention")]
    [InlineData("gpt_neox", "rotary_pct", "0.5", "turns 3 of a head's 6")]
    [InlineData("qwen2", "layer_types", "[\"full_attention\"]", "'layer_types' has 1 entries for 2 blocks")]
    public void Faults_are_sentences(string family, string field, string value, string sentence)
    {
        (string, JsonNode?)[] changes = field == "layer_types" ? [("use_sliding_window", true), (field, JsonNode.Parse(value))] : [(field, JsonNode.Parse(value))];
        Should.Throw<EspalierException>(() => TinyModels.Config(family, changes)).Message.ShouldContain(sentence);
    }

    [Fact]
    public void Files_that_are_no_configuration_are_sentences()
    {
        using var folder = new TemporaryFolder();
        Should.Throw<EspalierException>(() => ModelConfig.Load(folder["none"])).Message.ShouldContain("There is no folder");
        Should.Throw<EspalierException>(() => ModelConfig.Load(folder.Path)).Message.ShouldContain("has no config.json");
        File.WriteAllText(folder["config.json"], "{\n\"model_type\": ");
        Should.Throw<EspalierException>(() => ModelConfig.Load(folder.Path)).Message.ShouldContain("is not valid JSON");
        Should.Throw<EspalierException>(() => ModelConfig.Parse("[]")).Message.ShouldContain("no JSON object");
        Should.Throw<EspalierException>(() => ModelConfig.Parse("{}")).Message.ShouldContain("no 'model_type'");
        Should.Throw<EspalierException>(() => ModelConfig.Parse("""{"model_type":"bert"}""")).Message.ShouldContain("'bert' is not supported; supported are llama");
    }
}
