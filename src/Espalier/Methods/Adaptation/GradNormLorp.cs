using Espalier.Catalogue;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>What becomes of magnitudes between two steps of <see cref="GradNormLorp"/>.</summary>
public enum MagnitudeMode
{
    /// <summary>They are kept, and directions get their exact gradient: what the equations intend.</summary>
    Persistent,

    /// <summary>As in the official code: g := ‖V‖ before each step, so what was learnt acted for one forward pass; the direction's gradient keeps its part along V.</summary>
    Official,
}

/// <summary>GradNormLoRP (Huang et al., AAAI 2025): weight normalisation and a low-rank projection of the gradient together. The step is <see cref="WeightNormAdamW"/>.</summary>
[Method("gradnormlorp", "Gradient Weight-normalized Low-rank Projection for Efficient LLM Training", Family = "Adaptation", Source = "arXiv 2412.19616, AAAI 2025",
    Summary = "Trains weights as magnitude × direction with Adam's running means in a low-rank projection of the gradient, in 32 or 8 bits: when optimiser memory is the limit.",
    Fits = "optimiser: `espalier train --optimizer gradnormlorp`, any model; state in 8 bits with --state-bits 8; weights of a net or factors of its adapters")]
public sealed partial record GradNormLorp : LowRankOptimizer
{
    /// <summary>What becomes of magnitudes. Default persistent.</summary>
    public MagnitudeMode Mode { get; init; } = MagnitudeMode.Persistent;

    private protected override string Slug => "gradnormlorp";

    private protected override int LeastRank => 0;

    /// <summary>A weight as direction and magnitude with the gradients of both, as "WeightNormGaLore" takes it apart.</summary>
    /// <param name="weight">W [O, I].</param>
    /// <param name="gradient">∂L/∂W [O, I].</param>
    /// <param name="epsilon">Added to the norm of a row.</param>
    /// <returns>Direction [O, I], magnitude [O, 1], the gradient across each direction [O, I] and along it [O], in the caller's scope.</returns>
    public static (Tensor Direction, Tensor Magnitude, Tensor Across, Tensor Along) Split(Tensor weight, Tensor gradient, double epsilon = 1e-12)
    {
        using var scope = NewDisposeScope();
        Tensor magnitude = linalg.norm(weight, 2, [1], keepdim: true) + epsilon, direction = weight / magnitude;
        Tensor along = (direction * gradient).sum(1, keepdim: true);
        return (direction.MoveToOuterDisposeScope(), magnitude.MoveToOuterDisposeScope(), (gradient - (direction * along)).MoveToOuterDisposeScope(), along.squeeze(1).MoveToOuterDisposeScope());
    }

    private protected override IOptimizer Matrices(IReadOnlyList<OptimizedParameter> matrices, ProjectedStep how, IReadOnlySet<string> inputsFirst) =>
        new WeightNormAdamW(matrices, how, Mode is MagnitudeMode.Persistent, inputsFirst);
}
