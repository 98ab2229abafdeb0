using Espalier.Methods.Merging;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Retraining;

// Vision nets: prunes by magnitude where a sparsity is given, then trains the subset on images. Length, rate and batch are those of the training's words.
public sealed partial class Perp
{
    /// <summary>Vision nets: the share of all weights of convolutions and linear maps that is pruned first, smallest |w| of the whole net; null (default) keeps the zeros that the net has.</summary>
    /// <exception cref="EspalierException">Unless between 0 and 1.</exception>
    public double? Sparsity
    {
        get;
        init => field = Checked(value, value is null or (> 0 and < 1), "sparsity", "between 0 and 1");
    }

    /// <inheritdoc/>
    public void Check(VisionModel model, TrainingOptions options)
    {
        options.Validate();
        TrainableSubset.RequireAny(model, this);
        EspalierException.Require(Sparsity is not null || model.Weights.Any(HasZeros), "The net is not pruned and no sparsity was given, so there is nothing to retrain after; set sparsity, for example 0.8.");
    }

    /// <inheritdoc/>
    public VisionMethodResult Run(VisionMethodContext context, CancellationToken cancellation = default)
    {
        Check(context.Model, context.Options);
        using var scope = NewDisposeScope();
        VisionModel net = context.Model.Clone();
        try
        {
            Dictionary<string, Tensor> masks = net.Weights.ToDictionary(w => w.WeightName, w => w.Weight.detach().ne(0), StringComparer.Ordinal);
            if (Sparsity is { } sparsity)
            {
                long all = net.Weights.Sum(w => w.Weight.numel()), zero = all - masks.Values.Sum(m => m.sum().item<long>());
                MagnitudePruning.Prune(net, masks, Math.Max(0, ((sparsity * all) - zero) / (all - zero)), MagnitudeSelector.Global, context.Seed);
            }

            (string, double)[] before = Measure("accuracy after pruning, %", net, context);
            long trained = Retrain(net, masks, context, cancellation);
            return new VisionMethodResult(net, VisionMethodResult.Pack(masks),
            [
                ("parameters trained", trained), ("share of all parameters, %", 100.0 * trained / net.ParameterCount), .. before, .. Measure("accuracy after retraining, %", net, context),
            ]);
        }
        catch
        {
            net.Dispose();
            throw;
        }
    }

    /// <summary>Trains the subset of a pruned net in place and folds its adapters in; every zero of the masks stays.</summary>
    /// <param name="net">The net.</param>
    /// <param name="masks">Its keep masks by weight name, in the stored shapes.</param>
    /// <param name="context">Images and training.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>How many numbers were trained.</returns>
    /// <exception cref="EspalierException">When the subset selects nothing, or a zero came back.</exception>
    public long Retrain(VisionModel net, IReadOnlyDictionary<string, Tensor> masks, VisionMethodContext context, CancellationToken cancellation = default)
    {
        using TrainableSubset subset = TrainableSubset.Select(net, this, masks, context.Seed);
        var known = net.Parameters.Select(p => p.Name).ToHashSet(StringComparer.Ordinal);
        VisionTraining training = context.Training(context.Seed) with { Extra = [.. subset.Parameters.Where(p => !known.Contains(p.Name))] };

        // A mask belongs to what is trained itself: everything under full, or the head.
        var trained = subset.Parameters.Select(p => p.Name).ToHashSet(StringComparer.Ordinal);
        training.Run(net, context.Images, masks.Where(m => trained.Contains(m.Key)).ToDictionary(m => m.Key, m => m.Value), cancellation);
        subset.Merge(context.Progress);
        using var scope = NewDisposeScope();
        foreach (WeightLayer layer in net.Weights)
        {
            long revived = layer.Weight.ne(0).logical_and(masks[layer.WeightName].logical_not()).sum().item<long>();
            EspalierException.Require(revived == 0, $"perp revived {revived} pruned weights of {layer.WeightName}; report this as a fault.");
        }

        return subset.Count;
    }

    private static (string, double)[] Measure(string name, VisionModel net, VisionMethodContext context) =>
        context.Test is null ? [] : [(name, Evaluation.ImageAccuracy.Evaluate(net, context.Test).Top1)];

    private static bool HasZeros(WeightLayer layer)
    {
        using Tensor kept = layer.Weight.count_nonzero();
        return kept.item<long>() < layer.Weight.numel();
    }
}
