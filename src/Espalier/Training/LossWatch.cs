using System.Globalization;

namespace Espalier.Training;

/// <summary>Sees when a run has gone wrong: a loss or gradient that is not finite, or a loss that explodes.</summary>
/// <param name="factor">A loss above this many times the best of the window is an explosion; null never is.</param>
/// <param name="warmup">Steps at the start in which the loss may do what it likes.</param>
public sealed class LossWatch(double? factor, long warmup)
{
    /// <summary>How many of the latest losses the best is taken of.</summary>
    public const int Window = 50;

    /// <summary>How many losses after the warm-up must be known before one can be an explosion.</summary>
    public const int Fewest = 5;

    /// <summary>Judges the loss of a step.</summary>
    /// <param name="loss">It.</param>
    /// <param name="earlier">The losses of all steps before, from step 0.</param>
    /// <returns>What is wrong, as the start of a sentence; null when nothing is.</returns>
    public string? Judge(double loss, IReadOnlyList<double> earlier)
    {
        if (!double.IsFinite(loss))
        {
            return string.Create(CultureInfo.InvariantCulture, $"The loss became {loss}");
        }

        long first = Math.Max(warmup, earlier.Count - Window);
        if (factor is null || earlier.Count - first < Fewest)
        {
            return null;
        }

        double best = double.PositiveInfinity;
        for (int i = (int)first; i < earlier.Count; i++)
        {
            best = Math.Min(best, earlier[i]);
        }

        // Losses at or below zero have no scale that a factor could be taken of.
        return best > 0 && loss > factor * best
            ? string.Create(CultureInfo.InvariantCulture, $"The loss exploded to {loss:G4} ({loss / best:G3} times the best of the last {Window} steps)")
            : null;
    }

    /// <summary>Judges the norm of the gradients.</summary>
    /// <returns>What is wrong, as the start of a sentence; null when nothing is.</returns>
    public static string? Judge(double gradientNorm) => double.IsFinite(gradientNorm)
        ? null
        : string.Create(CultureInfo.InvariantCulture, $"The norm of the gradients became {gradientNorm}");
}
