using Espalier.Runtime;

namespace Espalier.Models.Vision;

/// <summary>A family of vision nets: how its config.json becomes a graph whose names are those of its checkpoints.</summary>
/// <param name="Name">The word in <c>model_type</c>.</param>
/// <param name="ImageSize">The usual side of its images.</param>
/// <param name="Build">Adds its layers, the output last.</param>
internal sealed record VisionFamily(string Name, int ImageSize, Action<VisionGraph, VisionConfig> Build)
{
    private static readonly VisionFamily[] All =
    [
        new("cifar_resnet", 32, CifarResNet.Build),
        new("torchvision_resnet", 224, TorchvisionResNet.Build),
        new("torchvision_vgg", 224, Vgg.Build),
        new("lenet5", 28, LeNet.Build),
        new("mlp", 28, Mlp.Build),
        new("timm_vit", 224, VisionTransformer.Build),
        new("edsr", 48, Edsr.Build) { Refines = true, Gain = 1.0 / 3, IgnoredPrefixes = ["sub_mean.", "add_mean."] },
    ];

    /// <summary>The names of all families.</summary>
    public static IReadOnlyList<string> Known => [.. All.Select(f => f.Name)];

    /// <summary>Whether its nets put out finer images; their field <c>scale</c> (default 2) says how many times finer.</summary>
    public bool Refines { get; init; }

    /// <summary>The variance of new weights times their inputs; without norms, residual nets need PyTorch's 1/3.</summary>
    public double Gain { get; init; } = 2;

    /// <summary>Tensors of its checkpoints that are constants here.</summary>
    public IReadOnlyList<string> IgnoredPrefixes { get; init; } = [];

    /// <summary>The family of a name.</summary>
    /// <exception cref="EspalierException">When it is not known.</exception>
    public static VisionFamily Named(string name, string origin) => All.FirstOrDefault(f => f.Name == name)
        ?? throw new EspalierException($"{origin} names the model_type '{name}', which is no vision net; known are {string.Join(", ", Known)}.");
}
