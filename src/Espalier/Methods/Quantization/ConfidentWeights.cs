using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

/// <summary>Step 4, confidence-guided annealing: only weights that lie within BR of a rounding threshold may still move; the others are sure of their level.</summary>
public static class ConfidentWeights
{
    /// <summary>Which weights are frozen: |z − (i + ½)| &gt; BR for every i from the lowest level of the whole tensor up to below its highest.</summary>
    /// <param name="position">z, any shape.</param>
    /// <param name="level">q, the same shape.</param>
    /// <param name="boundaryRange">BR.</param>
    /// <returns>Bool, true is frozen, in the caller's scope.</returns>
    public static Tensor Frozen(Tensor position, Tensor level, double boundaryRange)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        double lowest = level.min().to(ScalarType.Float64).item<double>(), highest = level.max().to(ScalarType.Float64).item<double>();
        Tensor free = zeros_like(position, ScalarType.Bool);
        for (double i = lowest; i < highest; i++)
        {
            free.logical_or_((position - (i + 0.5)).abs().le(boundaryRange));
        }

        return free.logical_not().MoveToOuterDisposeScope();
    }
}
