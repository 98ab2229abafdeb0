using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>What a method adds to the one training loop. Every member has an empty default.</summary>
/// <remarks>Hooks run in the order given, each call inside a tensor scope of its own and, except <see cref="BeforeStep"/>, under <c>no_grad</c>.</remarks>
public interface ITrainingHook
{
    /// <summary>The word for its part of a saved state; unique within a loop. Default: the type's name.</summary>
    string Name => GetType().Name;

    /// <summary>Before the first micro-batch. Here a hook may change <see cref="TrainingStep.LearningRate"/>, <see cref="TrainingStep.DecayMultiplier"/> and masks.</summary>
    void BeforeStep(TrainingStep step)
    {
    }

    /// <summary>After the last micro-batch's backward: gradients are complete, not yet masked or clipped, and may be changed.</summary>
    void AfterBackward(TrainingStep step)
    {
    }

    /// <summary>After the optimiser's step and the masks. Weights that are changed here must keep the zeros of their masks.</summary>
    void AfterStep(TrainingStep step)
    {
    }

    /// <summary>What the hook must have again when the run is resumed. The tensors stay the hook's.</summary>
    IReadOnlyList<(string Name, Tensor Value)> SaveState() => [];

    /// <summary>Takes a saved state over (by copy).</summary>
    /// <param name="state">What <see cref="SaveState"/> gave.</param>
    void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
    }
}

/// <summary>One step of a run, as hooks see it.</summary>
/// <param name="loop">The loop.</param>
/// <param name="index">The step, from 0.</param>
/// <param name="learningRate">The scheduled learning rate.</param>
public sealed class TrainingStep(TrainingLoop loop, long index, double learningRate)
{
    /// <summary>The loop, with its parameters, masks and optimiser.</summary>
    public TrainingLoop Loop { get; } = loop;

    /// <summary>The step, from 0.</summary>
    public long Index { get; } = index;

    /// <summary>The learning rate of this step; may be changed until the optimiser runs.</summary>
    public double LearningRate { get; set; } = learningRate;

    /// <summary>What the weight decay of this step is multiplied by, 1 unless a hook anneals it; may be changed until the optimiser runs. A parameter without decay stays without.</summary>
    public double DecayMultiplier { get; set; } = 1;

    /// <summary>The mean loss of the step's micro-batches; NaN in <see cref="ITrainingHook.BeforeStep"/>.</summary>
    public double Loss { get; internal set; } = double.NaN;

    /// <summary>The global L2 norm of the gradients before clipping; NaN before <see cref="ITrainingHook.AfterStep"/>.</summary>
    public double GradientNorm { get; internal set; } = double.NaN;

    /// <summary>Whether the run ends after this step.</summary>
    public bool StopRequested { get; private set; }

    /// <summary>Ends the run after this step (early stopping). The result is that of a run that was as long.</summary>
    public void Stop() => StopRequested = true;
}
