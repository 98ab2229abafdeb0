using Espalier.Data;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Models.Vision;

/// <summary>A tiny net of every family.</summary>
internal static class TinyVision
{
    public const string ResNet = """{"model_type": "cifar_resnet", "depth": 8, "channels": [4, 8, 16], "image_size": 8, "num_classes": 3}""";
    public const string Vgg = """{"model_type": "torchvision_vgg", "layers": [4, "M", 6], "head": "flatten", "hidden": [5], "image_size": 8, "num_classes": 3}""";
    public const string Mean = """{"model_type": "torchvision_vgg", "layers": [4, 6], "head": "mean", "batch_norm": false, "image_size": 8, "num_classes": 3}""";
    public const string LeNet = """{"model_type": "lenet5", "channels": [3, 4], "hidden": [6], "image_size": 16, "num_classes": 3, "num_channels": 1}""";
    public const string Mlp = """{"model_type": "mlp", "hidden": [6, 5], "image_size": 8, "num_classes": 3, "num_channels": 1}""";
    public const string Vit = """{"model_type": "timm_vit", "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_dim": 10, "image_size": 8, "num_classes": 3}""";
    public const string Edsr = """{"model_type": "edsr", "features": 5, "blocks": 2, "scale": 2, "image_size": 8, "image_mean": [0.4, 0.5, 0.6]}""";

    public static TheoryData<string> Families => [ResNet, Vgg, Mean, LeNet, Mlp, Vit, Edsr];

    /// <summary>Random weights, norms and statistics included, so that every channel counts.</summary>
    public static VisionModel Make(string json)
    {
        VisionModel model = VisionModel.Random(VisionConfig.Parse(json), new Seed(3));
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using Generator generator = new Seed(4).Generator("noise");
        foreach ((string name, Tensor value) in model.Tensors.Where(t => t.Value.dim() == 1))
        {
            value.copy_(rand(value.shape, generator: generator) + (name.EndsWith("bias", StringComparison.Ordinal) || name.EndsWith("mean", StringComparison.Ordinal) ? -0.5 : 0.5));
        }

        return model;
    }

    public static Tensor Images(VisionModel model, int count = 2)
    {
        using Generator generator = new Seed(5).Generator("images");
        return rand([count, model.Config.Channels, model.Config.ImageSize, model.Config.ImageSize], generator: generator);
    }

    /// <summary>24 images of noise, in three classes in turn.</summary>
    public static ImageTensors Noise()
    {
        using var scope = NewDisposeScope();
        using Generator generator = new Seed(3).Generator("images");
        return new ImageTensors("noise", (rand([24, 3, 8, 8], generator: generator) * 255).to(ScalarType.Byte), tensor(Enumerable.Range(0, 24).Select(i => (long)(i % 3)).ToArray()));
    }

    /// <summary>All values of a net, to be compared bit by bit.</summary>
    public static byte[] Bytes(VisionModel net)
    {
        using var scope = NewDisposeScope();
        return [.. net.Tensors.SelectMany(t => t.Value.detach().contiguous().bytes.ToArray())];
    }
}
