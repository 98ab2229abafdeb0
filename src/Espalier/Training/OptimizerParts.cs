using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Several optimisers as one, each with parameters of its own. They are disposed with it.</summary>
/// <param name="parts">The optimisers under words that tell their states apart.</param>
public sealed class OptimizerParts(IReadOnlyList<(string Name, IOptimizer Optimizer)> parts) : IOptimizer
{
    /// <inheritdoc/>
    public string Description => string.Join(" | ", parts.Select(p => $"{p.Name}: {p.Optimizer.Description}"));

    /// <summary>One of them.</summary>
    /// <param name="name">Its word.</param>
    public IOptimizer this[string name] => parts.Single(p => p.Name == name).Optimizer;

    /// <inheritdoc/>
    public double DecayMultiplier
    {
        get => parts.Count == 0 ? 1 : parts[0].Optimizer.DecayMultiplier;
        set
        {
            foreach ((_, IOptimizer optimizer) in parts)
            {
                optimizer.DecayMultiplier = value;
            }
        }
    }

    /// <inheritdoc/>
    public void Step(double learningRate)
    {
        foreach ((_, IOptimizer optimizer) in parts)
        {
            optimizer.Step(learningRate);
        }
    }

    /// <inheritdoc/>
    public void Forget(string name, Tensor pruned)
    {
        foreach ((_, IOptimizer optimizer) in parts)
        {
            optimizer.Forget(name, pruned);
        }
    }

    /// <inheritdoc/>
    public void Restart(string name)
    {
        foreach ((_, IOptimizer optimizer) in parts)
        {
            optimizer.Restart(name);
        }
    }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> SaveState() =>
        [.. parts.SelectMany(p => p.Optimizer.SaveState().Select(s => ($"{p.Name}.{s.Name}", s.Value)))];

    /// <inheritdoc/>
    /// <exception cref="EspalierException">When the state does not fit.</exception>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
        foreach ((string name, IOptimizer optimizer) in parts)
        {
            optimizer.LoadState(state.Where(s => s.Key.StartsWith($"{name}.", StringComparison.Ordinal)).ToDictionary(s => s.Key[(name.Length + 1)..], s => s.Value));
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((_, IOptimizer optimizer) in parts)
        {
            optimizer.Dispose();
        }
    }
}
