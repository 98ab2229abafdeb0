using Espalier.Runtime;

namespace Espalier.Methods.Pruning;

/// <summary>When GraNet prunes and how much is gone by then: a cubic from the density at the start to the one at the end.</summary>
/// <param name="InitialDensity">d_i, the share of weights at the start.</param>
/// <param name="FinalDensity">d_f, the share at the end.</param>
/// <param name="From">e₀·L, the step from which on masks change.</param>
/// <param name="Until">e₁·L, the step at which the cubic ends.</param>
/// <param name="UpdateEvery">ΔT, steps between two changes of the masks.</param>
public sealed record GranetSchedule(double InitialDensity, double FinalDensity, double From, double Until, int UpdateEvery)
{
    /// <summary>
    /// Whether the last change ends on <see cref="FinalDensity"/>. As published (false, default) it comes one change before the
    /// cubic's end, so that (d_i − d_f)/(c₁ − c₀)³ is left above it.
    /// </summary>
    public bool ExactFinal { get; init; }

    /// <summary>c₀, the change at which the cubic starts.</summary>
    public long First => (long)(From / UpdateEvery);

    /// <summary>c₁, the change at which the cubic would end; the last that prunes is c₁ − 1.</summary>
    public long End => (long)(Until / UpdateEvery);

    /// <summary>Throws where the window holds no pruning.</summary>
    /// <exception cref="EspalierException">When c₁ ≤ c₀, or densities are not 0 &lt; d_f ≤ d_i ≤ 1.</exception>
    public GranetSchedule Validate()
    {
        EspalierException.Require(FinalDensity > 0 && FinalDensity <= InitialDensity && InitialDensity <= 1,
            FormattableString.Invariant($"A net cannot go from density {InitialDensity} to {FinalDensity}; densities fall within 0 and 1."));
        EspalierException.Require(End > First,
            FormattableString.Invariant($"Between the steps {From:0.#} and {Until:0.#} there is no change of the masks every {UpdateEvery} steps; train longer, change masks more often or widen the window."));
        return this;
    }

    /// <summary>Whether masks change after so many steps.</summary>
    /// <param name="s">Steps done, from 1.</param>
    public bool Changes(long s) => s % UpdateEvery == 0 && s >= From;

    /// <summary>r, the share of weights that is gone after the pruning of a step; null where the step's change prunes nothing.</summary>
    /// <param name="s">Steps done, from 1.</param>
    public double? PruneRate(long s)
    {
        long c = s / UpdateEvery;
        if (c < First || c > End - 1)
        {
            return null;
        }

        if (ExactFinal && c == End - 1)
        {
            return 1 - FinalDensity;
        }

        double left = 1 - ((double)(c - First) / (End - First));
        return 1 - InitialDensity + ((InitialDensity - FinalDensity) * (1 - (left * left * left)));
    }

    /// <summary>ρ_t, the share of a layer's weights that a change swaps: a cosine over the whole training.</summary>
    /// <param name="start">ρ₀.</param>
    /// <param name="t">The step, from 1.</param>
    /// <param name="steps">T, the steps of the training.</param>
    /// <param name="end">What is left at step T.</param>
    public static double RegrowRate(double start, long t, long steps, double end = 0.005) => end + ((start - end) * (1 + Math.Cos(Math.PI * t / steps)) / 2);
}
