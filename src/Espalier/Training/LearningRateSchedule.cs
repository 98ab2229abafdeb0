namespace Espalier.Training;

/// <summary>The learning rate over the steps of a run.</summary>
/// <remarks>
/// With T steps, w warm-up steps and the peak p, step k (from 0) uses k/max(1, w)·p while k &lt; w; afterwards
/// <c>constant</c>: p; <c>linear</c>: (T−k)/max(1, T−w)·p; <c>cosine</c>: (1 + cos(π·(k−w)/max(1, T−w)))/2·p;
/// <c>multistep</c>: p·f^m with m the number of milestones s with k ≥ ⌊s·T⌋.
/// With a warm-up, step 0 has learning rate 0.
/// </remarks>
public static class LearningRateSchedule
{
    /// <summary>The learning rate used at a step, as the options say.</summary>
    /// <param name="options">The run.</param>
    /// <param name="step">The step, from 0.</param>
    public static double At(TrainingOptions options, long step) => options.Schedule == "multistep" && step >= options.Warmup
        ? options.LearningRate * Math.Pow(options.MilestoneFactor, options.Milestones.Count(m => step >= (long)(m * options.Steps)))
        : At(options.Schedule == "multistep" ? "constant" : options.Schedule, step, options.Steps, options.Warmup, options.LearningRate);

    /// <summary>The learning rate used at a step.</summary>
    /// <param name="schedule"><c>constant</c>, <c>linear</c> or <c>cosine</c>.</param>
    /// <param name="step">The step k, from 0.</param>
    /// <param name="steps">The length T of the run.</param>
    /// <param name="warmup">The warm-up w in steps.</param>
    /// <param name="peak">The peak p.</param>
    /// <exception cref="Runtime.EspalierException">For another schedule.</exception>
    public static double At(string schedule, long step, long steps, long warmup, double peak)
    {
        if (step < warmup)
        {
            return (double)step / Math.Max(1, warmup) * peak;
        }

        double length = Math.Max(1, steps - warmup);
        return schedule switch
        {
            "constant" => peak,
            "linear" => Math.Max(0, steps - step) / length * peak,
            "cosine" => (1 + Math.Cos(Math.PI * Math.Min(1, (step - warmup) / length))) / 2 * peak,
            _ => throw new Runtime.EspalierException($"'{schedule}' is no schedule; use constant, linear or cosine."),
        };
    }
}
