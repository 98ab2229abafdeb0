using System.Globalization;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>How FLAP spreads the budget: U uniform, A adaptive, M manual; first over layers (L), then over the two kinds of module (M).</summary>
public enum FlapStructure
{
    /// <summary>AL-AM: one ranking of all heads and neurons of the network, by standardised score.</summary>
    AlAm,

    /// <summary>AL-MM: one ranking of the heads and one of the neurons; the number of heads is given.</summary>
    AlMm,

    /// <summary>UL-UM: every layer loses the same share of its heads and of its neurons.</summary>
    UlUm,

    /// <summary>UL-MM: every layer loses the same number of heads, which is given, and of neurons.</summary>
    UlMm,
}

/// <summary>What is removed from an attention at once.</summary>
/// <param name="HeadDim">Columns of one head; unchanged by pruning, as rotary positions need it.</param>
/// <param name="QueryHeads">Query heads that share one key and value head and go with it; 1 without grouped queries.</param>
public readonly record struct FlapUnits(int HeadDim, int QueryHeads = 1)
{
    /// <summary>Columns of the output projection that a unit takes.</summary>
    public long Columns => (long)HeadDim * QueryHeads;

    /// <summary>Parameters of a unit, in multiples of the model's width: q and o for each query head, k and v once. 4·head_dim for a plain head; a neuron has 3.</summary>
    public long Parameters => (2L * QueryHeads + 2) * HeadDim;

    /// <summary>What a unit weighs in the ranking against a neuron's 1: floor(parameters / 3), as the published code truncates it.</summary>
    public long Weight => Parameters / 3;
}

/// <summary>What <see cref="Flap.Search"/> is asked.</summary>
public sealed record FlapSearch
{
    /// <summary>How the budget is spread.</summary>
    public FlapStructure Structure { get; init; } = FlapStructure.AlAm;

    /// <summary>The share of block parameters to remove, in (0, 1); the paper's 0.2.</summary>
    public double Ratio { get; init; } = 0.2;

    /// <summary>What a head is.</summary>
    public required FlapUnits Units { get; init; }

    /// <summary>Heads to remove over the network; AL-MM and UL-MM only.</summary>
    public int RemoveHeads { get; init; } = -1;

    /// <summary>h, the model's width; AL-MM and UL-MM only.</summary>
    public long Hidden { get; init; }

    /// <summary>F, the dense neurons of a layer, in the count of AL-MM and UL-MM only; null takes the width of the metric.</summary>
    public long? Intermediate { get; init; }
}

/// <summary>What stays.</summary>
/// <param name="KeepHeads">[layers, heads], bool.</param>
/// <param name="KeepNeurons">[layers, F], bool.</param>
/// <param name="HeadScore">[layers, heads], float32: what heads were ranked by.</param>
/// <param name="NeuronScore">[layers, F], float32.</param>
/// <param name="KeptFraction">Kept parameters over all: a unit counts <see cref="FlapUnits.Parameters"/>, a neuron 3. Up to one unit from the share asked for.</param>
public sealed record FlapChoice(Tensor KeepHeads, Tensor KeepNeurons, Tensor HeadScore, Tensor NeuronScore, double KeptFraction);

public sealed partial class Flap
{
    /// <summary>Step 3: chooses heads and neurons over all layers. No minimum per layer is kept; see <see cref="Choose"/>.</summary>
    /// <param name="attentionMetric">[layers, units·columns of a unit]: the metric of every input of the output projections, squared.</param>
    /// <param name="neuronMetric">[layers, F]: of every input of the second feed-forward matrix.</param>
    /// <param name="asked">How.</param>
    /// <exception cref="EspalierException">When shapes, ratio or the number of heads do not fit.</exception>
    public static FlapChoice Search(Tensor attentionMetric, Tensor neuronMetric, FlapSearch asked)
    {
        EspalierException.Require(asked.Ratio is > 0 and < 1, string.Create(CultureInfo.InvariantCulture, $"A ratio of {asked.Ratio} is not possible; it is the share of parameters removed, between 0 and 1."));
        EspalierException.Require(attentionMetric.dim() == 2 && neuronMetric.dim() == 2 && attentionMetric.shape[0] == neuronMetric.shape[0] && attentionMetric.shape[0] > 0,
            $"FLAP needs one row of metrics per layer, but the attentions give [{string.Join(", ", attentionMetric.shape)}] and the feed-forward parts [{string.Join(", ", neuronMetric.shape)}].");
        EspalierException.Require(asked.Units is { HeadDim: > 0, QueryHeads: > 0 } && attentionMetric.shape[1] % asked.Units.Columns == 0,
            $"A head takes {asked.Units.Columns} columns, which do not divide the attention width {attentionMetric.shape[1]}; take head_dim from the model's config.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        long layers = attentionMetric.shape[0];
        Tensor attention = Finite(attentionMetric), mlp = Finite(neuronMetric);
        bool adaptive = asked.Structure is FlapStructure.AlAm or FlapStructure.AlMm;
        Tensor columns = (adaptive ? Standardise(attention) : attention).reshape(layers, -1, asked.Units.Columns);
        Tensor heads = adaptive ? columns.mean([2]) : columns.sum(2); // [L, H]
        Tensor neurons = adaptive ? Standardise(mlp) : mlp;           // [L, F]
        (Tensor keepHeads, Tensor keepNeurons) = asked.Structure switch
        {
            FlapStructure.AlAm => OneRanking(heads, neurons, asked.Units.Weight, asked.Ratio),
            FlapStructure.AlMm => (
                Above(heads, Budget(asked.RemoveHeads, heads.numel(), "heads")),
                Above(neurons, Budget(NeuronsToRemove(layers, asked.Intermediate ?? neurons.shape[1], asked, asked.RemoveHeads), neurons.numel(), "neurons"))),
            FlapStructure.UlUm => (
                AtLeast(heads, (long)Math.Floor(asked.Ratio * heads.shape[1])),
                AtLeast(neurons, (long)Math.Floor(asked.Ratio * neurons.shape[1]))),
            _ => PerLayerBudget(heads, neurons, asked),
        };
        return new FlapChoice(
            keepHeads.MoveToOuterDisposeScope(), keepNeurons.MoveToOuterDisposeScope(),
            heads.to(ScalarType.Float32).MoveToOuterDisposeScope(), neurons.to(ScalarType.Float32).MoveToOuterDisposeScope(),
            KeptFraction(keepHeads, keepNeurons, asked.Units));
    }

    /// <summary>The neurons that AL-MM and UL-MM remove beside the heads: floor((layers·ratio·(3·F·h + 4·h²) − 4·h·heads·head_dim)/(3·h)).</summary>
    /// <param name="layers">Layers that share the budget.</param>
    /// <param name="intermediate">F.</param>
    /// <param name="asked">Ratio, width and head width.</param>
    /// <param name="removedHeads">Heads removed in these layers.</param>
    /// <exception cref="EspalierException">When the heads alone remove more than was asked for.</exception>
    public static long NeuronsToRemove(long layers, long intermediate, FlapSearch asked, long removedHeads)
    {
        EspalierException.Require(asked.Units.QueryHeads == 1, "A given number of heads is defined for attentions without grouped queries; use the structure AL-AM or UL-UM for this model.");
        EspalierException.Require(asked.Hidden > 0, "The structures AL-MM and UL-MM need the model's width; give the hidden size.");
        double h = asked.Hidden;
        double budget = layers * asked.Ratio * (3 * intermediate * h + 4 * h * h);
        double count = Math.Floor((budget - 4 * h * removedHeads * asked.Units.HeadDim) / (3 * h));
        EspalierException.Require(count >= 0, string.Create(CultureInfo.InvariantCulture,
            $"Removing {removedHeads} heads alone exceeds the ratio {asked.Ratio}; remove fewer heads or raise the ratio."));
        return (long)count;
    }

    /// <summary>Gives every layer at least so many units back, the best of those removed first, and rounds the kept ones up to a multiple.</summary>
    /// <param name="keep">[layers, units], bool.</param>
    /// <param name="score">[layers, units].</param>
    /// <param name="minimum">Units that each layer keeps at least (all, where it has fewer).</param>
    /// <param name="multiple">Each layer's kept units become a multiple of this (all, where that would be more).</param>
    /// <returns>[layers, units], bool.</returns>
    public static Tensor KeepAtLeast(Tensor keep, Tensor score, int minimum, int multiple)
    {
        EspalierException.Require(minimum >= 0 && multiple >= 1 && keep.shape.AsSpan().SequenceEqual(score.shape),
            $"A minimum of {minimum}, a multiple of {multiple} and scores [{string.Join(", ", score.shape)}] do not fit a choice [{string.Join(", ", keep.shape)}].");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        long units = keep.shape[1];
        Tensor count = keep.sum(1, keepdim: true).clamp_min(minimum);                         // [L, 1]
        Tensor wanted = ((count + (multiple - 1)).floor_divide(multiple) * multiple).clamp_max(units);

        // Kept ones stand first, then removed ones by score; among equals the higher index returns first, as the lower was pruned first.
        Tensor rank = score.to(ScalarType.Float64).flip(1).sort(dim: 1, descending: true, stable: true).Indices.argsort(1).flip(1);
        Tensor order = rank.masked_fill(keep, -1).sort(dim: 1, descending: false, stable: true).Indices;
        Tensor chosen = arange(units, ScalarType.Int64, keep.device).unsqueeze(0).less(wanted);
        return zeros_like(keep).scatter(1, order, chosen).MoveToOuterDisposeScope();
    }

    // AL-AM: heads of all layers, then neurons of all layers, best first; the cut is where the kept weight is nearest to what is asked.
    private static (Tensor Heads, Tensor Neurons) OneRanking(Tensor heads, Tensor neurons, long headWeight, double ratio)
    {
        Tensor score = cat([heads.reshape(-1), neurons.reshape(-1)]);
        Tensor weight = cat([full_like(heads.reshape(-1), headWeight), ones_like(neurons.reshape(-1))]);
        (Tensor sorted, Tensor order) = score.sort(dim: 0, descending: true, stable: true);
        Tensor kept = weight.index_select(0, order).cumsum(0);
        double target = weight.sum().item<double>() * (1 - ratio);
        double threshold = sorted[FirstSmallest((kept - target).abs())].item<double>();

        // Strict: the unit at the threshold goes too.
        return (heads > threshold, neurons > threshold);
    }

    private static (Tensor Heads, Tensor Neurons) PerLayerBudget(Tensor heads, Tensor neurons, FlapSearch asked)
    {
        EspalierException.Require(asked.RemoveHeads >= 0, "The structure UL-MM needs the number of heads to remove; give remove_heads.");
        long perLayer = asked.RemoveHeads / heads.shape[0];
        return (AtLeast(heads, perLayer), AtLeast(neurons, NeuronsToRemove(1, asked.Intermediate ?? neurons.shape[1], asked, perLayer)));
    }

    // Everything above the count-th smallest of the network; the published indexing breaks at 0, which removes none.
    private static Tensor Above(Tensor score, long count) =>
        count == 0 ? ones_like(score, ScalarType.Bool) : score > score.reshape(-1).kthvalue(count, 0, false).values;

    // In each layer everything from the value at index count of the ascending order on.
    private static Tensor AtLeast(Tensor score, long count)
    {
        EspalierException.Require(count < score.shape[1], $"{count} of the {score.shape[1]} heads or neurons of every layer would be removed, and at least one must stay; lower the ratio or remove_heads.");
        return score >= score.sort(dim: 1, descending: false, stable: true).Values.narrow(1, count, 1);
    }

    private static long Budget(long count, long all, string what)
    {
        EspalierException.Require(count >= 0, "The structure AL-MM needs the number of heads to remove; give remove_heads.");
        EspalierException.Require(count <= all, $"{count} {what} were to be removed, but the model has {all}; lower the ratio, or change the number of heads.");
        return count;
    }

    private static long FirstSmallest(Tensor distance)
    {
        double[] d = distance.cpu().data<double>().ToArray();
        return Array.IndexOf(d, d.Min());
    }

    // (x − mean) / unbiased std of each layer; a layer whose metrics are all equal scores 0 instead of NaN.
    private static Tensor Standardise(Tensor metric)
    {
        using var scope = NewDisposeScope();
        Tensor x = metric.to(ScalarType.Float64);
        Tensor centred = x - x.mean([1], keepdim: true);
        Tensor std = (centred.pow(2).sum(1, keepdim: true) / Math.Max(1, x.shape[1] - 1)).sqrt();
        Tensor constant = x.amax([1], keepdim: true).eq(x.amin([1], keepdim: true));
        return (centred / std.masked_fill(std.eq(0), 1)).masked_fill(constant, 0).MoveToOuterDisposeScope();
    }

    private static Tensor Finite(Tensor metric)
    {
        Tensor x = metric.detach().to(ScalarType.Float64);
        EspalierException.Require(x.isfinite().all().item<bool>(), "The metrics of the layers hold NaN or infinite values; the weights or the calibration inputs are damaged.");
        return x;
    }

    private static double KeptFraction(Tensor keepHeads, Tensor keepNeurons, FlapUnits units)
    {
        using var scope = NewDisposeScope();
        double kept = keepHeads.sum().item<long>() * units.Parameters + keepNeurons.sum().item<long>() * 3;
        return kept / (keepHeads.numel() * units.Parameters + keepNeurons.numel() * 3);
    }
}
