using Espalier.Checkpoints;
using Espalier.Checkpoints.Onnx;
using Espalier.Cli;
using Espalier.Models;
using Espalier.Models.Export.Onnx;
using Espalier.Runtime;
using Espalier.Tests.Checkpoints;
using Espalier.Tests.Cli;
using static TorchSharp.torch;

namespace Espalier.Tests.Models.Export;

public sealed class OnnxExportTests
{
    [Fact]
    public void What_was_written_is_read_back()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        TinyModels.Write(folder.Path, TinyModels.Config("gpt2"));
        long before = Parameters.LiveTensors;
        OnnxExport.Run(folder.Path, new OnnxExportOptions { Cache = true }, folder["m.onnx"]);
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
        using OnnxFile file = OnnxFile.Open(folder["m.onnx"]);
        using Checkpoint source = Checkpoint.Open(folder.Path);
        file.Graph.Opset.ShouldBe(17);
        file.Graph.Inputs[0].ToString().ShouldContain("input_ids");
        file.Graph.Inputs.Select(i => $"{i.Name} {string.Join(',', i.Axes)}").ShouldContain("past_key_values.1.value batch,4,past,6");
        file.Graph.Outputs.Select(o => o.Name).ShouldContain("present.0.key");
        foreach (string name in source.Names)
        {
            file.Read(name).data<float>().ToArray().ShouldBe(source.Read(name).data<float>().ToArray(), name); // GPT-2's maps lie as the graph wants them
        }
    }

    [Theory]
    [InlineData(long.MaxValue)]
    [InlineData(8L)]
    public void A_disk_that_refuses_leaves_no_half_a_file(long largest)
    {
        using var folder = new TemporaryFolder();
        var tensor = new OnnxTensor("w", OnnxType.F32, [512]);
        var graph = new OnnxGraph("g", 17, [], [new OnnxValue("y", OnnxType.F32, [512L])], [new OnnxNode("Relu", ["w"], ["y"], new Dictionary<string, object>())], [tensor]);
        string path = folder["m.onnx"];
        var counting = new FailingFileLayer(int.MaxValue, FailingFileLayer.DiskFull);
        Write(counting);
        File.Delete(path);
        File.Delete(path + OnnxWriter.DataSuffix);
        counting.Calls.ShouldBeGreaterThan(4);
        for (int failAt = 0; failAt < counting.Calls - 1; failAt++) // the last call flushes the folder, after the rename
        {
            Should.Throw<EspalierException>(() => Write(new FailingFileLayer(failAt, FailingFileLayer.DiskFull)));
            File.Exists(path).ShouldBeFalse($"call {failAt}");
            Directory.GetFiles(folder.Path, ".*").ShouldBeEmpty();
        }

        void Write(IFileLayer layer)
        {
            using var scope = NewDisposeScope();
            using OnnxWriter writer = OnnxWriter.Create(path, graph, largest, layer);
            writer.Write("w", ones(512));
            writer.Commit();
        }
    }

    [Theory]
    [InlineData(3)]
    [InlineData(200)]
    [InlineData(5000)]
    public void A_file_that_was_cut_short_is_refused(int bytes)
    {
        using var folder = new TemporaryFolder();
        TinyModels.Write(folder.Path, TinyModels.Config("llama"));
        OnnxExport.Run(folder.Path, new OnnxExportOptions(), folder["m.onnx"]);
        File.WriteAllBytes(folder["cut.onnx"], File.ReadAllBytes(folder["m.onnx"])[..bytes]);
        Should.Throw<EspalierException>(() => OnnxFile.Open(folder["cut.onnx"])).Message.ShouldContain("is no sound ONNX file");
    }

    [Fact]
    public void Values_beyond_half_floats_are_refused_and_nothing_is_left()
    {
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        ModelConfig config = TinyModels.Config("llama");
        using MemoryTensors tensors = TinyModels.Tensors(config);
        tensors.Set("lm_head.weight", tensors.Read("lm_head.weight") * 1e6);
        using var model = new StreamedModel(config, tensors);
        Should.Throw<EspalierException>(() => OnnxExport.Run(model, new OnnxExportOptions { Type = OnnxType.F16 }, folder["m.onnx"])).Message.ShouldContain("65504");
        Directory.GetFiles(folder.Path).ShouldBeEmpty();
        Should.Throw<EspalierException>(() => new OnnxExportOptions { Type = OnnxType.I64 }).Message.ShouldContain("f32 or f16");
    }

    [Fact]
    public async Task The_command_exports_and_says_who_loads_the_file()
    {
        using var folder = new TemporaryFolder();
        string model = Path.Combine(TestPaths.Repository, "assets", "default-model"), path = folder["m.onnx"];
        Tool tool = await Tool.RunAsync("export", model, "--format", "onnx", "--type", "f16", "--out", path, "--json");
        tool.Code.ShouldBe(ExitCode.Success, tool.Error);
        tool.Result.GetProperty("bytes").GetInt64().ShouldBe(new FileInfo(path).Length);
        (await Tool.RunAsync("inspect", path, "--json")).Result.GetProperty("tensors").EnumerateArray().ShouldContain(t => t.GetProperty("name").GetString() == "model.embed_tokens.weight" && t.GetProperty("type").GetString() == "F16");
        tool.Result.GetProperty("readers").EnumerateArray().Select(r => r.GetProperty("word").GetString()).ShouldBe(["yes", "no", "no", "yes"]);
        (await Tool.RunAsync("export", model, "--format", "onnx", "--type", "q8_0", "--out", path)).Error.ShouldContain("known are f32, f16.");
        (await Tool.RunAsync("export", model, "--format", "onnx", "--out", folder.Path)).Error.ShouldContain("for example model.onnx");
        (await Tool.RunAsync("pack", model, "--type", "bf16", "--out", folder["packed"])).Code.ShouldBe(ExitCode.Success);
        (await Tool.RunAsync("export", folder["packed"], "--format", "onnx", "--out", path)).Error.ShouldContain("espalier unpack");
    }
}
