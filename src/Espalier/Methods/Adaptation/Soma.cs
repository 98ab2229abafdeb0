using System.Globalization;
using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// SoMA: a LoRA-shaped adapter that starts from the smallest singular components of each weight, with early blocks frozen and a weight decay that anneals to about zero.
/// Pick it when the fine-tuned model must work on domains that were not in training.
/// </summary>
/// <remarks>
/// After the official repository (ysj9909/SoMA). The decomposition is exact: a truncated randomised one returns the largest components and silently turns SoMA into PiSSA.
/// </remarks>
[Method("soma", "SoMA: Singular Value Decomposed Minor Components Adaptation for Domain Generalizable Representation Learning",
    Family = "Adaptation",
    Source = "Yun, Chae, Lee, Ro, CVPR 2025",
    Summary = "Low-rank factors that start from the smallest singular components, with early blocks frozen and an annealed weight decay: for models that must work on unseen domains.",
    Fits = "adaptation of language models and vision nets; AdamW or SGD; merges exactly, on pruned weights masked")]
public sealed partial record Soma : WeightAdaptation
{
    /// <summary>r of the first trained blocks. Default 16.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Rank
    {
        get;
        init => field = Checked(value, value >= 1, "rank", "at least 1");
    } = 16;

    /// <summary>lora_alpha; scaling is alpha over rank. Null (default) is the rank: scaling 1.</summary>
    /// <exception cref="EspalierException">Unless positive.</exception>
    public double? Alpha
    {
        get;
        init => field = Checked(value, value is null or > 0, "alpha", "above 0, or left out");
    }

    /// <summary>Blocks below this one are frozen wholly. Null (default) freezes a third of them, as 8 of 24.</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public int? StartIndex
    {
        get;
        init => field = Checked(value, value is null or >= 0, "start_index", "0 or more, or left out");
    }

    /// <summary>Starts from the largest components instead (PiSSA, the baseline). Default false.</summary>
    public bool FirstEigen { get; init; }

    /// <summary>Whether later blocks have more rank: r, 2r, 4r, 8r with boundaries at <see cref="RampIndices"/>. Default false.</summary>
    public bool RankRamp { get; init; }

    /// <summary>The three boundaries of <see cref="RankRamp"/>. Default 12, 16, 20.</summary>
    /// <exception cref="EspalierException">Unless three, not descending.</exception>
    public IReadOnlyList<int> RampIndices
    {
        get;
        init
        {
            EspalierException.Require(value.Count == 3 && value[0] <= value[1] && value[1] <= value[2], $"soma.ramp_indices are {string.Join(", ", value)}; they are three block numbers, ascending, for example 12, 16, 20.");
            field = value;
        }
    } = [12, 16, 20];

    /// <summary>The decoupled weight decay of the first step. Default 0.05.</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public double WeightDecay
    {
        get;
        init => field = Checked(value, value >= 0 && double.IsFinite(value), "weight_decay", "0 or more");
    } = 0.05;

    /// <summary>The weight decay of the last step. Default 1e-5; the same as <see cref="WeightDecay"/> keeps it constant.</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public double FinalWeightDecay
    {
        get;
        init => field = Checked(value, value >= 0 && double.IsFinite(value), "final_weight_decay", "0 or more");
    } = 1e-5;

    /// <summary>The power of the learning rate's fall to 0. Default 0.9.</summary>
    /// <exception cref="EspalierException">Unless positive.</exception>
    public double Power
    {
        get;
        init => field = Checked(value, value > 0 && double.IsFinite(value), "power", "above 0");
    } = 0.9;

    /// <summary>The learning rate of adapters and biases relative to that of the head. Default 0.5.</summary>
    /// <exception cref="EspalierException">Unless positive.</exception>
    public double BackboneRate
    {
        get;
        init => field = Checked(value, value > 0 && double.IsFinite(value), "backbone_rate", "above 0");
    } = 0.5;

    /// <summary>Whether the biases of adapted maps are trained too. Default true.</summary>
    public bool Biases { get; init; } = true;

    /// <summary>The triples that an adapter starts from: the last r, or with <see cref="FirstEigen"/> the first r.</summary>
    /// <param name="svd">The decomposition of a weight.</param>
    /// <param name="rank">r.</param>
    /// <param name="first">Whether the largest are taken.</param>
    /// <param name="name">The weight's name, for the sentence.</param>
    /// <exception cref="EspalierException">When the rank does not fit.</exception>
    public static ThinSvd Part(ThinSvd svd, long rank, bool first, string name)
    {
        EspalierException.Require(rank >= 1 && rank <= svd.Count, $"soma.rank is {rank}, but {name} has {svd.Count} singular values; use a rank from 1 to {svd.Count}.");
        return svd.Part(first ? 0 : svd.Count - rank, rank);
    }

    /// <summary>Step 7: the weight decay of step t of T, wd_min + (wd − wd_min)(1 + cos(πt/T))/2; after T as at T.</summary>
    /// <param name="step">t, from 0.</param>
    /// <param name="total">T.</param>
    /// <param name="start">wd.</param>
    /// <param name="end">wd_min.</param>
    public static double AnnealedDecay(long step, long total, double start, double end) =>
        end + ((start - end) * (1 + Math.Cos(Math.PI * Share(step, total))) / 2);

    /// <summary>Step 7: the learning rate of step t of T, lr_min + (lr − lr_min)(1 − t/T)^power; after T as at T.</summary>
    /// <param name="step">t, from 0.</param>
    /// <param name="total">T.</param>
    /// <param name="start">lr.</param>
    /// <param name="end">lr_min.</param>
    /// <param name="power">The power.</param>
    public static double PolynomialRate(long step, long total, double start, double end, double power) => end + ((start - end) * Math.Pow(1 - Share(step, total), power));

    /// <summary>Steps 1 and 5: the rank of a block, 0 where it is frozen.</summary>
    /// <param name="block">The block, from 0.</param>
    /// <param name="rank">r.</param>
    /// <param name="start">The first trained block.</param>
    /// <param name="ramp">The three boundaries, ascending; null for r everywhere.</param>
    public static long RankOf(long block, long rank, long start, IReadOnlyList<int>? ramp) =>
        block < start ? 0 : ramp is null ? rank : rank << ramp.Count(boundary => block >= boundary);

    private static double Share(long step, long total)
    {
        EspalierException.Require(total >= 1, $"A schedule over {total} steps is not possible; it needs at least 1.");
        return (double)Math.Clamp(step, 0, total) / total;
    }

    private static T Checked<T>(T value, bool holds, string name, string wanted)
    {
        EspalierException.Require(holds, string.Create(CultureInfo.InvariantCulture, $"soma.{name} is {value}; it must be {wanted}."));
        return value;
    }
}
