using Espalier.Runtime;

namespace Espalier.Training;

/// <summary>Learning-rate schedules for retraining after pruning, by the names of their papers.</summary>
public enum RetrainingSchedule
{
    /// <summary>Fine-tuning: the lowest rate of the dense training, all the time.</summary>
    FT,

    /// <summary>Learning-rate rewinding: the last rates of the dense training again.</summary>
    LRW,

    /// <summary>Scaled: the dense training's schedule, compressed, after a warm-up.</summary>
    SLR,

    /// <summary>Cyclic: from the highest rate to the lowest by a half cosine, after a warm-up.</summary>
    CLR,

    /// <summary>Linear: from the highest rate to 0, after a warm-up.</summary>
    LLR,

    /// <summary>Adaptive linear: as <see cref="LLR"/>, from a rate that follows from how much pruning took away.</summary>
    ALLR,
}

/// <summary>The rates of a retraining, step by step.</summary>
/// <param name="Values">The rate of each step.</param>
/// <param name="Peak">The rate after the warm-up.</param>
/// <param name="Warmup">Steps of warm-up.</param>
/// <remarks>After Zimmer, Spiegel, Pokutta (arXiv 2306.16788) and the sequence of schedules in their code: the first step after the warm-up still has the peak.</remarks>
public sealed record RetrainingRates(IReadOnlyList<double> Values, double Peak, int Warmup)
{
    private const double WarmupShare = 0.1;

    /// <summary>Lays a schedule out.</summary>
    /// <param name="kind">The schedule.</param>
    /// <param name="dense">The learning rates of the dense training, step by step.</param>
    /// <param name="steps">The steps of the retraining.</param>
    /// <param name="drop">For <see cref="RetrainingSchedule.ALLR"/>; what pruning did.</param>
    /// <exception cref="EspalierException">When something is missing or the dense training is shorter than a rewinding needs.</exception>
    public static RetrainingRates Of(RetrainingSchedule kind, IReadOnlyList<double> dense, int steps, PruningDrop? drop = null)
    {
        EspalierException.Require(dense.Count > 0 && dense.All(r => r >= 0 && double.IsFinite(r)), "A retraining schedule starts from the learning rates of the dense training: at least one, none negative.");
        EspalierException.Require(steps > 0, $"A retraining of {steps} steps is not possible; take at least 1.");
        if (kind is RetrainingSchedule.LRW)
        {
            EspalierException.Require(dense.Count >= steps, $"Rewinding the learning rate by {steps} steps is not possible: the dense training had {dense.Count}; retrain for at most as long.");
            double[] again = [.. dense.Skip(dense.Count - steps)];
            return new RetrainingRates(again, again[0], 0);
        }

        if (kind is RetrainingSchedule.FT)
        {
            return new RetrainingRates([.. Enumerable.Repeat(dense.Min(), steps)], dense.Min(), 0);
        }

        EspalierException.Require(kind is not RetrainingSchedule.ALLR || drop is not null, "The schedule ALLR needs to know what pruning took away.");
        int warmup = (int)(WarmupShare * steps);
        double peak = kind is RetrainingSchedule.ALLR ? drop!.Peak(dense.Max()) : dense.Max(), lowest = dense.Min();
        return new RetrainingRates([.. Enumerable.Range(0, steps).Select(Rate)], peak, warmup);

        double Rate(int step)
        {
            if (warmup > 0 && step <= warmup)
            {
                return peak * (1 - Math.Cos(Math.PI * step / warmup)) / 2;
            }

            double length = steps - warmup;
            int place = warmup > 0 ? step - warmup - 1 : step;
            return kind switch
            {
                RetrainingSchedule.SLR => dense[(int)(place * dense.Count / length)],
                RetrainingSchedule.CLR => lowest + ((peak - lowest) * (1 + Math.Cos(Math.PI * place / length)) / 2),
                _ => peak * (1 - (place / length)),
            };
        }
    }
}

/// <summary>What pruning took away, for the adaptive schedule.</summary>
/// <param name="RelativeNorm">The norm of the pruned weights over that of all parameters before.</param>
/// <param name="Share">The share of the remaining weights that was pruned.</param>
/// <param name="LengthShare">The length of the retraining over that of the dense training.</param>
public sealed record PruningDrop(double RelativeNorm, double Share, double LengthShare)
{
    /// <summary>clip(drop / √share · highest, min(length, 1) · highest, highest).</summary>
    /// <param name="highest">The highest rate of the dense training.</param>
    public double Peak(double highest) => Math.Min(Math.Max(RelativeNorm / Math.Sqrt(Share) * highest, Math.Min(LengthShare, 1) * highest), highest);
}
