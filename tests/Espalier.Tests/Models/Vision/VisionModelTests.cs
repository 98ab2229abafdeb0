using Espalier.Checkpoints;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Models.Vision;

public sealed class VisionModelTests
{
    [Theory]
    [InlineData("""{"model_type": "cifar_resnet", "depth": 20}""", 269_722, 40_551_040)]
    [InlineData("""{"model_type": "cifar_resnet", "depth": 56}""", 853_018, 125_485_696)]
    [InlineData("""{"model_type": "torchvision_resnet", "depth": 18, "num_classes": 1000}""", 11_689_512, 1_814_073_344)]
    [InlineData("""{"model_type": "torchvision_resnet", "depth": 50, "num_classes": 1000}""", 25_557_032, 4_089_184_256)]
    [InlineData("""{"model_type": "torchvision_vgg", "num_classes": 1000}""", 138_365_992, 15_470_264_320)]
    [InlineData("""{"model_type": "lenet5", "num_channels": 1}""", 431_080, 2_293_000)]
    [InlineData("""{"model_type": "mlp", "num_channels": 1}""", 266_610, 266_200)]
    [InlineData("""{"model_type": "timm_vit", "num_classes": 1000}""", 5_717_416, 1_253_683_200)]
    [InlineData("""{"model_type": "edsr"}""", 1_369_859, 3_162_488_832)]
    public void Nets_have_the_published_numbers_of_parameters(string json, long parameters, long macs)
    {
        using VisionModel model = VisionModel.Outline(VisionConfig.Parse(json));
        model.ParameterCount.ShouldBe(parameters);
        model.Macs.ShouldBe(macs);
    }

    [Theory]
    [InlineData("""{"model_type": "torchvision_resnet", "depth": 50}""", "layer1.0.downsample.1.running_var", "layer4.2.conv3.weight", "fc.bias")]
    [InlineData("""{"model_type": "torchvision_vgg"}""", "features.0.bias", "features.41.running_mean", "classifier.6.weight")]
    [InlineData("""{"model_type": "timm_vit"}""", "cls_token", "pos_embed", "blocks.11.attn.qkv.bias", "head.weight")]
    [InlineData("""{"model_type": "edsr"}""", "head.0.weight", "body.15.body.2.bias", "body.16.weight", "tail.0.0.weight", "tail.1.bias")]
    public void Tensors_have_the_names_of_their_checkpoints(string json, params string[] names)
    {
        using VisionModel model = VisionModel.Outline(VisionConfig.Parse(json));
        string[] all = [.. model.Tensors.Select(t => t.Name)];
        names.Except(all).ShouldBeEmpty();
    }

    [Theory]
    [InlineData(20)]
    [InlineData(56)]
    public void A_pretrained_net_has_exactly_our_tensors(int depth)
    {
        string folder = HubFolder(depth);
        using VisionModel model = VisionModel.Load(folder);
        using Checkpoint checkpoint = Checkpoint.Open(folder);
        model.Tensors.Select(t => t.Name).Order().ShouldBe(checkpoint.Names.Order());
    }

    [Theory]
    [MemberData(nameof(TinyVision.Families), MemberType = typeof(TinyVision))]
    public void A_saved_net_is_the_same_again(string json)
    {
        using var folder = new TemporaryFolder();
        using VisionModel model = TinyVision.Make(json);
        model.Save(folder.Path);
        VisionConfig.IsVision(folder.Path).ShouldBeTrue();
        using VisionModel again = VisionModel.Load(folder.Path);
        using VisionModel copy = model.Clone();
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor images = TinyVision.Images(model), expected = model.Forward(images);
        again.Forward(images).eq(expected).all().item<bool>().ShouldBeTrue();
        copy.Forward(images).eq(expected).all().item<bool>().ShouldBeTrue();
        expected.std().item<float>().ShouldBeGreaterThan(0);
    }

    [Fact]
    public void What_does_not_fit_is_named()
    {
        using var folder = new TemporaryFolder();
        using VisionModel model = TinyVision.Make(TinyVision.ResNet);
        model.Save(folder.Path);
        VisionConfig deeper = VisionConfig.Parse(TinyVision.ResNet.Replace("8, \"channels\"", "14, \"channels\"", StringComparison.Ordinal));
        using Checkpoint checkpoint = Checkpoint.Open(folder.Path);
        Should.Throw<EspalierException>(() => VisionModel.Load(deeper, checkpoint)).Message.ShouldContain("missing (layer1.1.conv1.weight");
        Should.Throw<EspalierException>(() => VisionConfig.Parse("""{"model_type": "alexnet"}""")).Message.ShouldContain("cifar_resnet");
        Should.Throw<EspalierException>(() => VisionModel.Outline(VisionConfig.Parse("""{"model_type": "cifar_resnet", "depth": 21}"""))).Message.ShouldContain("6n + 2");
        Should.Throw<EspalierException>(() => VisionModel.Outline(VisionConfig.Parse("""{"model_type": "torchvision_vgg", "layers": [4, "P"]}"""))).Message.ShouldContain("\"P\"");
        Should.Throw<EspalierException>(() => VisionConfig.Parse("""{"model_type": "mlp", "image_std": [0, 1, 1]}""")).Message.ShouldContain("image_std");
        Should.Throw<EspalierException>(() => VisionModel.Outline(VisionConfig.Parse("""{"model_type": "edsr", "rgb_range": 0}"""))).Message.ShouldContain("'rgb_range' is 0, but must be a number greater than 0");
        using var scope = NewDisposeScope();
        Should.Throw<EspalierException>(() => model.Forward(zeros(1, 1, 8, 8))).Message.ShouldContain("[count, 3");
    }

    [Theory]
    [MemberData(nameof(TinyVision.Families), MemberType = typeof(TinyVision))]
    public void A_layers_patches_times_its_matrix_are_its_output(string json)
    {
        using VisionModel model = TinyVision.Make(json);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        int seen = 0;
        foreach (WeightLayer layer in model.Weights)
        {
            Tensor? rows = null;
            layer.InputObserver = x => rows = layer.Patches(x).DetachFromDisposeScope();
            layer.OutputObserver = y =>
            {
                Tensor product = rows!.matmul(layer.Matrix.t()) + (layer.Bias is { } bias ? bias : 0);
                Tensor shaped = layer is ConvLayer ? product.transpose(1, 2).reshape(y.shape) : product.reshape(y.shape);
                shaped.allclose(y, 1e-4, 1e-5).ShouldBeTrue(layer.Name);
                rows.Dispose();
                seen++;
            };
        }

        model.Forward(TinyVision.Images(model));
        seen.ShouldBe(model.Weights.Count);
    }

    [Fact]
    public void Weights_and_outputs_can_be_changed_within_the_graph_of_gradients()
    {
        using VisionModel model = TinyVision.Make(TinyVision.Vgg);
        using var scope = NewDisposeScope();
        WeightLayer first = model.Weights[0];
        Tensor gate = tensor(new[] { 0f, 1f, 1f, 1f }).view(1, -1, 1, 1);
        model.Layers.OfType<PlainLayer>().First(l => l.Kind == PlainKind.Relu).OutputChange = y => y * gate;
        first.WeightChange = w => w * 2;
        Tensor twice = model.Forward(TinyVision.Images(model));
        twice.sum().backward();
        Tensor gradient = first.Weight.grad!;
        gradient[0].abs().max().item<float>().ShouldBe(0);
        gradient[1].abs().max().item<float>().ShouldBeGreaterThan(0);

        first.WeightChange = null;
        first.SetMatrix(first.Matrix.detach() * 2);
        using var frozen = no_grad();
        model.Forward(TinyVision.Images(model)).allclose(twice).ShouldBeTrue();
    }

    [Fact]
    public void A_pass_leaves_no_tensor_behind()
    {
        using VisionModel model = TinyVision.Make(TinyVision.ResNet);
        using Tensor images = TinyVision.Images(model);
        model.Training = true;
        Pass();
        long before = Espalier.Models.Parameters.LiveTensors;
        Pass();
        Espalier.Models.Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(before);

        void Pass()
        {
            using var scope = NewDisposeScope();
            model.Forward(images).sum().backward();
        }
    }

    private static string HubFolder(int depth) => TestPaths.RequireShared($"hub/models--akamaster--cifar10-resnet{depth}/snapshots/local");
}
