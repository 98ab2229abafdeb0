using Espalier.Catalogue;
using Espalier.Training;

namespace Espalier.Methods.Adaptation;

/// <summary>GaLore (Zhao et al., ICML 2024), the baseline of <see cref="GradNormLorp"/>.</summary>
[Method("galore", "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", Family = "Adaptation", Source = "arXiv 2403.03507, ICML 2024",
    Summary = "Trains all weights with Adam's running means in a low-rank projection of the gradient: less optimiser memory than AdamW.",
    Fits = "optimiser: `espalier train --optimizer galore`, any model; state in 8 bits with --state-bits 8")]
public sealed record Galore : LowRankOptimizer
{
    private protected override string Slug => "galore";

    private protected override IOptimizer Matrices(IReadOnlyList<OptimizedParameter> matrices, ProjectedStep how, IReadOnlySet<string> inputsFirst) =>
        new ProjectedAdamW(matrices, how, inputsFirst);
}
