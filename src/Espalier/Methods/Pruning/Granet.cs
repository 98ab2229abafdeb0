using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>Which of GraNet's two halves run; the others are the baselines of its paper.</summary>
public enum GranetVariant
{
    /// <summary>Gradual pruning, then regeneration.</summary>
    GraNet,

    /// <summary>Gradual pruning alone, from a dense net (Zhu and Gupta 2017).</summary>
    Gmp,

    /// <summary>Regeneration alone, at the final density from the start (Evci et al. 2020).</summary>
    RigL,

    /// <summary>Neither: a random mask of the final density that stays.</summary>
    Static,
}

/// <summary>
/// GraNet: a net gets sparser while it learns. At every change of the masks it is pruned a little by magnitude over all layers, then
/// each layer swaps its weakest weights for the connections with the largest gradient.
/// </summary>
/// <remarks>d is a density, r a share of zeros, ρ the share that is swapped, s counts steps from 1.</remarks>
[Method("granet", "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration", Family = "Pruning", Source = "Liu et al., NeurIPS 2021, arXiv 2106.10404",
    Summary = "The net gets sparser while it trains: global magnitude pruning on a cubic, and at each change the weakest weights are swapped for those with the largest gradient. For one normal training from random weights.",
    Fits = "sparse training; any optimiser and schedule; baselines gmp, rigl and static as variants")]
public sealed partial record Granet : ISparseTraining
{
    /// <summary>The share of zeros at the end, 1 − d_f. Default 0.95.</summary>
    /// <exception cref="EspalierException">Outside (0, 1).</exception>
    public double Sparsity
    {
        get;
        init => field = Checked(value, value is > 0 and < 1, "sparsity", "between 0 and 1, for example 0.9");
    } = 0.95;

    /// <summary>The share of zeros at the start, 1 − d_i, laid out by ERK. Default 0.5; 0 starts dense. GMP starts dense whatever stands here, RigL and static at <see cref="Sparsity"/>.</summary>
    /// <exception cref="EspalierException">Outside [0, 1).</exception>
    public double InitialSparsity
    {
        get;
        init => field = Checked(value, value is >= 0 and < 1, "sparsity at the start", "from 0 up to but not including 1");
    } = 0.5;

    /// <summary>What runs. Default GraNet.</summary>
    public GranetVariant Variant { get; init; } = GranetVariant.GraNet;

    /// <summary>ρ₀, the share of each layer's weights that the first change swaps; it falls by a cosine to 0.005. Default 0.5.</summary>
    /// <exception cref="EspalierException">Outside [0, 1].</exception>
    public double PruneRate
    {
        get;
        init => field = Checked(value, value is >= 0 and <= 1, "share that is swapped", "from 0 to 1");
    } = 0.5;

    /// <summary>ΔT, steps between two changes of the masks. Default 100 (1,000 for CIFAR and 4,000 for ImageNet in the paper's runs).</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int UpdateEvery
    {
        get;
        init => field = Checked(value, value >= 1, "number of steps between changes", "at least 1");
    } = 100;

    /// <summary>The share of the training after which masks begin to change. Default 0.</summary>
    /// <exception cref="EspalierException">Outside [0, 1).</exception>
    public double From
    {
        get;
        init => field = Checked(value, value is >= 0 and < 1, "start of the pruning", "a share of the training from 0 up to but not including 1");
    }

    /// <summary>The share of the training at which pruning ends; regeneration goes on. Default 0.6875 (epoch 110 of 160).</summary>
    /// <exception cref="EspalierException">Outside (0, 1].</exception>
    public double Until
    {
        get;
        init => field = Checked(value, value is > 0 and <= 1, "end of the pruning", "a share of the training above 0 and at most 1");
    } = 0.6875;

    /// <inheritdoc cref="GranetSchedule.ExactFinal"/>
    public bool ExactFinal { get; init; }

    /// <summary>The schedule of a run of so many steps.</summary>
    public GranetSchedule Schedule(int steps) => new(Variant is GranetVariant.Gmp ? 1 : 1 - InitialSparsity, 1 - Sparsity, From * steps, Until * steps, UpdateEvery) { ExactFinal = ExactFinal };

    /// <inheritdoc/>
    public void Check(IReadOnlyList<NetWeight> weights, int steps)
    {
        EspalierException.Require(weights.Count > 0, "granet found no weight to make sparse; the net has no linear maps or convolutions.");
        long count = weights.Sum(w => w.Value.numel());
        // The largest is the last to go: one weight at least must be left.
        EspalierException.Require((long)(count * (1 - Sparsity)) > 0, FormattableString.Invariant($"Of {count} weights none would be left at a sparsity of {Sparsity}; ask for less."));
        if (Variant is GranetVariant.GraNet or GranetVariant.Gmp)
        {
            EspalierException.Require(Variant is GranetVariant.Gmp || InitialSparsity <= Sparsity,
                FormattableString.Invariant($"granet cannot start at a sparsity of {InitialSparsity} and end at {Sparsity}; start lower (initial_sparsity)."));
            Schedule(steps).Validate();
        }

        EspalierException.Require(Variant is GranetVariant.Static || UpdateEvery < steps, $"Masks that change every {UpdateEvery} steps never change in {steps} steps of training; set update_every lower.");
    }

    /// <inheritdoc/>
    public ISparseTrainingRun Begin(SparseTrainingContext context)
    {
        Check(context.Weights, context.Steps);
        return new Run(this, context);
    }

    /// <summary>The density of each layer under ERK, (Σ dims)/(Π dims) times one ε; what would be denser than dense is dense.</summary>
    /// <param name="shapes">The shapes of the weights.</param>
    /// <param name="density">d over all of them.</param>
    public static IReadOnlyList<double> ErkDensities(IReadOnlyList<long[]> shapes, double density)
    {
        double[] n = [.. shapes.Select(s => (double)s.Aggregate(1L, (a, b) => a * b))];
        double[] raw = [.. shapes.Select((s, l) => s.Sum() / n[l])];
        var dense = new HashSet<int>();
        while (dense.Count < n.Length)
        {
            double given = 0, divisor = 0, largest = 0;
            for (int l = 0; l < n.Length; l++)
            {
                given += dense.Contains(l) ? -n[l] * (1 - density) : n[l] * density;
                divisor += dense.Contains(l) ? 0 : raw[l] * n[l];
                largest = dense.Contains(l) ? largest : Math.Max(largest, raw[l]);
            }

            double epsilon = given / divisor;
            if (epsilon * largest <= 1)
            {
                return [.. raw.Select((r, l) => dense.Contains(l) ? 1 : epsilon * r)];
            }

            dense.UnionWith(Enumerable.Range(0, n.Length).Where(l => raw[l] == largest));
        }

        return [.. n.Select(_ => 1.0)];
    }

    /// <summary>The gradual half: what is larger than the K-th largest |w| over all layers stays, K = ⌊N(1 − r)⌋, so that K − 1 stay where no two are equal.</summary>
    /// <param name="weights">The weights, 0 where pruned.</param>
    /// <param name="rate">r.</param>
    /// <returns>Keep masks (bool) in the order of the weights, in the caller's scope.</returns>
    /// <exception cref="EspalierException">When K is 0.</exception>
    public static IReadOnlyList<Tensor> GradualPrune(IReadOnlyList<Tensor> weights, double rate)
    {
        using var scope = NewDisposeScope();
        Tensor[] sizes = [.. weights.Select(w => w.detach().abs())];
        Tensor all = cat([.. sizes.Select(s => s.flatten())]);
        long count = all.numel(), kept = (long)(count * (1 - rate));
        EspalierException.Require(kept > 0, FormattableString.Invariant($"Of {count} weights none would be left at a sparsity of {rate}; ask for less."));
        double threshold = all.kthvalue(count - kept + 1, 0, false).values.item<float>();
        // Strictly: with fewer than K weights that are not zero the threshold is 0, and zeros must not come back.
        return [.. sizes.Select(s => s.gt(threshold).MoveToOuterDisposeScope())];
    }

    /// <summary>The regenerating half for one layer: the weakest ρ of its weights go, and as many connections with the largest gradient come, those just dropped among them.</summary>
    /// <param name="weight">w, 0 where pruned.</param>
    /// <param name="keep">The mask, bool or 0 and 1.</param>
    /// <param name="gradient">∂L/∂w of all entries.</param>
    /// <param name="rate">ρ.</param>
    /// <returns>The new mask (bool) with as many weights as before, in the caller's scope, and how many grew.</returns>
    public static (Tensor Keep, long Grown) Regenerate(Tensor weight, Tensor keep, Tensor gradient, double rate)
    {
        using var scope = NewDisposeScope();
        Tensor size = weight.detach().abs().flatten();
        long ones = keep.count_nonzero().item<long>(), zeros = size.numel() - ones, remove = (long)Math.Ceiling(rate * ones);
        Tensor survivors = remove == 0 ? size.ne(0) : size.gt(size.kthvalue(zeros + remove, 0, false).values.item<float>());
        long grow = ones - survivors.count_nonzero().item<long>();
        // Among equals the lower index grows first.
        Tensor order = gradient.detach().abs().flatten().masked_fill(survivors, -1).sort(0, descending: true, stable: true).Indices;
        survivors[order.narrow(0, 0, grow)] = true;
        return (survivors.view(weight.shape).MoveToOuterDisposeScope(), grow);
    }

    private static T Checked<T>(T value, bool holds, string what, string wanted) => Retraining.OptionCheck.Checked(value, holds, "granet", what, wanted);
}
