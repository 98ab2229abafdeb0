using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>Step 9, linear probing: how well pixels can be classed by a linear map of a frozen ViT's block outputs side by side.</summary>
public static class SegmentationProbe
{
    /// <summary>Trains the map on some scenes and counts pixels on others.</summary>
    /// <param name="net">The ViT; it stays as it is.</param>
    /// <param name="training">Scenes to learn from, all of them at every step.</param>
    /// <param name="test">Scenes to measure on.</param>
    /// <param name="options">Length and rate.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <exception cref="EspalierException">When the net is no ViT.</exception>
    public static SegmentationScore Run(VisionModel net, SegmentationScenes training, SegmentationScenes test, TrainingOptions options, CancellationToken cancellation = default)
    {
        using var scope = NewDisposeScope();
        int classes = Math.Max(training.Classes, test.Classes);
        Tensor features = Features(net, training);
        using Parameter weight = Parameters.Of(zeros(classes, features.shape[1], 1, 1)), bias = Parameters.Of(zeros(classes));
        using (var loop = new TrainingLoop(options, [("probe.weight", weight), ("probe.bias", bias)], (_, _) => VitSegmenter.Loss(nn.functional.conv2d(features, weight, bias), training.Masks)))
        {
            loop.Run(cancellation);
        }

        return VitSegmenter.Score(net, test, classes, images => SegmentationHead.Resize(nn.functional.conv2d(Features(net, images), weight, bias), images.shape[2..]));
    }

    private static Tensor Features(VisionModel net, SegmentationScenes scenes)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        var parts = new List<Tensor>();
        foreach ((Tensor images, Tensor labels) in new ImageBatches(scenes.Images, 50) { Mean = net.Config.Mean, Deviation = net.Config.Deviation }.InOrder(device: net.Device))
        {
            using (images)
            using (labels)
            {
                parts.Add(Features(net, images));
            }
        }

        return cat(parts).MoveToOuterDisposeScope();
    }

    // The patches of every block's output, each made to mean 0 and deviation 1: [B, blocks·C, h, w].
    private static Tensor Features(VisionModel net, Tensor images)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        VisionLayer last = VitSegmenter.LastTokens(net);
        VisionLayer[] blocks = [.. net.Layers.OfType<LayerNormLayer>().Where(l => !l.Name.EndsWith(".norm2", StringComparison.Ordinal)).Select(l => l.Inputs[0]).Skip(1)];
        var maps = new List<Tensor>();
        long side = VitSegmenter.Side(net);
        foreach (VisionLayer block in blocks)
        {
            block.OutputObserver = x =>
            {
                Tensor patches = nn.functional.layer_norm(x.narrow(1, 1, side * side), [x.shape[2]]);
                maps.Add(patches.transpose(1, 2).reshape(x.shape[0], x.shape[2], side, side).DetachFromDisposeScope());
            };
        }

        try
        {
            net.Forward(images, last);
            return cat(maps, 1).MoveToOuterDisposeScope();
        }
        finally
        {
            maps.ForEach(m => m.Dispose());
            foreach (VisionLayer block in blocks)
            {
                block.OutputObserver = null;
            }
        }
    }
}
