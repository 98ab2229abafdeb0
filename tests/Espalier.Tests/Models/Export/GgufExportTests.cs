using System.Text.Json.Nodes;
using Espalier.Checkpoints.Gguf;
using Espalier.Cli;
using Espalier.Models;
using Espalier.Models.Export;
using Espalier.Runtime;
using Espalier.Tests.Cli;
using static TorchSharp.torch;

namespace Espalier.Tests.Models.Export;

public sealed class GgufExportTests
{
    [Fact]
    public void Rows_of_heads_go_from_halves_to_pairs_and_back()
    {
        using var scope = NewDisposeScope();
        Tensor rows = arange(12, dtype: ScalarType.Float32).view(12, 1); // two heads of width 6
        var rule = new TensorRule("q", "q", [12, 1], Rearrangement.HalvesToPairs, 2);
        Tensor there = rule.ToTarget(rows);
        there.data<float>().ToArray().ShouldBe([0f, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        rule.ToSource(there).data<float>().ToArray().ShouldBe(rows.data<float>().ToArray());
        Tensor parts = new TensorRule("qkv", "qkv", [12, 1], Rearrangement.HeadsToParts, 2).ToTarget(rows);
        parts.data<float>().ToArray().ShouldBe([0f, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("mistral")]
    [InlineData("qwen2")]
    [InlineData("qwen3")]
    [InlineData("gpt2")]
    [InlineData("gpt_neox")]
    public void Every_family_comes_back_bit_by_bit(string family)
    {
        using var folder = new TemporaryFolder();
        TinyModels.Write(folder.Path, TinyModels.Config(family));
        GgufExportReport report = GgufExport.Run(folder.Path, GgufType.F32, folder["m.gguf"]);
        report.Comparison.RelativeError.ShouldBe(0);
        report.Notes.ShouldContain(n => n.Contains("no tokeniser"));
        long before = Parameters.LiveTensors;
        GgufExport.Run(folder.Path, GgufType.Q8_0, folder["q.gguf"]);
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
    }

    [Fact]
    public void Rows_that_do_not_fall_into_blocks_are_half_floats()
    {
        using var folder = new TemporaryFolder();
        TinyModels.Write(folder.Path, TinyModels.Config("llama", ("intermediate_size", 64)));
        GgufExportReport report = GgufExport.Run(folder.Path, GgufType.Q4_0, folder["m.gguf"]);
        report.Types.ShouldBe(new Dictionary<string, int> { ["F32"] = 5, ["F16"] = 14, ["Q4_0"] = 2 }); // only ffn_down has rows of 64
        report.Notes.ShouldContain(n => n.Contains("14 tensors"));
    }

    [Fact]
    public void Blocks_of_different_shapes_are_written_as_lists()
    {
        using var folder = new TemporaryFolder();
        TinyModels.Write(folder.Path, TinyModels.Config("llama", ("block_shapes", new JsonArray(
            new JsonObject { ["num_attention_heads"] = 4, ["num_key_value_heads"] = 2, ["intermediate_size"] = 40 },
            new JsonObject { ["num_attention_heads"] = 2, ["num_key_value_heads"] = 1, ["intermediate_size"] = 30 }))));
        GgufExport.Run(folder.Path, GgufType.F32, folder["m.gguf"]).Architecture.ShouldBe("deci");
        using GgufFile file = GgufFile.Open(folder["m.gguf"]);
        file.Metadata.Find("deci.attention.head_count").ShouldBe(new[] { 4u, 2u });
        file.Metadata.Find("deci.feed_forward_length").ShouldBe(new[] { 40u, 30u });
    }

    public static TheoryData<string, string, string> Impossible => new()
    {
        { "opt", "{}", "no such architecture" },
        { "llama", """{"hidden_act": "fatrelu", "hidden_act_param": 0.01}""", "fatrelu" },
        { "llama", """{"hidden_act": "relu"}""", "silu only" },
        { "qwen3", """{"attention_bias": true}""", "attention biases" },
        { "qwen2", """{"block_shapes": [{}, {"intermediate_size": 20}]}""", "--uniform" },
        { "qwen2", """{"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}}""", "Llama-3 scaling" },
        { "gpt2", """{"scale_attn_by_inverse_layer_idx": true}""", "scales" },
        { "gpt2", """{"n_head": 3, "head_dim": 6}""", "shares the width" },
        { "gpt_neox", """{"attention_bias": false}""", "biases" },
    };

    [Theory]
    [MemberData(nameof(Impossible))]
    public void What_llama_cpp_cannot_run_is_refused_before_anything_is_written(string family, string changes, string sentence)
    {
        using var folder = new TemporaryFolder();
        TinyModels.Write(folder.Path, TinyModels.Config(family, [.. ((JsonObject)JsonNode.Parse(changes)!).Select(c => (c.Key, c.Value))]));
        Should.Throw<EspalierException>(() => GgufExport.Run(folder.Path, GgufType.F16, folder["m.gguf"])).Message.ShouldContain(sentence);
        File.Exists(folder["m.gguf"]).ShouldBeFalse();
    }

    [Fact]
    public async Task The_command_exports_and_inspect_shows_the_file()
    {
        using var folder = new TemporaryFolder();
        string model = Path.Combine(TestPaths.Repository, "assets", "default-model"), path = folder["m.gguf"];
        Tool tool = await Tool.RunAsync("export", model, "--type", "q8_0", "--out", path, "--json");
        tool.Code.ShouldBe(ExitCode.Success, tool.Error);
        tool.Result.GetProperty("bytes").GetInt64().ShouldBe(new FileInfo(path).Length);
        tool.Result.GetProperty("comparison").GetProperty("divergence").GetDouble().ShouldBeLessThan(0.01);
        Tool inspected = await Tool.RunAsync("inspect", path, "--json");
        inspected.Result.GetProperty("tensors").EnumerateArray().First().GetProperty("type").GetString().ShouldBe("Q8_0");
        using (GgufFile file = GgufFile.Open(path))
        {
            file.Metadata.Find("tokenizer.ggml.model").ShouldBe("gpt2");
            file.Metadata.Find("tokenizer.ggml.pre").ShouldBe("gpt-2");
            ((string[])file.Metadata.Find("tokenizer.ggml.tokens")!).Length.ShouldBe(2048);
            file.Metadata.Find("tokenizer.ggml.add_bos_token").ShouldBe(false);
        }

        (await Tool.RunAsync("export", model, "--type", "q5_0", "--out", path)).Error.ShouldContain("f32, f16, q4_0, q8_0, bf16");
        (await Tool.RunAsync("export", model, "--format", "onyx", "--out", path)).Error.ShouldContain("gguf, onnx and checkpoint");
        (await Tool.RunAsync("export", model, "--cache", "--out", path)).Error.ShouldContain("--cache belongs to --format onnx");
        (await Tool.RunAsync("export", model, "--out", folder.Path)).Error.ShouldContain("is a folder");
    }
}
