using Espalier.Catalogue;
using Espalier.Pruning.Measuring;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>Which dynamic program <see cref="RdPrune"/> allocates by.</summary>
public enum RdProgram
{
    /// <summary>The optimum, within the budget.</summary>
    Exact,

    /// <summary>The published code's, with its rounding and its faults.</summary>
    Published,
}

/// <summary>
/// RD-Prune: measures how much the network's output is distorted when one layer alone is pruned, at many levels, and
/// chooses one level per layer so that the summed distortion is least under the global budget (a dynamic program).
/// </summary>
/// <remarks>
/// Xu, Wang, Geng, Lin, Wu, Li, Lin, "Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural
/// Networks". Rests on additivity: the distortion of pruning layers together is about the sum of pruning each alone.
/// A plan measures the curves of the dense model itself, one block at a time and with its own criterion; for any other
/// network <see cref="MeasureCurves"/> and <see cref="WithCurves(IReadOnlyDictionary{string, RdCurve})"/> do. After every retraining they must be measured again.
/// </remarks>
[Method("rdprune", "Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural Networks",
    Family = "Pruning",
    Source = "Xu, Wang, Geng, Lin, Wu, Li, Lin, ICCV 2023, pp. 17447-17457",
    Summary = "Chooses every layer's share by the distortion of the output that its pruning causes, with a dynamic program.",
    Fits = "allocator; magnitude (or any criterion), unstructured, any repair and retraining; iterative schedules; measures curves of the current network first; vision nets: `espalier train --method rdprune`")]
public sealed partial class RdPrune : IAllocator, IMeasuredPart, IVisionMethod
{
    // With more units than this the program's memory (two bytes per unit and layer) is better spent on a coarser unit.
    private const long MostUnits = 1 << 18;

    private Func<string, RdCurve?>? _curves;

    /// <summary>The program; the exact one by default.</summary>
    public RdProgram Program { get; init; } = RdProgram.Exact;

    /// <summary>The largest level that the exact program may choose for a layer; null (the default) forbids only to remove it whole.</summary>
    public double? MaxAmount
    {
        get;
        init
        {
            EspalierException.Require(value is null or (> 0 and <= 1), $"A max_amount of {value} is not possible; it is the largest share that a layer may lose, above 0 and up to 1.");
            field = value;
        }
    }

    /// <summary>The budget is counted in units of so many weights; null (the default) takes 1 where the model is small enough, else the smallest power of two that keeps the program in memory.</summary>
    public long? Unit
    {
        get;
        init
        {
            EspalierException.Require(value is null or >= 1, $"A unit of {value} weights is not possible; use 1 for the exact optimum, or 64 to 256 for large models.");
            field = value;
        }
    }

    /// <inheritdoc/>
    public void Check(double sparsity) => EspalierException.Require(Program is RdProgram.Published || !(MaxAmount < sparsity),
        $"No layer may lose more than {MaxAmount} (max_amount), but the plan asks for a sparsity of {sparsity} over all; raise max_amount, to at most 1.");

    /// <summary>The same allocator with its curves.</summary>
    /// <param name="curves">From the name of a prunable weight to its curve, all with equally many levels; null where there is none.</param>
    public RdPrune WithCurves(Func<string, RdCurve?> curves) =>
        new() { Program = Program, MaxAmount = MaxAmount, Unit = Unit, Levels = Levels, Samples = Samples, WorstCase = WorstCase, Sparsity = Sparsity, Iterations = Iterations, _curves = curves };

    /// <inheritdoc cref="WithCurves(Func{string, RdCurve?})"/>
    public RdPrune WithCurves(IReadOnlyDictionary<string, RdCurve> curves) => WithCurves(name => curves.GetValueOrDefault(name));

    /// <inheritdoc/>
    /// <remarks>Levels are coarse, so the program ends a little below the budget; what it leaves is given back to all layers in proportion.</remarks>
    public IReadOnlyList<double> Allocate(IReadOnlyList<AllocatedLayer> layers, double sparsity)
    {
        MaskSelection.PruneCount(0, sparsity);
        EspalierException.Require(_curves is not null,
            "RD-Prune allocates by curves of the current network; measure them first (RdPrune.MeasureCurves, or a plan) and hand them over with WithCurves.");
        RdCurve[] curves = [.. layers.Select(l => _curves(l.Name)
            ?? throw new EspalierException($"RD-Prune has no curve of {l.Name}; measure all prunable weights of the model."))];
        long[] counts = [.. layers.Select(l => l.Count)];
        RdAllocation allocation;
        if (Program is RdProgram.Published)
        {
            allocation = AllocatePublished(curves, counts, sparsity);
        }
        else
        {
            long budget = Budget(counts, sparsity), unit = Unit ?? 1;
            while (Unit is null && budget / unit > MostUnits)
            {
                unit *= 2;
            }

            allocation = AllocateExact([.. curves.Select(Capped)], counts, budget, unit: unit);
        }

        double removed = allocation.Phi.Zip(counts, (p, n) => p * (double)n).Sum();
        double share = removed > 0 ? Math.Min(1, sparsity * counts.Sum() / removed) : 1;
        return [.. allocation.Phi.Zip(counts, (p, n) => Math.Min(p * share, 1 - 1.0 / n))];
    }

    /// <summary>The global sparsity after iteration i: s_i = 1 − (1 − r)^i.</summary>
    /// <param name="iteration">i, from 0.</param>
    /// <param name="rate">r, the share of the remaining weights removed per iteration; 0.2 as published (0.6 for VGG-16-BN), 20 iterations.</param>
    public static double SparsityAfterIteration(int iteration, double rate = 0.2)
    {
        EspalierException.Require(iteration >= 0 && rate is > 0 and < 1, $"Iteration {iteration} at a rate of {rate} is not possible; iterations count from 0, and the rate lies between 0 and 1.");
        return 1 - Math.Pow(1 - rate, iteration);
    }

    /// <summary>
    /// The curves: for every layer and level d of P, the distortion of the network's output when the ⌊(d/P)·n⌋ smallest
    /// |w| of that layer alone are zero (stable on ties; weights that are 0 already count among the smallest).
    /// </summary>
    /// <param name="weights">Name and weight of every prunable layer, in forward order. Each is changed while it is measured and restored bit for bit.</param>
    /// <param name="levels">P; 100 as published.</param>
    /// <param name="forward">
    /// The network's output [samples, ...] on the calibration set at the present weights. It is told which layer differs
    /// from the last undisturbed pass (-1: none), so that activations in front of it may be reused. Eval mode.
    /// </param>
    /// <param name="worstCase">D is the largest mean squared error of any sample (the default, used in all published results) or the mean over all.</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="cancellation">Stops between passes.</param>
    /// <returns>One curve per layer, with its levels 0/P to P/P. Curves need not rise: they are kept as measured.</returns>
    public static IReadOnlyList<RdCurve> MeasureCurves(
        IReadOnlyList<(string Name, Tensor Weight)> weights, int levels, Func<int, Tensor> forward, bool worstCase = true,
        IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        (IReadOnlyList<RdCurve> worst, IReadOnlyList<RdCurve> mean) = MeasureBoth(weights, levels, forward, progress, cancellation);
        return worstCase ? worst : mean;
    }

    /// <summary>The curves of the worst sample and of the mean, from the same passes.</summary>
    /// <inheritdoc cref="MeasureCurves"/>
    public static (IReadOnlyList<RdCurve> Worst, IReadOnlyList<RdCurve> Mean) MeasureBoth(
        IReadOnlyList<(string Name, Tensor Weight)> weights, int levels, Func<int, Tensor> forward, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        EspalierException.Require(levels is >= 1 and < ushort.MaxValue, $"Curves of {levels} levels are not possible; use 10 to 200.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor reference = forward(-1).detach().to(ScalarType.Float64).clone();
        EspalierException.Require(reference.dim() >= 1 && reference.numel() > 0 && reference.isfinite().all().item<bool>(),
            "The network's output on the calibration set is empty, or holds NaN or infinite values; check the weights and the calibration data.");
        using IProgressTask? task = progress?.Begin("measuring distortion curves", (long)weights.Count * levels, "pass");
        float[] phi = [.. Enumerable.Range(0, levels + 1).Select(d => (float)((double)d / levels))];
        var (worst, mean) = (new List<RdCurve>(), new List<RdCurve>());
        for (int l = 0; l < weights.Count; l++)
        {
            task?.Describe(weights[l].Name);
            (float[] largest, float[] average) = Distortions(weights[l].Weight, l, levels, forward, reference, task, cancellation);
            worst.Add(new RdCurve(phi, largest));
            mean.Add(new RdCurve(phi, average));
        }

        return (worst, mean);
    }

    /// <summary>Step 6: which share of the remaining weights goes, a_l = max(0, 1 − (1 − phi_l)/(1 − prev_l)), in float32; 0 where nothing remains.</summary>
    /// <param name="phi">The share of all weights that shall be gone.</param>
    /// <param name="previous">The share that is gone already; null for none.</param>
    public static IReadOnlyList<float> Amounts(IReadOnlyList<float> phi, IReadOnlyList<float>? previous) =>
        [.. phi.Select((p, l) => previous?[l] >= 1 ? 0 : MathF.Max(0, 1f - (1f - p) / (1f - (previous?[l] ?? 0f))))];

    /// <summary>Removes a share of the weights that remain, smallest |w| first, rounded to the nearest count (half to even); the lower index first on ties.</summary>
    /// <param name="weight">Any shape.</param>
    /// <param name="keep">Which remain, bool, of the weight's shape.</param>
    /// <param name="amount">The share, in [0, 1].</param>
    /// <returns>The new mask, within the old one.</returns>
    public static Tensor PruneRemaining(Tensor weight, Tensor keep, double amount)
    {
        EspalierException.Require(amount is >= 0 and <= 1, $"An amount of {amount} is not possible; it is the share of the remaining weights to remove, from 0 to 1.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor rest = keep.reshape(-1).nonzero().reshape(-1);
        long count = (long)Math.Round(amount * rest.numel(), MidpointRounding.ToEven);
        Tensor order = weight.detach().reshape(-1).index_select(0, rest).abs().sort(dim: 0, descending: false, stable: true).Indices;
        Tensor pruned = keep.reshape(-1).clone();
        pruned.index_fill_(0, rest.index_select(0, order.narrow(0, 0, count)), false);
        return pruned.reshape(keep.shape).MoveToOuterDisposeScope();
    }

    private static (float[] Worst, float[] Mean) Distortions(Tensor weight, int layer, int levels, Func<int, Tensor> forward, Tensor reference, IProgressTask? task, CancellationToken cancellation)
    {
        using var scope = NewDisposeScope();
        Tensor original = weight.detach().clone();
        Tensor order = original.abs().reshape(-1).sort(dim: 0, descending: false, stable: true).Indices;
        var (worst, mean) = (new float[levels + 1], new float[levels + 1]);
        try
        {
            for (int d = 0; d <= levels; d++)
            {
                cancellation.ThrowIfCancellationRequested();
                using var step = NewDisposeScope();
                long count = d == levels ? order.numel() : (long)Math.Floor((double)d / levels * order.numel());
                Tensor pruned = original.reshape(-1).index_fill(0, order.narrow(0, 0, count), 0);
                weight.copy_(pruned.reshape(original.shape));

                // Nothing removed is not a measurement: a pass that is not repeatable to the bit would show its noise.
                if (count > 0)
                {
                    Tensor squared = (reference - forward(layer).detach().to(ScalarType.Float64)).square().reshape(reference.shape[0], -1);
                    (worst[d], mean[d]) = ((float)squared.mean([1]).max().item<double>(), (float)squared.mean().item<double>());
                }

                task?.Advance();
            }
        }
        finally
        {
            weight.copy_(original);
        }

        return (worst, mean);
    }

    // The curve without the levels beyond the cap.
    private RdCurve Capped(RdCurve curve)
    {
        int[] allowed = [.. Enumerable.Range(0, curve.Phi.Count).Where(d => MaxAmount is { } cap ? curve.Phi[d] <= cap + PreviousTolerance : curve.Phi[d] < 1)];
        EspalierException.Require(allowed.Length > 0, "Every level of a curve removes more than max_amount; raise it, or measure more levels.");

        // All curves keep equally many levels: the last allowed one stands in for those that are not.
        int[] levels = [.. Enumerable.Range(0, curve.Phi.Count).Select(d => d < allowed.Length ? allowed[d] : allowed[^1])];
        return new RdCurve([.. levels.Select(d => curve.Phi[d])], [.. levels.Select(d => curve.Distortion[d])]);
    }
}

/// <summary>What pruning one layer alone does to the network's output.</summary>
/// <param name="Phi">The share of the layer's weights that are zero at each level, from 0 to 1.</param>
/// <param name="Distortion">The mean squared error of the output at each level.</param>
public sealed record RdCurve(IReadOnlyList<float> Phi, IReadOnlyList<float> Distortion);

/// <summary>One level per layer.</summary>
/// <param name="Levels">The index of each layer's level.</param>
/// <param name="Phi">The share of all its weights that shall be gone.</param>
/// <param name="Amount">The share of its remaining weights that goes now.</param>
/// <param name="TotalDistortion">The sum of the chosen distortions.</param>
/// <param name="Kept">How many weights stay over all layers.</param>
public sealed record RdAllocation(IReadOnlyList<int> Levels, IReadOnlyList<float> Phi, IReadOnlyList<float> Amount, double TotalDistortion, long Kept);
