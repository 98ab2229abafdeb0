using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Methods.Retraining;

/// <summary>The two ways in which PERP trains.</summary>
public enum PerpMode
{
    /// <summary>The whole model on its own loss; the warm-up is ⌈0.1·T⌉ steps.</summary>
    Retrain,

    /// <summary>One block at a time on the dense block's outputs; the warm-up is ⌊0.1·T⌋ steps.</summary>
    Reconstruct,
}

/// <summary>PERP's learning rate: a tenth of the steps up from 0, then linearly down towards 0.</summary>
public static class PerpSchedule
{
    /// <summary>The warm-up w in steps.</summary>
    /// <param name="mode">Which rounding.</param>
    /// <param name="steps">T, at least 1.</param>
    /// <exception cref="EspalierException">When T &lt; 1.</exception>
    public static int Warmup(PerpMode mode, long steps)
    {
        EspalierException.Require(steps >= 1, $"Training for {steps} steps is not possible; use at least 1.");
        return (int)(mode is PerpMode.Retrain ? Math.Ceiling(0.1 * steps) : Math.Floor(0.1 * steps));
    }

    /// <summary>The learning rate used at step k: k/max(1, w)·peak while k &lt; w, else max(0, (T−k)/max(1, T−w))·peak.</summary>
    /// <param name="mode">Which warm-up.</param>
    /// <param name="step">k, from 0.</param>
    /// <param name="steps">T.</param>
    /// <param name="peak">The peak.</param>
    public static double At(PerpMode mode, long step, long steps, double peak) => LearningRateSchedule.At("linear", step, steps, Warmup(mode, steps), peak);
}
