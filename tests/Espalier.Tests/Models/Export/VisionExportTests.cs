using Espalier.Checkpoints.Onnx;
using Espalier.Cli;
using Espalier.Models;
using Espalier.Models.Export.Onnx;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Tests.Cli;
using Espalier.Tests.Models.Vision;
using Microsoft.ML.OnnxRuntime;
using static TorchSharp.torch;

namespace Espalier.Tests.Models.Export;

/// <summary>Vision nets as ONNX graphs, run by our evaluator (in every export) and by ONNX Runtime.</summary>
public sealed class VisionExportTests
{
    public static TheoryData<string> Nets =>
    [
        .. TinyVision.Families.Select(f => f.Data),
        """{"model_type": "torchvision_resnet", "depth": 18, "image_size": 40, "num_classes": 3}""",
        """{"model_type": "torchvision_resnet", "depth": 50, "small_images": true, "image_size": 8, "num_classes": 3}""",
        """{"model_type": "torchvision_vgg", "layers": [4, "M", 5], "image_size": 20, "num_classes": 3, "num_channels": 1}""",
        """{"model_type": "edsr", "features": 4, "blocks": 1, "scale": 4, "image_size": 6}""",
        """{"model_type": "edsr", "features": 4, "blocks": 1, "scale": 3, "image_size": 6, "rgb_range": 255, "image_mean": [0.4, 0.5, 0.6]}""",
        """{"model_type": "cifar_resnet", "depth": 8, "channels": [4, 8, 16], "image_size": 8, "gates": {"layers": ["conv1", "layer1.0.conv2", "layer2.0.conv1"], "keep_top": true}}""",
        """{"model_type": "torchvision_vgg", "layers": [4, "M", 6, 6], "head": "mean", "image_size": 10, "gates": {"layers": ["features.0", "features.4"], "softmax": false, "embedding": 36}}""",
    ];

    [Theory]
    [MemberData(nameof(Nets))]
    public void Every_family_computes_the_same_in_onnx_runtime(string json)
    {
        using var folder = new TemporaryFolder();
        using VisionModel model = TinyVision.Make(json);
        long before = Parameters.LiveTensors;
        VisionExportReport report = VisionExport.Run(model, OnnxType.F32, folder["m.onnx"]);
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);
        report.RelativeError.ShouldBeLessThan(1e-5);
        report.Inputs.ShouldHaveSingleItem().ShouldStartWith("images [batch");
        report.Readers.ShouldContain(r => r.Name == "ONNX Runtime");
        using var options = new SessionOptions { IntraOpNumThreads = 1, LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR };
        using var session = new InferenceSession(folder["m.onnx"], options);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        foreach (int count in (int[])[1, 5])
        {
            Tensor images = TinyVision.Images(model, count), ours = model.Forward(images);
            using OrtValue given = OrtValue.CreateTensorValueFromMemory(images.data<float>().ToArray(), images.shape);
            using var run = new RunOptions();
            using IDisposableReadOnlyCollection<OrtValue> made = session.Run(run, new Dictionary<string, OrtValue> { ["images"] = given }, session.OutputNames);
            Tensor theirs = tensor(made[0].GetTensorDataAsSpan<float>().ToArray()).view(ours.shape);
            (theirs - ours).norm().item<float>().ShouldBeLessThan(1e-4f * (1 + ours.norm().item<float>()), json);
        }
    }

    [Fact]
    public void A_net_of_images_takes_any_size_and_half_floats_are_half_the_file()
    {
        using var folder = new TemporaryFolder();
        using VisionModel edsr = TinyVision.Make(TinyVision.Edsr), vgg = VisionModel.Random(VisionConfig.Parse("""{"model_type": "torchvision_vgg", "layers": [32, 64, 64], "head": "mean", "image_size": 8}"""), new Seed(1));
        VisionExport.Run(edsr, OnnxType.F32, folder["edsr.onnx"]).Agreement.ShouldBeNull();
        using (var session = new InferenceSession(folder["edsr.onnx"]))
        using (NewDisposeScope())
        using (no_grad())
        {
            Tensor images = rand([2, 3, 11, 7]), ours = edsr.Forward(images);
            using OrtValue given = OrtValue.CreateTensorValueFromMemory(images.data<float>().ToArray(), images.shape);
            using var run = new RunOptions();
            using IDisposableReadOnlyCollection<OrtValue> made = session.Run(run, new Dictionary<string, OrtValue> { ["images"] = given }, session.OutputNames);
            (tensor(made[0].GetTensorDataAsSpan<float>().ToArray()).view(2, 3, 22, 14) - ours).abs().max().item<float>().ShouldBeLessThan(1e-4f);
        }

        long whole = VisionExport.Run(vgg, OnnxType.F32, folder["f32.onnx"]).Bytes;
        VisionExportReport half = VisionExport.Run(vgg, OnnxType.F16, folder["f16.onnx"]);
        ((double)half.Bytes / whole).ShouldBeInRange(0.49, 0.55);
        half.RelativeError.ShouldBeInRange(1e-6, 1e-2);
        Should.Throw<EspalierException>(() => VisionExport.Run(vgg, OnnxType.I64, folder["no.onnx"])).Message.ShouldContain("f32 or f16");
    }

    [Fact]
    public async Task The_command_exports_a_vision_net_and_refuses_what_it_cannot()
    {
        using var folder = new TemporaryFolder();
        using (VisionModel net = TinyVision.Make(TinyVision.ResNet))
        {
            net.Save(folder["net"]);
        }

        Tool done = await Tool.RunAsync("export", folder["net"], "--format", "onnx", "--out", folder["net.onnx"], "--json");
        done.Code.ShouldBe(ExitCode.Success, done.Error);
        done.Result.GetProperty("agreement").GetDouble().ShouldBe(1);
        (await Tool.RunAsync("export", folder["net"], "--format", "onnx", "--out", folder["net.onnx"])).Output.ShouldContain("against the net on 8 images");
        (await Tool.RunAsync("inspect", folder["net.onnx"])).Output.ShouldContain("layer1.0.conv1.weight");
        foreach (string[] words in (string[][])[["--format", "gguf"], ["--format", "onnx", "--cache"], ["--format", "checkpoint", "--pad"]])
        {
            Tool refused = await Tool.RunAsync(["export", folder["net"], "--out", folder["other"], .. words]);
            refused.Code.ShouldBe(ExitCode.UserError);
            refused.Error.ShouldContain("vision net");
        }
    }
}
