using Espalier.Methods.Retraining;
using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;
using Parameter = TorchSharp.Modules.Parameter;

namespace Espalier.Methods.Adaptation;

/// <summary>DoRA: W' = (m/‖W + s·B·A‖)·(W + s·B·A) row by row with W frozen and the norm held constant in the backward pass.</summary>
public sealed class DoraAdapter : ILinearAdapter
{
    private const double Tiny = 1e-12; // a row of zeros stays zeros

    /// <summary>Makes an adapter from its parts, which are copied.</summary>
    /// <param name="a">A [r, in].</param>
    /// <param name="b">B [out, r].</param>
    /// <param name="magnitude">m [out].</param>
    /// <param name="scaling">s, alpha/r or alpha/√r.</param>
    public DoraAdapter(Tensor a, Tensor b, Tensor magnitude, double scaling)
    {
        EspalierException.Require(a.shape[0] == b.shape[1] && b.shape[0] == magnitude.numel(), $"A DoRA of A [{string.Join(", ", a.shape)}], B [{string.Join(", ", b.shape)}] and {magnitude.numel()} magnitudes does not fit together.");
        using var frozen = no_grad();
        Scaling = scaling;
        (A, B, Magnitude) = (Models.Parameters.Of(a.detach().clone()), Models.Parameters.Of(b.detach().clone()), Models.Parameters.Of(magnitude.detach().clone()));
    }

    /// <summary>Makes an adapter at its start: A uniform in ±1/√in, B zero, m the rows' norms, so that the map is as it was.</summary>
    /// <param name="matrix">W [out, in].</param>
    /// <param name="rank">r.</param>
    /// <param name="scaling">s.</param>
    /// <param name="seed">The seed.</param>
    /// <param name="name">The map's name.</param>
    public static DoraAdapter Start(Tensor matrix, int rank, double scaling, Seed seed, string name)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor norms = linalg.norm(matrix.to(ScalarType.Float32), 2, [1]);
        return new DoraAdapter(LowRankAdapter.RandomA(matrix, rank, seed, name), zeros([matrix.shape[0], rank], ScalarType.Float32, matrix.device), norms, scaling);
    }

    /// <summary>A [r, in].</summary>
    public Parameter A { get; }

    /// <summary>B [out, r].</summary>
    public Parameter B { get; }

    /// <summary>m [out].</summary>
    public Parameter Magnitude { get; }

    /// <summary>s.</summary>
    public double Scaling { get; }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Parameter Value)> Parameters => [("lora_A", A), ("lora_B", B), ("magnitude", Magnitude)];

    /// <inheritdoc/>
    public Tensor Weight(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        Tensor direction = matrix.detach().to(A.dtype).add(B.mm(A), Scaling);
        Tensor norm = linalg.norm(direction.detach(), 2, [1]).clamp_min(Tiny);
        return (direction * (Magnitude / norm).unsqueeze(1)).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        Tensor norm;
        using (no_grad())
        {
            norm = linalg.norm(matrix.to(A.dtype).add(B.mm(A), Scaling), 2, [1]).clamp_min(Tiny);
        }

        Tensor y = nn.functional.linear(x, matrix.detach()).add(nn.functional.linear(nn.functional.linear(x, A), B), Scaling) * (Magnitude / norm);
        return (bias is null ? y : y + bias).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        A.Dispose();
        B.Dispose();
        Magnitude.Dispose();
    }
}
