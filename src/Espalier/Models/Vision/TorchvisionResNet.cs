using Espalier.Runtime;

namespace Espalier.Models.Vision;

/// <summary>
/// ResNet-18, 34 and 50 with torchvision's names and version 1.5's stride (in the 3×3 convolution). Fields: <c>depth</c>, and
/// <c>small_images</c> (default false): a first 3×3 convolution without stride and no pool, as is usual on CIFAR.
/// </summary>
internal static class TorchvisionResNet
{
    public static void Build(VisionGraph graph, VisionConfig config)
    {
        int depth = config.Fields.Positive("depth");
        int[] blocks = depth switch
        {
            18 => [2, 2, 2, 2],
            34 or 50 => [3, 4, 6, 3],
            _ => throw new EspalierException($"{config.Fields.Origin}: a ResNet of depth {depth} is not known; use 18, 34 or 50."),
        };
        bool small = config.Fields.Flag("small_images", false);
        VisionLayer x = small ? graph.Conv("conv1", graph.Input, 64, 3, padding: 1) : graph.Conv("conv1", graph.Input, 64, 7, 2, 3);
        x = graph.Relu(graph.BatchNorm("bn1", x));
        x = small ? x : graph.MaxPool(x, 3, 2, 1);
        for (int stage = 0; stage < blocks.Length; stage++)
        {
            for (int block = 0; block < blocks[stage]; block++)
            {
                x = Block(graph, $"layer{stage + 1}.{block}", x, 64 << stage, stage > 0 && block == 0 ? 2 : 1, block == 0, bottleneck: depth == 50);
            }
        }

        graph.Output(graph.Linear("fc", graph.GlobalMean(x), config.Classes));
    }

    private static VisionLayer Block(VisionGraph graph, string name, VisionLayer x, int width, int stride, bool first, bool bottleneck)
    {
        int outputs = bottleneck ? 4 * width : width;
        VisionLayer y = bottleneck
            ? graph.Conv($"{name}.conv1", x, width, 1)
            : graph.Conv($"{name}.conv1", x, width, 3, stride, 1);
        y = graph.Relu(graph.BatchNorm($"{name}.bn1", y));
        y = bottleneck
            ? graph.Conv($"{name}.conv2", y, width, 3, stride, 1)
            : graph.Conv($"{name}.conv2", y, width, 3, padding: 1);
        y = graph.BatchNorm($"{name}.bn2", y);
        if (bottleneck)
        {
            y = graph.BatchNorm($"{name}.bn3", graph.Conv($"{name}.conv3", graph.Relu(y), outputs, 1));
        }

        bool projects = first && (stride != 1 || bottleneck);
        VisionLayer shortcut = projects ? graph.BatchNorm($"{name}.downsample.1", graph.Conv($"{name}.downsample.0", x, outputs, 1, stride)) : x;
        return graph.Relu(graph.Add(y, shortcut));
    }
}
