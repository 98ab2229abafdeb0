using Espalier.Runtime;
using TorchSharp.Modules;

namespace Espalier.Training;

/// <summary>Adapts a trained net to other data by training a small part of it, or a little beside it, through the one training loop.</summary>
/// <remarks>
/// Immutable options; everything that belongs to one run is in the <see cref="IAdaptationRun"/> that it begins. A method that only puts
/// an adapter on each weight derives from <see cref="WeightAdaptation"/> and is its adapter class; one that trains otherwise implements this.
/// </remarks>
public interface IAdaptation
{
    /// <summary>Throws where its options do not fit the net or the training; asked before data is read, and again by <see cref="Begin"/>.</summary>
    /// <param name="weights">The weights of the net that can carry adapters.</param>
    /// <param name="options">How it will be trained.</param>
    /// <exception cref="EspalierException">Saying what does not fit and what to change.</exception>
    void Check(IReadOnlyList<NetWeight> weights, TrainingOptions options);

    /// <summary>Whether what it trains can be folded into weights (<see cref="IAdaptationRun.Merge"/>); what cannot works beside them only. Default true.</summary>
    bool Folds => true;

    /// <summary>Puts the method on the net: calibrates where it must, attaches adapters, says what is trained. With <see cref="AdaptationContext.Saved"/>, from files and without calibration.</summary>
    /// <param name="context">The net and the run.</param>
    /// <returns>The run; whoever began it disposes it, which takes off what is attached.</returns>
    /// <exception cref="EspalierException">As <see cref="Check"/>, and where saved files do not fit.</exception>
    IAdaptationRun Begin(AdaptationContext context);
}

/// <summary>An adaptation on a net: what is trained, a hook of the loop while it is, and afterwards the adapter that can be saved and merged.</summary>
/// <remarks>
/// Until <see cref="IDisposable.Dispose"/> the net computes with the adapter. Disposing takes attached adapters off; what was merged stays.
/// A run that trains weights of the net in place has the change in them already: merging has then nothing to do.
/// </remarks>
public interface IAdaptationRun : ITrainingHook, IDisposable
{
    /// <summary>Its name and settings, one line; a saved state is resumed only under the same description.</summary>
    string Description { get; }

    /// <summary>What is trained: adapters' tensors, whole parameters of the net. All else is frozen while the loop runs.</summary>
    IReadOnlyList<(string Name, Parameter Value)> Trainable { get; }

    /// <summary>How many numbers are trained; another than the sum over <see cref="Trainable"/> where only a part of a parameter is.</summary>
    long TrainedParameters => Trainable.Sum(t => t.Value.numel());

    /// <summary>Learning-rate and decay multipliers by name; null gives each parameter 1.</summary>
    Func<string, ParameterGroup>? Groups => null;

    /// <summary>Makes the method's own optimiser; null uses the options'.</summary>
    Func<IReadOnlyList<OptimizedParameter>, IOptimizer>? Optimizer => null;

    /// <summary>The learning rate of a step in place of the options' schedule; null leaves it.</summary>
    Func<long, double>? Schedule => null;

    /// <summary>What the run adds to the objective (a term of the loss); null trains on the objective as it is.</summary>
    /// <remarks>Called with the objective that the run would have; gives the one that is used.</remarks>
    Func<ITrainingObjective, ITrainingObjective>? Objective => null;

    /// <summary>After the last step, before anything is saved or merged.</summary>
    void Finish()
    {
    }

    /// <summary>Writes the adapter alone.</summary>
    /// <param name="folder">An existing folder.</param>
    void Save(string folder);

    /// <summary>Folds the adapter into the net's weights, in float32 or wider, and takes it off. Pruned weights stay zero.</summary>
    /// <exception cref="EspalierException">Where that would fill pruned weights, or the weights are packed; nothing is then changed.</exception>
    void Merge();

    /// <summary>Brings back exactly what was there before <see cref="Merge"/>, adapter attached.</summary>
    void Unmerge();
}
