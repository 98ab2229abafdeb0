using System.Text;
using Espalier.Checkpoints;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Models.Vision;

/// <summary>Our nets against torchvision's, timm's and EDSR-PyTorch's, whose answers <c>bench/vision_peers.py</c> wrote down; both sides draw weights and image from the tensors' names.</summary>
public sealed class VisionPeerTests
{
    private static readonly string Folder = Path.Combine(TestPaths.Repository, "tests", "peers", "vision");

    public static TheoryData<string> Nets => [.. Directory.GetFiles(Folder, "*.safetensors").Select(f => Path.GetFileNameWithoutExtension(f)).Order(StringComparer.Ordinal)];

    [Theory]
    [MemberData(nameof(Nets))]
    public void A_net_answers_as_the_original_does_with_the_same_weights(string name)
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(Path.Combine(Folder, name + ".safetensors"));
        VisionConfig config = VisionConfig.Parse(file.Metadata["config"]);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using VisionModel net = VisionModel.Random(config, new Seed(0));
        net.Training = false;
        foreach ((string tensorName, Tensor tensor) in net.Tensors)
        {
            tensor.copy_(Value(tensorName, tensor.shape));
        }

        Tensor pixels = (Draw("input", [1, 3, config.ImageSize, config.ImageSize]) + 1) * 0.5f, theirs = file.Read("y");
        Tensor images = config.Scale is null ? (pixels - PerChannel(config.Mean)) / PerChannel(config.Deviation) : pixels;
        Tensor ours = net.Forward(images);
        ours.shape.ShouldBe(theirs.shape);
        theirs.std().item<float>().ShouldBeGreaterThan(0.01f, file.Metadata["peer"]);
        ((ours - theirs).abs().max() / theirs.abs().max()).item<float>().ShouldBeLessThan(1e-5f, file.Metadata["peer"]);
    }

    [Fact]
    public void All_families_with_published_weights_are_there() =>
        Nets.Select(n => n.Data).ShouldBe(["deit_tiny", "edsr_x2", "edsr_x3", "edsr_x4", "resnet18", "resnet34", "resnet50", "vgg16_bn", "vit_small"], ignoreOrder: true);

    private static Tensor PerChannel(IReadOnlyList<double> values) => tensor([.. values.Select(v => (float)v)]).view(3, 1, 1);

    // The rules of bench/vision_peers.py.
    private static Tensor Value(string name, long[] shape)
    {
        Tensor v = Draw(name, shape);
        return name.Split('.')[^1] switch
        {
            "running_var" => (v * 0.5f) + 1,
            "cls_token" or "pos_embed" => v * 0.3f,
            _ when shape.Length > 1 => v * (float)Math.Sqrt(4.5 / (v.numel() / shape[0])),
            "weight" => (v * 0.4f) + 1,
            _ => v * 0.2f,
        };
    }

    private static Tensor Draw(string name, long[] shape)
    {
        uint mixed = Encoding.UTF8.GetBytes(name).Aggregate(2166136261u, (hash, b) => (hash ^ b) * 16777619);
        var values = new float[shape.Aggregate(1L, (a, b) => a * b)];
        for (int i = 0; i < values.Length; i++)
        {
            uint u = ((uint)i * 2654435761) + mixed;
            u = (u ^ (u >> 16)) * 0x045D9F3B;
            u = (u ^ (u >> 16)) * 0x045D9F3B;
            values[i] = ((u ^ (u >> 16)) >> 8) * (1f / (1 << 23)) - 1;
        }

        return tensor(values, shape);
    }
}
