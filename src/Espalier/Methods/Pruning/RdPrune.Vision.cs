using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Methods.Merging;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

// Vision nets, as in the paper: curves of the logits on calibration images, magnitude within layers, retraining, and again.
public sealed partial class RdPrune
{
    /// <summary>Vision nets: the share of all weights of convolutions and linear maps that is zero in the end; null (default) is asked for.</summary>
    public double? Sparsity
    {
        get;
        init
        {
            EspalierException.Require(value is null or (> 0 and < 1), $"rdprune.sparsity is {value}; it must lie between 0 and 1.");
            field = value;
        }
    }

    /// <summary>Vision nets: how often curves are measured, weights pruned and the net retrained. Each time takes the same share of what remains. Default 1; 20 as published.</summary>
    public int Iterations
    {
        get;
        init
        {
            EspalierException.Require(value >= 1, $"rdprune.iterations is {value}; it must be 1 or more.");
            field = value;
        }
    } = 1;

    /// <inheritdoc/>
    public void Check(VisionModel model, TrainingOptions options)
    {
        options.Validate();
        EspalierException.Require(Sparsity is not null, "How much of a vision net shall be pruned is not said; set sparsity, for example 0.8.");
        Check(Sparsity.Value);
    }

    /// <inheritdoc/>
    public VisionMethodResult Run(VisionMethodContext context, CancellationToken cancellation = default)
    {
        Check(context.Model, context.Options);
        using var scope = NewDisposeScope();
        double rate = 1 - Math.Pow(1 - Sparsity!.Value, 1.0 / Iterations);
        VisionModel net = context.Model.Clone();
        try
        {
            Dictionary<string, Tensor> masks = MagnitudePruning.All(net);
            var figures = new List<(string, double)>();
            for (int i = 1; i <= Iterations; i++)
            {
                (Tensor images, Tensor labels) = new ImageBatches(context.Images, Math.Min(Samples, context.Images.Count))
                {
                    Mean = net.Config.Mean,
                    Deviation = net.Config.Deviation,
                    Seed = new Seed(context.Seed.For($"calibration of iteration {i}")),
                }.Shuffled(0, net.Device);
                (IReadOnlyList<RdCurve> worst, IReadOnlyList<RdCurve> mean) = MeasureBoth(net, images, Levels, context.Progress, cancellation);
                Prune(net, masks, WithCurves(Named(net, WorstCase ? worst : mean)).Allocate(Layers(net), SparsityAfterIteration(i, rate)));
                if (context.Test is { } test)
                {
                    figures.Add(($"accuracy after pruning {i}, %", ImageAccuracy.Evaluate(net, test).Top1));
                }

                context.Train(net, new Seed(context.Seed.For($"retraining {i}")), masks, cancellation: cancellation);
                images.Dispose();
                labels.Dispose();
            }

            return new VisionMethodResult(net, VisionMethodResult.Pack(masks), figures);
        }
        catch
        {
            net.Dispose();
            throw;
        }
    }

    /// <summary>Curves of the logits of a vision net.</summary>
    /// <param name="net">The net; its weights are changed and restored bit for bit, its mode is put back.</param>
    /// <param name="images">Calibration images [images, channels, height, width], normalised.</param>
    /// <param name="levels">P.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Stops between passes.</param>
    /// <returns>One curve for each of <see cref="VisionModel.Weights"/>, by the worst image and by the mean.</returns>
    public static (IReadOnlyList<RdCurve> Worst, IReadOnlyList<RdCurve> Mean) MeasureBoth(
        VisionModel net, Tensor images, int levels, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        bool training = net.Training;
        net.Training = false;
        try
        {
            return MeasureBoth([.. net.Weights.Select(w => (w.WeightName, (Tensor)w.Weight))], levels, _ => net.Forward(images), progress, cancellation);
        }
        finally
        {
            net.Training = training;
        }
    }

    /// <summary>The prunable weights of a vision net as an allocator sees them.</summary>
    public static IReadOnlyList<AllocatedLayer> Layers(VisionModel net) => [.. net.Weights.Select((w, i) => new AllocatedLayer(w.WeightName, i, w.Rows, w.Columns))];

    /// <summary>Curves by the names of a net's weights.</summary>
    public static IReadOnlyDictionary<string, RdCurve> Named(VisionModel net, IReadOnlyList<RdCurve> curves) =>
        net.Weights.Zip(curves).ToDictionary(p => p.First.WeightName, p => p.Second, StringComparer.Ordinal);

    /// <summary>Prunes a vision net in place by magnitude, each weight to its share.</summary>
    /// <param name="net">The net.</param>
    /// <param name="masks">Its keep masks by weight name; new tensors, in the caller's scope, take the place of the old ones.</param>
    /// <param name="shares">The share of all its weights that each shall have lost, in the order of <see cref="VisionModel.Weights"/>.</param>
    public static void Prune(VisionModel net, Dictionary<string, Tensor> masks, IReadOnlyList<double> shares)
    {
        using var frozen = no_grad();
        foreach ((WeightLayer layer, double share) in net.Weights.Zip(shares))
        {
            Tensor keep = masks[layer.WeightName];
            using Tensor count = keep.sum();
            double left = (double)count.item<long>() / keep.numel();
            masks[layer.WeightName] = PruneRemaining(layer.Weight, keep, left == 0 ? 0 : Math.Clamp(1 - ((1 - share) / left), 0, 1));
            using Tensor pruned = masks[layer.WeightName].logical_not();
            layer.Weight.masked_fill_(pruned, 0);
        }
    }
}
