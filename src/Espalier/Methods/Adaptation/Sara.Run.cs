using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Methods.Adaptation;

public sealed partial record Sara
{
    // A rate below this comes from a θ that the rule was not made for.
    private const double LeastRate = 1e-7;

    /// <inheritdoc/>
    public void Check(IReadOnlyList<NetWeight> weights, TrainingOptions options)
    {
        EspalierException.Require(options.Optimizer == "adamw", $"sara trains by its own masked adamw; {options.Optimizer} is not possible with it.");
        NetWeight? packed = weights.FirstOrDefault(w => w.IsCompact);
        EspalierException.Require(packed is null, $"sara trains weights in place, and {packed?.Name} is stored in a packed form; use the model that it was packed from.");
        if (Ratio is null)
        {
            RateOf(Threshold, options);
        }
    }

    /// <inheritdoc/>
    public IAdaptationRun Begin(AdaptationContext context)
    {
        if (context.Saved is null)
        {
            Check(context.Weights, context.Options);
        }

        return new SaraRun(this, context);
    }

    /// <summary>The learning rate of a run.</summary>
    /// <exception cref="EspalierException">Where the rule makes it vanish.</exception>
    internal double RateOf(double threshold, TrainingOptions options)
    {
        double rate = RateByThreshold ? LearningRateFor(threshold) : options.LearningRate;
        EspalierException.Require(rate >= LeastRate || !RateByThreshold,
            FormattableString.Invariant($"The rule 1e-3·exp(−350·θ) gives a learning rate of {rate:G3} for the threshold {threshold:G4}, which trains nothing; set rate_by_threshold to false and give a learning rate."));
        return rate;
    }
}
