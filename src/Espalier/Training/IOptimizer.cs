using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>The learning rate and decay of one parameter relative to the run's.</summary>
/// <param name="RateMultiplier">Multiplies the learning rate. Default 1.</param>
/// <param name="DecayMultiplier">Multiplies the weight decay (0 for norms and biases, where that is wanted). Default 1.</param>
public sealed record ParameterGroup(double RateMultiplier = 1, double DecayMultiplier = 1);

/// <summary>A parameter as an optimiser sees it.</summary>
/// <param name="Name">Its name in the model.</param>
/// <param name="Value">The parameter; its <c>grad</c> is null in a step that did not use it.</param>
/// <param name="Group">Its learning rate and decay relative to the run's.</param>
public sealed record OptimizedParameter(string Name, Parameter Value, ParameterGroup Group)
{
    /// <summary>A parameter that learns at the run's own rate.</summary>
    public OptimizedParameter(string name, Parameter value)
        : this(name, value, new ParameterGroup())
    {
    }
}

/// <summary>Turns gradients into changes of parameters.</summary>
/// <remarks>
/// An implementation changes parameters in place under <c>no_grad</c>, skips those without a gradient, keeps no native
/// tensor but its state, and gives that state completely, so that a resumed run ends with the same bytes.
/// </remarks>
public interface IOptimizer : IDisposable
{
    /// <summary>Its name and settings, one line; a saved state is resumed only under the same description.</summary>
    string Description { get; }

    /// <summary>Multiplies the weight decay of the next steps, beside each parameter's own multiplier; the loop sets it before every step. An optimiser without weight decay has none.</summary>
    double DecayMultiplier
    {
        get => 1;
        set
        {
        }
    }

    /// <summary>Applies the gradients once.</summary>
    /// <param name="learningRate">The learning rate of this step; each parameter's multiplier applies on top.</param>
    void Step(double learningRate);

    /// <summary>Sets the state of pruned weights to zero, so that one that comes back starts anew. Nothing to do without state.</summary>
    /// <param name="name">The parameter.</param>
    /// <param name="pruned">Shaped like it, bool: true is pruned.</param>
    void Forget(string name, Tensor pruned)
    {
    }

    /// <summary>Sets the whole state of a parameter back to that of the first step, its count of updates too, for one that begins to stand for something else. Nothing to do without state.</summary>
    /// <param name="name">The parameter.</param>
    void Restart(string name)
    {
    }

    /// <summary>The whole state as named tensors. They stay the optimiser's: read them before its next step, do not dispose them.</summary>
    IReadOnlyList<(string Name, Tensor Value)> SaveState();

    /// <summary>Takes a state over (by copy).</summary>
    /// <param name="state">What <see cref="SaveState"/> gave, under the same names.</param>
    /// <exception cref="EspalierException">When the state does not fit.</exception>
    void LoadState(IReadOnlyDictionary<string, Tensor> state);
}
