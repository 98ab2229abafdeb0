using Espalier.Models.Vision;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Makes a net sparse while it is trained: from its first step to its last, through the one training loop.</summary>
/// <remarks>Immutable options; everything that belongs to one run is in the <see cref="ISparseTrainingRun"/> that it begins.</remarks>
public interface ISparseTraining
{
    /// <summary>Throws where its options do not fit the net or the length of the run; asked before data is read.</summary>
    /// <param name="weights">The weights that are made sparse.</param>
    /// <param name="steps">The optimiser steps of the whole run.</param>
    /// <exception cref="Runtime.EspalierException">Saying what does not fit and what to change.</exception>
    void Check(IReadOnlyList<NetWeight> weights, int steps);

    /// <summary>Begins a run: draws first masks, takes hold of the weights.</summary>
    /// <param name="context">The net and the run.</param>
    /// <returns>The run; whoever began it finishes and disposes it.</returns>
    /// <exception cref="Runtime.EspalierException">As <see cref="Check"/>.</exception>
    ISparseTrainingRun Begin(SparseTrainingContext context);
}

/// <summary>A sparse training whose zeros are whole units of a vision net, so that a smaller net can take its place.</summary>
public interface ICuttingTraining : ISparseTraining
{
    /// <summary>The net without the units that do nothing; it computes the same.</summary>
    /// <param name="model">A net that was trained so.</param>
    VisionModel Shrink(VisionModel model);
}

/// <summary>What a sparse training is given.</summary>
public sealed record SparseTrainingContext
{
    /// <summary>The weights that are made sparse, in the net's order.</summary>
    public required IReadOnlyList<NetWeight> Weights { get; init; }

    /// <summary>The vision net itself, for methods that need to know which channels go together; null for a language model.</summary>
    public VisionModel? Net { get; init; }

    /// <summary>The optimiser steps of the whole run; schedules are laid out over them.</summary>
    public required int Steps { get; init; }

    /// <summary>The seed of everything that is drawn.</summary>
    public Runtime.Seed Seed { get; init; }

    /// <summary>Where progress and warnings are told.</summary>
    public Runtime.IProgressSink Progress { get; init; } = Runtime.SilentProgress.Instance;
}

/// <summary>One run of a sparse training, as a hook of the loop. What it must have again after a resume is the hook's state.</summary>
public interface ISparseTrainingRun : ITrainingHook, IDisposable
{
    /// <summary>Its name and settings, one line; a saved state is resumed only under the same description.</summary>
    string Description { get; }

    /// <summary>The keep masks at the start, by weight name and in stored layout, already applied to the weights; null where the run has none. They stay the run's.</summary>
    IReadOnlyDictionary<string, Tensor>? Masks { get; }

    /// <summary>The share of the multiply-accumulates of the sparse weights that the steps so far needed, dense training being 1; a forward pass counts weights that are not zero.</summary>
    double TrainingShare { get; }

    /// <summary>Ends the run: what it did outside the weights (fading, masking at each forward pass) is folded into them. Called once, after the last step.</summary>
    void Finish();
}
