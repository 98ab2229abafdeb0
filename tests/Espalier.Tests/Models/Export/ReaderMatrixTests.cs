using System.Text.Json.Nodes;
using Espalier.Models;
using Espalier.Models.Export;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Models.Export;

public sealed class ReaderMatrixTests
{
    public static TheoryData<string, string, string, string> Models => new()
    {
        { "llama", "{}", "yes, yes, converted, converted", "LlamaForCausalLM" },
        { "qwen3", "{}", "yes, yes, converted, converted", "Qwen3ForCausalLM" },
        { "opt", "{}", "yes, yes, no, converted", "llama.cpp has no such architecture" },
        { "gpt2", """{"n_head": 3, "head_dim": 6}""", "yes, converted, no, converted", "GPT2LMHeadModel takes hidden width / heads" },
        { "gpt_neox", """{"head_dim": 6, "num_attention_heads": 5}""", "yes, converted, no, converted", "GPTNeoXForCausalLM takes" },
        { "llama", """{"hidden_act": "fatrelu", "hidden_act_param": 0.01}""", "yes, no, no, converted", "no activation fatrelu" },
        { "llama", """{"hidden_act": "relu"}""", "yes, yes, no, converted", "silu only" },
        { "llama", """{"block_shapes": [{}, {"intermediate_size": 8}]}""", "yes, converted, converted, converted", "architecture deci" },
        { "qwen2", """{"block_shapes": [{}, {"intermediate_size": 8}]}""", "yes, converted, no, converted", "--pad fills them up" },
    };

    [Theory]
    [MemberData(nameof(Models))]
    public void Each_reader_is_told_with_a_reason(string family, string changes, string verdicts, string sentence)
    {
        using var folder = new TemporaryFolder();
        ModelConfig config = TinyModels.Config(family, [.. ((JsonObject)JsonNode.Parse(changes)!).Select(c => (c.Key, c.Value))]);
        RandomCheckpoint.Write(config, folder.Path, ScalarType.Float32, new Seed(1), SilentProgress.Instance);
        IReadOnlyList<ReaderEntry> readers = ReaderMatrix.OfCheckpoint(folder.Path, 0);
        readers.Select(r => r.Name).ShouldBe(["Espalier", "transformers", "llama.cpp", "ONNX Runtime"]);
        string.Join(", ", readers.Select(r => r.Word)).ShouldBe(verdicts, string.Join(" | ", readers.Select(r => r.How)));
        string.Join(" ", readers.Select(r => r.How)).ShouldContain(sentence);
        readers.ShouldAllBe(r => !r.How.Contains(folder.Path));
    }

    [Fact]
    public void A_file_without_a_format_is_not_loaded_by_transformers()
    {
        using var folder = new TemporaryFolder();
        TinyModels.Write(folder.Path, TinyModels.Config("llama")); // writes no metadata
        ReaderMatrix.OfCheckpoint(folder.Path, 0)[1].ShouldSatisfyAllConditions(r => r.Verdict.ShouldBe(ReaderVerdict.No), r => r.How.ShouldContain("\"format\": \"pt\""));
    }
}
