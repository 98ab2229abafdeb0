using System.Text.Json.Nodes;
using Espalier.Checkpoints.Onnx;
using Espalier.Data;
using Espalier.Models;
using Espalier.Models.Export.Onnx;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Models.Export;

/// <summary>ONNX Runtime runs what we export and says what we say.</summary>
public sealed class OnnxRuntimeTests
{
    private static readonly string DefaultModel = Path.Combine(TestPaths.Repository, "assets", "default-model");

    [Fact]
    public void The_default_model_goes_on_as_ours_with_and_without_a_cache()
    {
        using var output = new TemporaryFolder();
        using LanguageModel model = LanguageModel.Load(DefaultModel);
        Tokenizer tokenizer = Tokenizer.Load(DefaultModel);
        int[] ids = [.. tokenizer.Encode("It is a truth universally acknowledged, that a")];
        int[] ours = [.. new TextGenerator(model).Generate(ids, new GenerationOptions { MaxNewTokens = 24, EosTokenIds = [] })];
        foreach (bool cache in (bool[])[false, true])
        {
            OnnxExport.Run(DefaultModel, new OnnxExportOptions { Cache = cache }, output["m.onnx"]).Comparison.RelativeError.ShouldBeLessThan(1e-5);
            using var reader = new OnnxRuntimeReader(output["m.onnx"]);
            reader.Continue(ids, 24, model.Config.VocabSize, cache ? model.Config : null).ShouldBe(ours, $"cache {cache}");
        }
    }

    [Fact]
    public void Half_floats_are_half_the_file_and_almost_the_same_logits()
    {
        using var output = new TemporaryFolder();
        long whole = OnnxExport.Run(DefaultModel, new OnnxExportOptions(), output["f32.onnx"]).Bytes;
        OnnxExportReport report = OnnxExport.Run(DefaultModel, new OnnxExportOptions { Type = OnnxType.F16 }, output["f16.onnx"]);
        ((double)report.Bytes / whole).ShouldBeInRange(0.49, 0.53);
        using LanguageModel model = LanguageModel.Load(DefaultModel);
        Compare(output["f16.onnx"], model, bound: 0.02);
    }

    [Fact]
    public void A_model_beyond_one_message_has_its_weights_in_a_second_file()
    {
        using var output = new TemporaryFolder();
        ModelConfig config = TinyModels.Config("llama");
        TinyModels.Write(output.Path, config);
        using (StreamedModel source = StreamedModel.Open(output.Path))
        {
            OnnxExportReport report = OnnxExport.Run(source, new OnnxExportOptions(), output["m.onnx"], SilentProgress.Instance, largest: 1000, CancellationToken.None);
            report.DataPath.ShouldBe(output["m.onnx.data"]);
            report.Bytes.ShouldBe(new FileInfo(output["m.onnx"]).Length + new FileInfo(output["m.onnx.data"]).Length);
            report.Comparison.RelativeError.ShouldBeLessThan(1e-5);
        }

        using LanguageModel model = LanguageModel.Load(output.Path);
        Compare(output["m.onnx"], model);
    }

    /// <summary>Families and what they can vary in.</summary>
    public static TheoryData<string, string, string> Models => new()
    {
        { "llama", "llama", "{}" },
        { "llama, tied, biases", "llama", """{"tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true}""" },
        { "llama, scaled positions", "llama", """{"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 16}}""" },
        { "llama, uneven", "llama", """{"block_shapes": [{"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}, {}]}""" },
        { "llama, thresholded", "llama", """{"hidden_act": "fatrelu", "hidden_act_param": 0.05}""" },
        { "llama, squared", "llama", """{"hidden_act": "relu2"}""" },
        { "mistral, window", "mistral", """{"sliding_window": 4}""" },
        { "qwen2, window in block 1", "qwen2", """{"use_sliding_window": true, "sliding_window": 5, "max_window_layers": 1}""" },
        { "qwen3", "qwen3", "{}" },
        { "gpt2", "gpt2", "{}" },
        { "gpt2, scaled by layer, untied", "gpt2", """{"scale_attn_by_inverse_layer_idx": true, "scale_attn_weights": false, "tie_word_embeddings": false, "activation_function": "quick_gelu"}""" },
        { "gpt2, uneven", "gpt2", """{"head_dim": 6, "block_shapes": [{"num_attention_heads": 3, "num_key_value_heads": 3}, {"intermediate_size": 16}]}""" },
        { "gpt_neox", "gpt_neox", "{}" },
        { "gpt_neox, one after the other", "gpt_neox", """{"use_parallel_residual": false, "attention_bias": false, "tie_word_embeddings": true, "hidden_act": "gelu_fast"}""" },
        { "opt", "opt", "{}" },
        { "opt, norm after, projected", "opt", """{"do_layer_norm_before": false, "word_embed_proj_dim": 16}""" },
        { "opt, bare norms", "opt", """{"layer_norm_elementwise_affine": false, "enable_bias": false}""" },
    };

    [Theory]
    [MemberData(nameof(Models))]
    public void Every_family_computes_the_same_there(string what, string family, string changes)
    {
        using var output = new TemporaryFolder();
        ModelConfig config = TinyModels.Config(family, [.. ((JsonObject)JsonNode.Parse(changes)!).Select(c => (c.Key, c.Value))]);
        TinyModels.Write(output.Path, config);
        using LanguageModel model = LanguageModel.Load(output.Path);
        OnnxExport.Run(output.Path, new OnnxExportOptions(), output["m.onnx"]).Comparison.RelativeError.ShouldBeLessThan(1e-5, what);
        Compare(output["m.onnx"], model);

        OnnxExport.Run(output.Path, new OnnxExportOptions { Cache = true }, output["c.onnx"]);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using var reader = new OnnxRuntimeReader(output["c.onnx"]);
        Tensor ids = TinyModels.Ids(config, 2, 11);
        float[] first = reader.Logits([.. ids[.., ..6].contiguous().data<long>()], 2, config), second = reader.Logits([.. ids[.., 6..].contiguous().data<long>()], 2, config);
        Tensor ours = model.Logits(ids), theirs = cat([tensor(first).view(2, 6, -1), tensor(second).view(2, 5, -1)], 1);
        (ours - theirs).abs().max().item<float>().ShouldBeLessThan(1e-4f, $"{what}, in two steps");
    }

    // Two batch sizes and two lengths through one session: both axes are open.
    private static void Compare(string path, LanguageModel model, double bound = 1e-4)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using var reader = new OnnxRuntimeReader(path);
        foreach ((int batch, int tokens) in ((int, int)[])[(1, 20), (3, 7)])
        {
            Tensor ids = TinyModels.Ids(model.Config, batch, tokens);
            Tensor ours = model.Logits(ids);
            float[] theirs = reader.Logits([.. ids.data<long>()], batch);
            theirs.Length.ShouldBe((int)ours.numel());
            (ours - tensor(theirs).view(ours.shape)).abs().max().item<float>().ShouldBeLessThan((float)bound);
        }
    }
}
