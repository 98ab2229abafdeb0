using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What the pruner that AP is added to ranks weights by.</summary>
public enum ApPruner
{
    /// <summary>|w|, over all layers.</summary>
    Magnitude,

    /// <summary>|w·∂L/∂w| on the last batch of the cycle, over all layers.</summary>
    Gradient,
}

/// <summary>Which weights the second step takes; the others than AP's own are its ablations.</summary>
public enum ApChoice
{
    /// <summary>Negative weights that moved least: AP.</summary>
    NegativeStill,

    /// <summary>Negative weights by lot.</summary>
    NegativeRandom,

    /// <summary>Positive weights that moved least.</summary>
    PositiveStill,
}

/// <summary>
/// Activate while pruning: iterative pruning with rewinding, in which a small part of every step goes to negative weights that hardly moved, so that more ReLU nodes
/// fire in the pruned net. Pick it when a ReLU net loses accuracy at high sparsity.
/// </summary>
/// <remarks>
/// p and q as on the card, in percent of the weights that are left. A run is one dense training and <see cref="Cycles"/> pruned ones of equal length, each with the whole
/// learning-rate schedule. Zeros are told by masks, not by value, and scales of norms are not pruned: in both this departs from the published code.
/// </remarks>
[Method("ap", "AP: Selective Activation for De-sparsifying Pruned Neural Networks",
    Family = "Pruning",
    Source = "Liu, Ghosh, Tan, Motani, TMLR 2023, arXiv 2212.06145",
    Summary = "Iterative pruning with rewinding that gives a share of each step to negative weights that hardly moved, so that fewer ReLU nodes are dead.",
    Fits = "sparse training; ReLU nets; magnitude or gradient as base pruner; any optimiser; inspect the dead neuron rate with it")]
public sealed partial record Ap : ISparseTraining
{
    /// <summary>p: the percentage of the remaining weights that each cycle removes. Default 20.</summary>
    public double Percent
    {
        get;
        init => field = Checked(value, value is > 0 and < 100, "percentage", "between 0 and 100, for example 20");
    } = 20;

    /// <summary>q: the part of p, in the same percentage, that goes to AP's own choice. Default 2; 0 is the base pruner alone.</summary>
    public double Rate
    {
        get;
        init => field = Checked(value, value is >= 0 and < 100, "AP rate", "0 or more and below percent");
    } = 2;

    /// <summary>Prunings, each followed by a training from the first weights. Default 6 (25 in the paper's runs).</summary>
    public int Cycles
    {
        get;
        init => field = Checked(value, value >= 1, "number of cycles", "at least 1");
    } = 6;

    /// <summary>What the base pruner ranks by. Default magnitude.</summary>
    public ApPruner Pruner { get; init; } = ApPruner.Magnitude;

    /// <summary>What AP's step takes. Default the method's own.</summary>
    public ApChoice Choice { get; init; } = ApChoice.NegativeStill;

    /// <summary>Whether weights go back to their first values after each pruning. Default true, as in the paper; else they are trained on.</summary>
    public bool Rewind { get; init; } = true;

    /// <summary>Step 2: the threshold below which scores go.</summary>
    /// <param name="values">The scores of weights that are left, any number.</param>
    /// <param name="percent">The percentage.</param>
    /// <returns>s_f + (s_{f+1} − s_f)·(h − f) with h = percent/100·(n − 1), f = ⌊h⌋ over the sorted scores s.</returns>
    public static double Percentile(Tensor values, double percent)
    {
        EspalierException.Require(values.numel() > 0, "No weight is left that a percentile could be taken of.");
        using var scope = NewDisposeScope();
        Tensor sorted = values.detach().flatten().to(ScalarType.Float64).sort(0).Values;
        double h = percent / 100 * (sorted.numel() - 1);
        long f = (long)Math.Floor(h);
        double low = sorted[f].item<double>(), high = sorted[Math.Min(f + 1, sorted.numel() - 1)].item<double>();
        return low + ((high - low) * (h - f));
    }

    /// <summary>Step 2: the scores below the percentile go, over all layers.</summary>
    /// <param name="scores">The scores of each layer.</param>
    /// <param name="keep">Which weights are left, bool.</param>
    /// <param name="percent">p − q.</param>
    /// <param name="rate">q.</param>
    /// <param name="repeat">How often each layer's scores enter the list; 1 for all, except to do as the published code does.</param>
    /// <returns>The new masks, the threshold T and int(L·q/100) of the list's length L.</returns>
    public static (IReadOnlyList<Tensor> Keep, double Threshold, long Count) PercentilePrune(
        IReadOnlyList<Tensor> scores, IReadOnlyList<Tensor> keep, double percent, double rate, IReadOnlyList<int>? repeat = null)
    {
        using var scope = NewDisposeScope();
        Tensor list = cat([.. scores.Index().SelectMany(s => Enumerable.Repeat(s.Item.detach().masked_select(keep[s.Index]), repeat?[s.Index] ?? 1))]);
        double threshold = Percentile(list, percent);
        return ([.. scores.Zip(keep, (s, k) => k.logical_and(s.detach().to(ScalarType.Float64).ge(threshold)).MoveToOuterDisposeScope())], threshold, (long)(list.numel() * (rate / 100)));
    }

    /// <summary>Step 3: of the candidates, those whose score is at most the (count + 1)-th smallest go; AP scores by |w − w_prev|.</summary>
    /// <param name="scores">The score of every weight.</param>
    /// <param name="candidates">Which may go, bool.</param>
    /// <param name="keep">Which weights are left, bool.</param>
    /// <param name="count">0-based place of the threshold.</param>
    /// <returns>The new masks, the threshold θ and how many went: ties go together.</returns>
    /// <exception cref="EspalierException">When there are not more candidates than <paramref name="count"/>.</exception>
    public static (IReadOnlyList<Tensor> Keep, double Threshold, long Pruned) TakeSmallest(IReadOnlyList<Tensor> scores, IReadOnlyList<Tensor> candidates, IReadOnlyList<Tensor> keep, long count)
    {
        using var scope = NewDisposeScope();
        Tensor list = cat([.. scores.Zip(candidates, (s, c) => s.detach().masked_select(c))]);
        EspalierException.Require(count < list.numel(), $"AP is to take {count} weights and one more, but only {list.numel()} negative ones are left; lower its rate or prune less.");
        Tensor threshold = list.sort(0).Values[count];
        Tensor[] go = [.. scores.Zip(candidates, (s, c) => c.logical_and(s.detach().le(threshold)))];
        long pruned = go.Zip(keep, (g, k) => g.logical_and(k).sum().item<long>()).Sum();
        return ([.. keep.Zip(go, (k, g) => k.logical_and(g.logical_not()).MoveToOuterDisposeScope())], threshold.to(ScalarType.Float64).item<double>(), pruned);
    }

    /// <inheritdoc/>
    public void Check(IReadOnlyList<NetWeight> weights, int steps)
    {
        EspalierException.Require(weights.Count > 0, "ap found no weight to make sparse; the net has no linear maps or convolutions.");
        EspalierException.Require(Rate < Percent, FormattableString.Invariant($"An AP rate of {Rate} is no part of {Percent} percent; set rate below percent."));
        EspalierException.Require(steps > Cycles, $"{steps} steps are too few for {Cycles} cycles after a dense one; train longer or set cycles lower.");
    }

    /// <inheritdoc/>
    public ISparseTrainingRun Begin(SparseTrainingContext context)
    {
        Check(context.Weights, context.Steps);
        return new Run(this, context);
    }

    /// <summary>The step (from 0) with which a cycle begins; cycle 0 is dense.</summary>
    public int Start(int cycle, int steps) => (int)((long)cycle * steps / (Cycles + 1));

    private static T Checked<T>(T value, bool holds, string what, string wanted) => Retraining.OptionCheck.Checked(value, holds, "ap", what, wanted);
}
