using System.Globalization;
using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;

namespace Espalier.Methods.Pruning;

/// <summary>How the stages of ProSparse share out the steps of a run.</summary>
public enum PenaltyStages
{
    /// <summary>As published for 7 billion parameters; see <see cref="ActivationPenaltySchedule.Published"/>.</summary>
    Published,

    /// <summary>As suits small models; see <see cref="ActivationPenaltySchedule.ForSteps"/>.</summary>
    Small,
}

public sealed partial class ProSparse : IRetraining
{
    /// <summary>The published λ_S for 7 billion parameters.</summary>
    private const double PublishedPeak = 0.2;

    /// <summary>Optimiser steps, substitution included. Default 200; the paper takes 16,500 for 7 billion parameters.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Steps
    {
        get;
        init => field = Checked(value, value >= 1, "number of steps", "at least 1");
    } = 200;

    /// <summary>Sequences per step. Default 8.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Batch
    {
        get;
        init => field = Checked(value, value >= 1, "batch", "at least 1");
    } = 8;

    /// <summary>Tokens per sequence; null (default) takes the model's context, at most 256 on a CPU.</summary>
    /// <exception cref="EspalierException">Below 2.</exception>
    public int? Length
    {
        get;
        init => field = Checked(value, value is null or >= 2, "sequence length", "at least 2");
    }

    /// <summary>The peak learning rate of AdamW, falling to 0 by a cosine. Default 3e-5 as published for 7 billion parameters; small models want more.</summary>
    /// <exception cref="EspalierException">Unless positive.</exception>
    public double LearningRate
    {
        get;
        init => field = Checked(value, value > 0 && double.IsFinite(value), "learning rate", "a positive number, for example 3e-5");
    } = 3e-5;

    /// <summary>AdamW's decoupled weight decay. Default 0.</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public double WeightDecay
    {
        get;
        init => field = Checked(value, value >= 0 && double.IsFinite(value), "weight decay", "0 or a positive number");
    }

    /// <summary>
    /// λ_S, the last and largest factor of the penalty, which is summed over neurons. Null (default) takes 0.2/F, F neurons per
    /// block: the published factor read as one for a mean over neurons. Double it on a short run until sparsity moves as wanted.
    /// </summary>
    /// <exception cref="EspalierException">Unless positive.</exception>
    public double? Peak
    {
        get;
        init
        {
            EspalierException.Require(value is null || (value > 0 && double.IsFinite(value.Value)), string.Create(CultureInfo.InvariantCulture, $"A penalty of {value} is not possible; it is a positive number, such as 0.05."));
            field = value;
        }
    }

    /// <summary>How the stages share out the steps: <c>published</c> (default) or <c>small</c>.</summary>
    public PenaltyStages Stages { get; init; } = PenaltyStages.Published;

    /// <summary>λ_1 ≤ ... ≤ λ_S themselves; null (default) follows <see cref="Peak"/>.</summary>
    public IReadOnlyList<double>? Peaks { get; init; }

    /// <summary>T_1 &lt; ... &lt; T_S, the last step of each stage counted from the start of the run; null (default) follows <see cref="Stages"/>.</summary>
    public IReadOnlyList<long>? Ends { get; init; }

    /// <summary>T_0, steps with ReLU and no penalty yet; null (default) follows <see cref="Stages"/>.</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public int? SubstitutionSteps
    {
        get;
        init => field = Checked(value, value is null or >= 0, "number of substitution steps", "0 or more");
    }

    /// <summary>t, the threshold of the ReLU after training; 0.01 as published (0.005 to 0.03 for 7 billion parameters; small models have other scales). 0 leaves a plain ReLU.</summary>
    public double Threshold
    {
        get;
        init
        {
            RequireThreshold(value);
            field = value;
        }
    } = 0.01;

    /// <inheritdoc/>
    /// <remarks>Weights, gradients, AdamW's two moments and the loop's last good copy.</remarks>
    public int BytesPerParameter => 20;

    /// <summary>The schedule of the penalty for a run of so many steps.</summary>
    /// <param name="steps">All steps of the run.</param>
    /// <param name="neurons">F, the neurons of a feed-forward part (the mean, where blocks differ).</param>
    /// <exception cref="EspalierException">When the stages do not fit together or into the run.</exception>
    public ActivationPenaltySchedule Schedule(long steps, double neurons)
    {
        EspalierException.Require(Peak is null || Peaks is null, "Both peak and peaks were given; peak scales the usual stages, peaks names every factor: leave one of them out.");
        EspalierException.Require(Ends is not { Count: > 0 } ends || ends[^1] <= steps, $"The last stage of the penalty ends at step {Ends?[^1]}, but the run has {steps} steps; train longer or end the stages earlier.");
        if (Peaks is not null && Ends is not null && SubstitutionSteps is { } substitution)
        {
            return new ActivationPenaltySchedule(Peaks, Ends, substitution);
        }

        double peak = Peak ?? (PublishedPeak / neurons);
        ActivationPenaltySchedule usual = Stages is PenaltyStages.Small ? ActivationPenaltySchedule.ForSteps(steps, peak) : ActivationPenaltySchedule.Published(steps, peak);
        return new ActivationPenaltySchedule(Peaks ?? usual.Peaks, Ends ?? usual.Ends, SubstitutionSteps ?? usual.SubstitutionEnd);
    }

    /// <inheritdoc/>
    /// <exception cref="EspalierException">When the stages do not fit together or into the run.</exception>
    public void Check(ModelConfig config, DecoderBlock block, OutputHead head) => Schedule(Steps, Neurons(config));

    private static T Checked<T>(T value, bool holds, string what, string wanted) => OptionCheck.Checked(value, holds, "prosparse", what, wanted);
}
