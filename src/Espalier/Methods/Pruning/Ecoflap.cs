using Espalier.Catalogue;
using Espalier.Pruning.Measuring;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What <see cref="Ecoflap"/> counts as the importance of a weight; g is a gradient, or its zeroth-order estimate.</summary>
public enum EcoflapScore
{
    /// <summary>|g|.</summary>
    GradOnly,

    /// <summary>|W|·|g|.</summary>
    GradMagAbs,

    /// <summary>W²·g².</summary>
    GradMagSquare,
}

/// <summary>How the scores of the tensors of a group become the group's.</summary>
public enum EcoflapAggregate
{
    /// <summary>Their sum: small groups of equal score stay denser.</summary>
    Sum,

    /// <summary>Their sum divided by the number of weights in the group.</summary>
    Average,
}

/// <summary>Which weights share one sparsity.</summary>
public enum EcoflapGroup
{
    /// <summary>A transformer block.</summary>
    Block,

    /// <summary>One weight matrix.</summary>
    Layer,

    /// <summary>Everything; the allocation is then uniform.</summary>
    Model,
}

/// <summary>What happens to the few weights by which rounding up overshoots the budget.</summary>
public enum EcoflapOvershoot
{
    /// <summary>They are taken back, so that the budget is met exactly.</summary>
    Subtract,

    /// <summary>They are added once more, as the published code does.</summary>
    Add,
}

/// <summary>
/// ECoFLaP: coarse to fine. Decides how much to prune each block from a global importance that needs forward passes
/// only; a local criterion (Wanda, SparseGPT) then prunes every layer at its block's share.
/// </summary>
/// <remarks>
/// Sung, Yoon, Bansal, "ECoFLaP: Efficient Coarse-to-Fine Layer-Wise Pruning for Vision-Language Models". Stage 1 scores
/// every tensor of the dense model: a plan does it itself, block by block; for any other model <see cref="ScoreZerothOrder"/>,
/// or first-order gradients by <see cref="FirstOrderImportance"/>, and <see cref="WithScores(IReadOnlyDictionary{string, double})"/> do; <see cref="Allocate(IReadOnlyList{float}, IReadOnlyList{long}, double, double, EcoflapOvershoot)"/>
/// is stage 1b and works with any scores.
/// </remarks>
[Method("ecoflap", "ECoFLaP: Efficient Coarse-to-Fine Layer-Wise Pruning for Vision-Language Models",
    Family = "Pruning",
    Source = "Sung, Yoon, Bansal, arXiv 2310.02998, ICLR 2024",
    Summary = "Gives each block its own sparsity from a global importance that forward passes alone can measure.",
    Fits = "allocator; any local criterion (wanda, gblm, sparsegpt, magnitude), unstructured, any repair and retraining; measures scores of the dense model first")]
public sealed partial class Ecoflap : IAllocator, IMeasuredPart
{
    private Func<string, double?>? _scores;

    /// <summary>The largest share that any group may lose; null (the default) is the plan's sparsity + 0.1, as in the paper's scripts, at most 0.99.</summary>
    public double? MaxSparsity
    {
        get;
        init
        {
            EspalierException.Require(value is null or (> 0 and <= 1), $"A max_sparsity of {value} is not possible; it is the largest share that a group may lose, above 0 and up to 1.");
            field = value;
        }
    }

    /// <summary>Which weights share one sparsity: a transformer block by default.</summary>
    public EcoflapGroup Group { get; init; } = EcoflapGroup.Block;

    /// <summary>How tensor scores become group scores; the sum by default (the paper's BLIP-2), the average for its T5.</summary>
    public EcoflapAggregate Aggregate { get; init; } = EcoflapAggregate.Sum;

    /// <summary>Whether rounding overshoot is taken back (the default) or doubled as published.</summary>
    public EcoflapOvershoot Overshoot { get; init; } = EcoflapOvershoot.Subtract;

    /// <summary>The same allocator with its scores.</summary>
    /// <param name="scores">From the name of a prunable weight to its summed importance, not negative; null where there is none. See <see cref="ScoreZerothOrder"/>.</param>
    public Ecoflap WithScores(Func<string, double?> scores) =>
        new()
        {
            MaxSparsity = MaxSparsity, Group = Group, Aggregate = Aggregate, Overshoot = Overshoot, Order = Order, Score = Score,
            Samples = Samples, Batch = Batch, Epsilon = Epsilon, Draws = Draws, _scores = scores,
        };

    /// <inheritdoc cref="WithScores(Func{string, double?})"/>
    public Ecoflap WithScores(IReadOnlyDictionary<string, double> scores) => WithScores(name => scores.TryGetValue(name, out double score) ? score : null);

    /// <inheritdoc/>
    public IReadOnlyList<double> Allocate(IReadOnlyList<AllocatedLayer> layers, double sparsity)
    {
        EspalierException.Require(_scores is not null,
            "ECoFLaP allocates by scores of the dense model; measure them first (Ecoflap.ScoreZerothOrder, or a plan) and hand them over with WithScores.");
        string[] groupOf = [.. layers.Select(l => GroupOf(l.Name, Group))];
        string[] groups = [.. groupOf.Distinct()];
        var counts = new long[groups.Length];
        var scores = new double[groups.Length];
        for (int i = 0; i < layers.Count; i++)
        {
            double score = _scores(layers[i].Name) ?? throw new EspalierException($"ECoFLaP has no score of {layers[i].Name}; measure all prunable weights of the model.");
            int g = Array.IndexOf(groups, groupOf[i]);
            counts[g] += layers[i].Count;
            scores[g] += score;
        }

        if (Aggregate is EcoflapAggregate.Average)
        {
            scores = [.. scores.Zip(counts, (s, n) => n == 0 ? 0 : s / n)];
        }

        double max = MaxSparsity ?? Math.Max(sparsity, Math.Min(sparsity + 0.1, 0.99));
        EcoflapAllocation allocation = Allocate([.. scores.Select(s => (float)s)], counts, sparsity, max, Overshoot);

        // A plan never removes a whole layer: a group of a handful of weights keeps one.
        return [.. groupOf.Select(name => Array.IndexOf(groups, name)).Select(g => Math.Min(allocation.Sparsity[g], counts[g] == 0 ? 0 : 1 - 1.0 / counts[g]))];
    }

    /// <inheritdoc/>
    public void Check(double sparsity) => CheckMaximum(MaxSparsity ?? 1, sparsity);

    /// <summary>Stage 1b: shares the budget of kept weights out in proportion to the scores, under a cap on every group's sparsity.</summary>
    /// <param name="scores">Importance of every group, finite and not negative; only their ratios count. All 0 gives the uniform allocation.</param>
    /// <param name="counts">Weights of every group.</param>
    /// <param name="sparsity">The share to remove over all groups, in [0, 1).</param>
    /// <param name="maxSparsity">The share that a group may lose at most, from <paramref name="sparsity"/> to 1.</param>
    /// <param name="overshoot">What happens to the weights that rounding up gives too many.</param>
    /// <remarks>
    /// Shares are formed in float32 as published: ceil(score/Σscores·remaining) for every group at once, until
    /// K = ⌊n·(1−s)⌋ weights are given; a group that is full takes part no longer.
    /// </remarks>
    public static EcoflapAllocation Allocate(IReadOnlyList<float> scores, IReadOnlyList<long> counts, double sparsity, double maxSparsity, EcoflapOvershoot overshoot = EcoflapOvershoot.Subtract)
    {
        CheckAllocation(scores, counts, sparsity, maxSparsity);
        long target = (long)Math.Floor(counts.Sum() * (1 - sparsity));
        float keptShare = (float)(1 - maxSparsity);
        var keep = new long[counts.Count];
        for (int g = 0; g < keep.Length; g++)
        {
            // Rounded to float32 the product may exceed n by one.
            keep[g] = Math.Min(counts[g], (long)MathF.Ceiling(counts[g] * keptShare));
        }

        float[] open = [.. scores];
        bool shared = false;
        while (keep.Sum() < target)
        {
            shared = true;
            ShareOut(keep, open, counts, target - keep.Sum());
        }

        // The published loop looks for a surplus only after it has shared something out.
        long surplus = keep.Sum() - target;
        if (surplus > 0 && (shared || overshoot is EcoflapOvershoot.Subtract))
        {
            MoveSurplus(keep, counts, surplus, keptShare, overshoot);
        }

        return new EcoflapAllocation([.. keep.Zip(counts, (k, n) => n == 0 ? 0 : Math.Clamp(1 - (double)k / n, 0, 1))], keep, target);
    }

    /// <summary>The group of a weight by its name: up to its block's number (<c>model.layers.3.mlp.up_proj.weight</c> is in <c>model.layers.3</c>), itself, or the whole.</summary>
    public static string GroupOf(string name, EcoflapGroup group)
    {
        string[] parts = name.Split('.');
        int block = Array.FindIndex(parts, p => p.Length > 0 && p.All(char.IsAsciiDigit));
        return group switch
        {
            EcoflapGroup.Model => "",
            EcoflapGroup.Block when block >= 0 => string.Join('.', parts[..(block + 1)]),
            _ => name,
        };
    }

    private static void ShareOut(long[] keep, float[] scores, IReadOnlyList<long> counts, long remaining)
    {
        float total = Sum(scores);
        if (total == 0)
        {
            // No score is left (or was given): what remains is shared by size among the groups that are not full.
            for (int g = 0; g < keep.Length; g++)
            {
                scores[g] = keep[g] < counts[g] ? counts[g] : 0;
            }

            total = Sum(scores);
        }

        bool added = false;
        for (int g = 0; g < keep.Length; g++)
        {
            float share = MathF.Ceiling(scores[g] / total * remaining);
            added |= share > 0;
            keep[g] += (long)share;
            if (keep[g] >= counts[g])
            {
                (keep[g], scores[g]) = (counts[g], 0);
            }
        }

        for (int g = 0; g < keep.Length && !added && remaining > 0; g++)
        {
            // Scores too small for float32 gave nothing to anyone.
            long room = scores[g] > 0 ? Math.Min(remaining, counts[g] - keep[g]) : 0;
            (keep[g], remaining) = (keep[g] + room, remaining - room);
        }
    }

    // Goes through the groups by descending keep, as often as it takes.
    private static void MoveSurplus(long[] keep, IReadOnlyList<long> counts, long surplus, float keptShare, EcoflapOvershoot overshoot)
    {
        bool moved = true;
        while (surplus > 0 && moved)
        {
            moved = false;
            foreach (int g in Enumerable.Range(0, keep.Length).OrderByDescending(g => keep[g]).ToArray())
            {
                long room = Math.Min(surplus, keep[g] - (long)MathF.Floor(counts[g] * keptShare));
                keep[g] += overshoot is EcoflapOvershoot.Add ? room : -room;
                surplus -= room;
                moved |= room > 0;
                if (surplus == 0)
                {
                    break;
                }
            }
        }
    }

    private static float Sum(float[] values)
    {
        using Tensor t = tensor(values);
        using Tensor total = t.sum();
        return total.item<float>();
    }

    private static void CheckMaximum(double maxSparsity, double sparsity) => EspalierException.Require(maxSparsity >= sparsity && maxSparsity <= 1,
        $"No group may lose more than {maxSparsity} (max_sparsity), but the plan asks for a sparsity of {sparsity} over all; raise max_sparsity, to at most 1.");

    private static void CheckAllocation(IReadOnlyList<float> scores, IReadOnlyList<long> counts, double sparsity, double maxSparsity)
    {
        MaskSelection.PruneCount(0, sparsity);
        EspalierException.Require(scores.Count == counts.Count && counts.Count > 0, $"{scores.Count} scores for {counts.Count} groups were given; every group needs one.");
        CheckMaximum(maxSparsity, sparsity);
        for (int g = 0; g < counts.Count; g++)
        {
            EspalierException.Require(counts[g] >= 0, $"Group {g} has {counts[g]} weights, which is not possible.");
            EspalierException.Require(float.IsFinite(scores[g]) && scores[g] >= 0, $"The score of group {g} is {scores[g]}; scores must be finite and not negative.");
        }

        EspalierException.Require(double.IsFinite(Sum([.. scores])), "The scores are too large to be summed in float32; divide all of them by the same number, which changes nothing else.");
    }
}

/// <summary>How many weights every group keeps.</summary>
/// <param name="Sparsity">The share that each group loses, in [0, 1].</param>
/// <param name="Keep">How many weights it keeps; the published overshoot may exceed its size by a few.</param>
/// <param name="Target">K, the number of weights to keep over all groups.</param>
public sealed record EcoflapAllocation(IReadOnlyList<double> Sparsity, IReadOnlyList<long> Keep, long Target)
{
    /// <summary>Weights kept beyond the target; negative where some are missing.</summary>
    public long Surplus => Keep.Sum() - Target;
}
