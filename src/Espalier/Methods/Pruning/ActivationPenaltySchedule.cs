using System.Globalization;
using Espalier.Runtime;

namespace Espalier.Methods.Pruning;

/// <summary>
/// λ(t): 0 while ReLU settles in, constant λ_1 to warm up, then one sine stage after another up to λ_S, constant after the
/// last. Steps count from 1. Two equal neighbouring peaks make a stage that holds.
/// </summary>
/// <remarks>
/// In stage i, λ_{i−1} + η·(λ_i − λ_{i−1}) with η = (sin(−π/2 + π·(t − T_{i−1})/(T_i − T_{i−1})) + 1)/2: flat at both ends,
/// because a jump of the factor kills neurons for good.
/// </remarks>
public sealed class ActivationPenaltySchedule
{
    /// <summary>Makes a schedule from its stages.</summary>
    /// <param name="peaks">λ_1 ≤ ... ≤ λ_S.</param>
    /// <param name="ends">T_1 &lt; ... &lt; T_S, the last step of each stage, counted from the start of the run.</param>
    /// <param name="substitutionEnd">T_0, the last step without penalty; may be 0.</param>
    /// <exception cref="EspalierException">When the peaks fall, the ends do not rise, or the substitution does not end before the first stage.</exception>
    public ActivationPenaltySchedule(IReadOnlyList<double> peaks, IReadOnlyList<long> ends, long substitutionEnd)
    {
        string Text<T>(IEnumerable<T> values) => string.Join(", ", values.Select(v => Convert.ToString(v, CultureInfo.InvariantCulture)));
        EspalierException.Require(peaks.Count > 0 && peaks.Count == ends.Count, $"{peaks.Count} peaks and {ends.Count} ends were given; every stage needs one of each, and there must be one stage.");
        EspalierException.Require(peaks.All(double.IsFinite) && peaks[0] >= 0 && peaks.Zip(peaks.Skip(1)).All(p => p.First <= p.Second),
            $"The peaks of the penalty ({Text(peaks)}) must be 0 or more and may not fall from one stage to the next; put them in order.");
        EspalierException.Require(ends.Zip(ends.Skip(1)).All(e => e.First < e.Second), $"The ends of the stages ({Text(ends)}) must rise: each is a step counted from the start of the run, not a length.");
        EspalierException.Require(substitutionEnd >= 0 && substitutionEnd < ends[0],
            $"The substitution ends at step {substitutionEnd}, the first stage at step {ends[0]}; the substitution must end first, at 0 or later.");
        (Peaks, Ends, SubstitutionEnd) = ([.. peaks], [.. ends], substitutionEnd);
    }

    /// <summary>λ_1 to λ_S.</summary>
    public IReadOnlyList<double> Peaks { get; }

    /// <summary>T_1 to T_S.</summary>
    public IReadOnlyList<long> Ends { get; }

    /// <summary>T_0.</summary>
    public long SubstitutionEnd { get; }

    /// <summary>
    /// A schedule for small models, in shares of the steps: 20 % without penalty, 5 % constant at a sixteenth of the peak,
    /// sine stages of 30 % each to a quarter of the peak and to the peak, and 15 % there.
    /// </summary>
    /// <param name="steps">All steps of the run; at least 20.</param>
    /// <param name="peak">λ_S.</param>
    public static ActivationPenaltySchedule ForSteps(long steps, double peak)
    {
        RequireSteps(steps);
        long At(double share) => (long)Math.Round(share * steps);
        return new ActivationPenaltySchedule([peak / 16, peak / 4, peak, peak], [At(0.25), At(0.55), At(0.85), steps], At(0.2));
    }

    /// <summary>
    /// The published stages for 7 billion parameters, in shares of the steps (of 16,500): no penalty to 30 %, constant at a fortieth
    /// of the peak to 36 %, a sine stage to a quarter of the peak at 61 %, held to 73 %, a sine stage to the peak at 97 %, held.
    /// </summary>
    /// <param name="steps">All steps of the run; at least 20.</param>
    /// <param name="peak">λ_S; 0.2 in the paper.</param>
    public static ActivationPenaltySchedule Published(long steps, double peak)
    {
        RequireSteps(steps);
        long At(long published) => (long)Math.Round(published / 16_500.0 * steps);
        return new ActivationPenaltySchedule([peak / 40, peak / 4, peak / 4, peak, peak], [At(6_000), At(10_000), At(12_000), At(16_000), steps], At(5_000));
    }

    /// <summary>λ at a step, counted from 1.</summary>
    public double Factor(long step)
    {
        if (step <= SubstitutionEnd)
        {
            return 0;
        }

        int stage = 0;
        while (stage < Ends.Count && step > Ends[stage])
        {
            stage++;
        }

        if (stage == 0 || stage == Ends.Count)
        {
            return stage == 0 ? Peaks[0] : Peaks[^1];
        }

        double progress = (double)(step - Ends[stage - 1]) / (Ends[stage] - Ends[stage - 1]);
        double eta = (Math.Sin(-Math.PI / 2 + Math.PI * progress) + 1) / 2;
        return Peaks[stage - 1] + eta * (Peaks[stage] - Peaks[stage - 1]);
    }

    private static void RequireSteps(long steps) =>
        EspalierException.Require(steps >= 20, $"A run of {steps} steps is too short for the stages of ProSparse; take at least 20, or name substitution_steps, peaks and ends.");
}
