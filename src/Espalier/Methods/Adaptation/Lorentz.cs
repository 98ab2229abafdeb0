using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// The Lorentz model of hyperbolic space, curvature −1: points x = (x₀, x_r) with ⟨x, x⟩ = −x₀² + |x_r|² = −1, the time coordinate first.
/// </summary>
/// <remarks>After HyboNet (chenweize1998/fully-hyperbolic-nn). float32 at least: cosh overflows in float16.</remarks>
public static class Lorentz
{
    // Below the smallest length, sinh(n)/n and arsinh(n)/n are 1 to the last bit; above the longest, products overflow in float32.
    private const double Smallest = 1e-8, LongestTangent = 32;

    /// <summary>exp₀(u) = (cosh|u|, sinh|u|·u/|u|): from tangents at the origin [..., d] to points [..., d + 1]. Tangents longer than 32 are shortened to it.</summary>
    /// <param name="tangent">[..., d], without a time coordinate.</param>
    public static Tensor Exp0(Tensor tangent)
    {
        using var scope = NewDisposeScope();
        Tensor norm = tangent.norm(-1, keepdim: true).clamp_min(Smallest), length = norm.clamp_max(LongestTangent);
        return cat([length.cosh(), length.sinh() / norm * tangent], -1).MoveToOuterDisposeScope();
    }

    /// <summary>log₀(x) = arcosh(x₀)·x_r/|x_r|, as arsinh(|x_r|)·x_r/|x_r|, which is the same on the manifold and exact near the origin: points [..., d + 1] to tangents [..., d].</summary>
    /// <param name="point">[..., d + 1].</param>
    public static Tensor Log0(Tensor point)
    {
        using var scope = NewDisposeScope();
        Tensor space = Space(point), norm = space.norm(-1, keepdim: true).clamp_min(Smallest);
        return (norm.asinh() / norm * space).MoveToOuterDisposeScope();
    }

    /// <summary>⟨a, b⟩ = −a₀b₀ + Σ a_i·b_i over the last dimension, which goes.</summary>
    public static Tensor Inner(Tensor a, Tensor b)
    {
        using var scope = NewDisposeScope();
        Tensor products = a * b;
        return (products.sum([-1]) - (2 * products.select(-1, 0))).MoveToOuterDisposeScope();
    }

    /// <summary>The squared Lorentz distance −2 − 2⟨a, b⟩.</summary>
    public static Tensor SquaredDistance(Tensor a, Tensor b)
    {
        using var scope = NewDisposeScope();
        return (-2 - (2 * Inner(a, b))).MoveToOuterDisposeScope();
    }

    /// <summary>The probability of a link, 1/(exp((d − r)/t) + 1), the exponent at most 50.</summary>
    /// <param name="distance">d.</param>
    /// <param name="radius">r. Default 2.</param>
    /// <param name="temperature">t. Default 1.</param>
    public static Tensor LinkProbability(Tensor distance, double radius = 2, double temperature = 1)
    {
        using var scope = NewDisposeScope();
        return (1 / (((distance - radius) / temperature).clamp_max(50).exp() + 1)).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Puts the output of a linear map on the manifold: time = sigmoid(h₀)·exp(λ) + 1.1, space = h_r·√((time² − 1)/max(|h_r|², 1e-8)).
    /// </summary>
    /// <param name="h">x·Wᵀ + b [..., out].</param>
    /// <param name="logScale">λ, one number.</param>
    public static Tensor Lift(Tensor h, Tensor logScale)
    {
        using var scope = NewDisposeScope();
        Tensor time = h.narrow(-1, 0, 1).sigmoid() * logScale.exp() + 1.1, space = Space(h);
        Tensor squared = space.square().sum([-1], keepdim: true).clamp_min(1e-8);
        return cat([time, space * ((time.square() - 1) / squared).sqrt()], -1).MoveToOuterDisposeScope();
    }

    /// <summary>The centroids of points under weights: z = weights·points, then z/√max(|⟨z, z⟩|, 1e-8).</summary>
    /// <param name="weights">[centroids, points], dense or sparse.</param>
    /// <param name="points">[points, d + 1].</param>
    public static Tensor Centroid(Tensor weights, Tensor points)
    {
        using var scope = NewDisposeScope();
        Tensor z = weights.mm(points);
        return (z / Inner(z, z).abs().clamp_min(1e-8).sqrt().unsqueeze(-1)).MoveToOuterDisposeScope();
    }

    private static Tensor Space(Tensor point) => point.narrow(-1, 1, point.shape[^1] - 1);
}
