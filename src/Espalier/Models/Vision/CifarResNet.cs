using Espalier.Runtime;

namespace Espalier.Models.Vision;

/// <summary>
/// ResNet-20, 32, 44, 56 … for small images (He et al. 2016, section 4.2) with shortcuts of option A, named as in
/// akamaster/pytorch_resnet_cifar10. Fields: <c>depth</c> (6n + 2), <c>channels</c> of the three stages (default 16, 32, 64).
/// </summary>
internal static class CifarResNet
{
    public static void Build(VisionGraph graph, VisionConfig config)
    {
        int depth = config.Fields.Positive("depth");
        EspalierException.Require(depth >= 8 && depth % 6 == 2, $"{config.Fields.Origin}: a ResNet for CIFAR has 6n + 2 layers (8, 14, 20, 32, 44, 56), not {depth}.");
        int[] channels = [.. config.Fields.WholeOrList("channels")];
        channels = channels.Length == 0 ? [16, 32, 64] : channels;
        VisionLayer x = graph.Relu(graph.BatchNorm("bn1", graph.Conv("conv1", graph.Input, channels[0], 3, padding: 1)));
        for (int stage = 0; stage < channels.Length; stage++)
        {
            for (int block = 0; block < (depth - 2) / 6; block++)
            {
                int stride = stage > 0 && block == 0 ? 2 : 1;
                string name = $"layer{stage + 1}.{block}";
                VisionLayer y = graph.Relu(graph.BatchNorm($"{name}.bn1", graph.Conv($"{name}.conv1", x, channels[stage], 3, stride, 1)));
                y = graph.BatchNorm($"{name}.bn2", graph.Conv($"{name}.conv2", y, channels[stage], 3, padding: 1));
                x = graph.Relu(graph.Add(y, stride == 1 ? x : graph.PadShortcut($"{name}.shortcut", x, channels[stage], stride)));
            }
        }

        graph.Output(graph.Linear("linear", graph.GlobalMean(x), config.Classes));
    }
}
