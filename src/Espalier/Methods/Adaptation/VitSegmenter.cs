using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>A ViT that gives every pixel a class: its last block's tokens, a last-layer pyramid and a head (step 8).</summary>
/// <param name="net">The ViT; it is trained along and outlives this object.</param>
/// <param name="classes">Pixel classes.</param>
/// <param name="seed">Of the weights of pyramid and head.</param>
public sealed class VitSegmenter(VisionModel net, int classes, Seed seed) : IDisposable
{
    private const double AuxiliaryWeight = 0.4;

    private readonly VisionLayer _last = LastTokens(net);
    private readonly LastLayerPyramid _pyramid = new(LastTokens(net).Shape.Channels, seed);
    private readonly SegmentationHead _head = new(LastTokens(net).Shape.Channels, classes, seed);

    /// <summary>Everything that is trained: what of the net the tokens depend on, pyramid and head.</summary>
    public IReadOnlyList<(string Name, Parameter Value)> Trainable =>
    [
        .. net.Layers.TakeWhile(l => l != _last).Append(_last).SelectMany(l => l.Parameters), .. _pyramid.Trainable.Concat(_head.Trainable).Select(t => ($"decoder.{t.Name}", t.Value)),
    ];

    /// <summary>The output of the last block, which has one place for each patch behind the class token.</summary>
    /// <exception cref="EspalierException">When the net is no ViT.</exception>
    public static VisionLayer LastTokens(VisionModel net)
    {
        Unip.Attentions(net);
        return net.Layers.OfType<LayerNormLayer>().Last().Inputs[0];
    }

    /// <summary>Patches along one side.</summary>
    public static long Side(VisionModel net) => (long)Math.Sqrt(LastTokens(net).Shape.Height - 1);

    /// <summary>Layer-wise decay of the learning rate, by parameter name.</summary>
    /// <param name="depth">Blocks of the net.</param>
    /// <param name="decay">Per layer. The paper's is 0.85.</param>
    public static Func<string, ParameterGroup> LayerGroups(int depth, double decay)
    {
        IReadOnlyList<double> scales = UnipSchedules.LayerScales(depth, decay);
        return name =>
        {
            string[] parts = name.Split('.');
            int id = parts[0] == "blocks" ? int.Parse(parts[1], System.Globalization.CultureInfo.InvariantCulture) + 1 : parts[0] is "patch_embed" or "cls_token" or "pos_embed" ? 0 : depth + 1;
            return new ParameterGroup(scales[id]);
        };
    }

    /// <summary>Class scores of every pixel [B, classes, height, width].</summary>
    /// <param name="images">Normalised images.</param>
    public Tensor Forward(Tensor images)
    {
        using var scope = NewDisposeScope();
        return SegmentationHead.Resize(_head.Forward(Maps(images, false), false), images.shape[2..]).MoveToOuterDisposeScope();
    }

    /// <summary>Trains net, pyramid and head on masks.</summary>
    /// <param name="scenes">Images with masks.</param>
    /// <param name="options">Length, rate, optimiser.</param>
    /// <param name="batch">Images per step.</param>
    /// <param name="order">The seed of their order.</param>
    /// <param name="decay">Layer-wise decay.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public TrainingResult Train(SegmentationScenes scenes, TrainingOptions options, int batch, Seed order, double decay = 0.85, CancellationToken cancellation = default)
    {
        EspalierException.Require(scenes.Classes <= classes, $"The masks have {scenes.Classes} classes, and the head tells {classes} apart.");
        using ImageTensors numbered = scenes.Numbered();
        var batches = new ImageBatches(numbered, batch) { Mean = net.Config.Mean, Deviation = net.Config.Deviation, Seed = order };
        using var loop = new TrainingLoop(options, Trainable, (step, micro) =>
        {
            using var scope = NewDisposeScope();
            (Tensor images, Tensor numbers) = batches.Shuffled((step * options.Accumulation) + micro, net.Device);
            Tensor masks = scenes.Masks.index_select(0, numbers.cpu()).to(net.Device);
            PyramidMaps maps = Maps(images, true);
            Tensor loss = Loss(_head.Forward(maps, true), masks) + (AuxiliaryWeight * Loss(_head.Auxiliary(maps, true), masks));
            return loss.MoveToOuterDisposeScope();
        })
        {
            Buffers = [.. _pyramid.Buffers.Concat(_head.Buffers)],
            Groups = LayerGroups(Unip.Attentions(net).Length, decay),
        };
        return loop.Run(cancellation);
    }

    /// <summary>Counts how the pixels of scenes are classed.</summary>
    /// <param name="scenes">Images with masks.</param>
    public SegmentationScore Evaluate(SegmentationScenes scenes) => Score(net, scenes, classes, Forward);

    /// <summary>Counts how a function from normalised images to class scores [B, classes, height, width] classes pixels.</summary>
    internal static SegmentationScore Score(VisionModel net, SegmentationScenes scenes, int classes, Func<Tensor, Tensor> forward)
    {
        using var frozen = no_grad();
        using ImageTensors numbered = scenes.Numbered();
        SegmentationScore? all = null;
        foreach ((Tensor images, Tensor numbers) in new ImageBatches(numbered, 50) { Mean = net.Config.Mean, Deviation = net.Config.Deviation }.InOrder(device: net.Device))
        {
            using var scope = NewDisposeScope();
            using (images)
            using (numbers)
            {
                SegmentationScore some = SegmentationScore.Of(scenes.Masks.index_select(0, numbers.cpu()), forward(images).argmax(1).cpu(), classes);
                all = all?.Plus(some) ?? some;
            }
        }

        return all!;
    }

    /// <summary>Cross-entropy of scores at any size with masks at their own.</summary>
    internal static Tensor Loss(Tensor scores, Tensor masks)
    {
        using var scope = NewDisposeScope();
        return nn.functional.cross_entropy(SegmentationHead.Resize(scores, masks.shape[1..]), masks).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _pyramid.Dispose();
        _head.Dispose();
    }

    private PyramidMaps Maps(Tensor images, bool training) => _pyramid.Maps(net.Forward(images, _last), Side(net), Side(net), training);
}
