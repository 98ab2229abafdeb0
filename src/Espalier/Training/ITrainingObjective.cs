using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>What a training run makes small.</summary>
/// <remarks>A pure function of step and micro-batch (draws come from a generator seeded by them): only then does a resumed run end with the same bytes.</remarks>
public interface ITrainingObjective
{
    /// <summary>The loss of one micro-batch, with its graph.</summary>
    /// <param name="step">The step, from 0.</param>
    /// <param name="microBatch">The micro-batch within the step, from 0.</param>
    /// <returns>A scalar; the loop disposes it and everything made on the way in its own tensor scope.</returns>
    Tensor Loss(long step, int microBatch);

    /// <summary>How many tokens (or examples) all calls so far have used, for the throughput in the log; 0 when not counted.</summary>
    long Tokens => 0;
}

/// <summary>An objective made of a function.</summary>
/// <param name="loss">The loss of (step, micro-batch).</param>
public sealed class TrainingObjective(Func<long, int, Tensor> loss) : ITrainingObjective
{
    /// <inheritdoc/>
    public Tensor Loss(long step, int microBatch) => loss(step, microBatch);
}
