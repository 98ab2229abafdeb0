using Espalier.Runtime;

namespace Espalier.Training;

/// <summary>A published optimiser as a part of any training: options, from which each run makes its own <see cref="IOptimizer"/>.</summary>
public interface IOptimizerMethod
{
    /// <summary>Throws where its options do not fit the run; asked before data is read.</summary>
    /// <param name="weights">The maps of the net, in its order.</param>
    /// <param name="options">The training.</param>
    /// <exception cref="EspalierException">Saying what does not fit and what to change.</exception>
    void Check(IReadOnlyList<NetWeight> weights, TrainingOptions options);

    /// <summary>Makes the optimiser of one run.</summary>
    /// <param name="context">What it changes.</param>
    /// <returns>The optimiser; the loop disposes it.</returns>
    /// <exception cref="EspalierException">As <see cref="Check"/>.</exception>
    IOptimizer Make(OptimizerContext context);
}

/// <summary>What an optimiser is made for.</summary>
public sealed record OptimizerContext
{
    /// <summary>Everything that is trained.</summary>
    public required IReadOnlyList<OptimizedParameter> Parameters { get; init; }

    /// <summary>The training: learning rate, betas, decay, how state is held.</summary>
    public required TrainingOptions Options { get; init; }

    /// <summary>The maps of the net whose weights are trained, which say how a weight lies; empty where nothing is known of the parameters.</summary>
    public IReadOnlyList<NetWeight> Weights { get; init; } = [];

    /// <summary>Where warnings are told.</summary>
    public IProgressSink Progress { get; init; } = SilentProgress.Instance;
}

/// <summary>The memory of optimisers.</summary>
public static class OptimizerMemory
{
    /// <summary>The bytes of an optimiser's whole state as it is held now, counted tensor by tensor.</summary>
    /// <param name="optimizer">The optimiser, after at least one step: state comes with the first gradient.</param>
    public static long StateBytes(this IOptimizer optimizer) => optimizer.SaveState().Sum(s => s.Value.numel() * s.Value.element_size());
}
