using System.Text.Json.Nodes;
using Espalier.Checkpoints;
using Espalier.Cli;
using Espalier.Models;
using Espalier.Models.Export;
using Espalier.Runtime;
using Espalier.Tests.Cli;

namespace Espalier.Tests.Models;

public sealed class PaddedModelTests
{
    private const string Grouped = """{"block_shapes": [{"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}, {"intermediate_size": 33}]}""";
    private const string Single = """{"head_dim": 6, "block_shapes": [{"num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 24}, {"num_attention_heads": 2, "num_key_value_heads": 2}]}""";

    public static TheoryData<string, string> Uneven => new()
    {
        { "llama", Grouped }, { "mistral", Grouped }, { "qwen2", Grouped }, { "qwen3", Grouped },
        { "gpt2", Single }, { "gpt_neox", Single }, { "opt", Single },
        { "llama", """{"attention_bias": true, "mlp_bias": true, "block_shapes": [{}, {"intermediate_size": 7}]}""" },
    };

    [Theory]
    [MemberData(nameof(Uneven))]
    public void A_padded_model_computes_the_same_and_is_what_stock_loaders_expect(string family, string changes)
    {
        using var folder = new TemporaryFolder();
        ModelConfig config = Config(family, changes.Replace("intermediate_size", "intermediate_size"));
        Directory.CreateDirectory(folder["uneven"]);
        TinyModels.Write(folder["uneven"], config);
        CheckpointExportReport report = CheckpointExport.Run(folder["uneven"], folder["even"]);
        report.LogitDifference.ShouldBeLessThan(1e-4);
        using Checkpoint before = Checkpoint.Open(folder["uneven"]), after = Checkpoint.Open(folder["even"]);
        report.PaddingBytes.ShouldBe(after.TotalBytes - before.TotalBytes);
        report.PaddingBytes.ShouldBeGreaterThan(0);
        ModelConfig even = ModelConfig.Load(folder["even"]);
        even.BlockShapes.ShouldBeNull();
        even.HeadDim.ShouldBe(config.HeadDim);
        report.Readers.First(r => r.Name == "transformers").Verdict.ShouldBe(ReaderVerdict.Loads, report.Readers[1].How);
    }

    [Fact]
    public void Zeros_lie_behind_the_units_of_each_head_group()
    {
        using var folder = new TemporaryFolder();
        using var scope = TorchSharp.torch.NewDisposeScope();
        TinyModels.Write(folder.Path, Config("gpt2", """{"block_shapes": [{"num_attention_heads": 2, "num_key_value_heads": 2}, {}]}"""));
        using StreamedModel model = StreamedModel.Open(folder.Path);
        PaddedModel padded = PaddedModel.Of(model);
        float[] bias = padded.Read("transformer.h.0.attn.c_attn.bias").data<float>().ToArray(); // queries, keys, values: 24 each, of which 12 are filled
        bias.Select((v, i) => (v == 0) == (i % 24 >= 12)).ShouldAllBe(fits => fits);
    }

    public static TheoryData<string, string, string> Impossible => new()
    {
        { "llama", """{"block_shapes": [{"num_attention_heads": 4, "num_key_value_heads": 1}, {}]}""", "different numbers of query heads" },
        { "gpt2", """{"head_dim": 7, "block_shapes": [{"intermediate_size": 8}, {}]}""", "no number of heads of width 7 makes 24" },
    };

    [Theory]
    [MemberData(nameof(Impossible))]
    public void What_zeros_cannot_make_alike_is_refused(string family, string changes, string sentence)
    {
        using var folder = new TemporaryFolder();
        TinyModels.Write(folder.Path, Config(family, changes));
        Should.Throw<EspalierException>(() => CheckpointExport.Run(folder.Path, folder["even"])).Message.ShouldContain(sentence);
        Directory.Exists(folder["even"]).ShouldBeFalse();
    }

    [Fact]
    public async Task The_command_pads_for_every_format()
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["uneven"]);
        TinyModels.Write(folder["uneven"], Config("qwen2", Grouped));
        Tool even = await Tool.RunAsync("export", folder["uneven"], "--format", "checkpoint", "--pad", "--out", folder["even"]);
        even.Code.ShouldBe(ExitCode.Success, even.Error);
        even.Output.ShouldContain("Padding takes");
        (await Tool.RunAsync("export", folder["uneven"], "--out", folder["m.gguf"])).Error.ShouldContain("--uniform");
        Tool gguf = await Tool.RunAsync("export", folder["uneven"], "--pad", "--type", "f32", "--out", folder["m.gguf"], "--json");
        gguf.Code.ShouldBe(ExitCode.Success, gguf.Error);
        gguf.Result.GetProperty("architecture").GetString().ShouldBe("qwen2");
        (await Tool.RunAsync("export", folder["uneven"], "--format", "onnx", "--pad", "--out", folder["m.onnx"])).Code.ShouldBe(ExitCode.Success);
        (await Tool.RunAsync("export", folder["uneven"], "--format", "checkpoint", "--out", folder["x"])).Error.ShouldContain("add --pad");
        (await Tool.RunAsync("export", folder["uneven"], "--format", "checkpoint", "--pad", "--type", "f16", "--out", folder["x"])).Error.ShouldContain("--type does not belong");
        (await Tool.RunAsync("export", folder["uneven"], "--format", "checkpoint", "--pad", "--out", folder["uneven"])).Error.ShouldContain("is the model itself");
    }

    private static ModelConfig Config(string family, string changes) => TinyModels.Config(family, [.. ((JsonObject)JsonNode.Parse(changes)!).Select(c => (c.Key, c.Value))]);
}
