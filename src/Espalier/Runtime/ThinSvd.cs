using static TorchSharp.torch;

namespace Espalier.Runtime;

/// <summary>
/// The thin singular value decomposition M = U·diag(s)·Vᵀ of a matrix [rows, columns] with m = min(rows, columns), exact and in float64.
/// </summary>
/// <remarks>
/// Signs of singular vectors, and their rotation where singular values are equal, are the library's choice: compare products and projectors
/// of the factors, never the factors themselves.
/// </remarks>
/// <param name="U">The left singular vectors as columns [rows, m], float64.</param>
/// <param name="S">The singular values [m], descending, float64.</param>
/// <param name="Vt">The right singular vectors as rows [m, columns], float64.</param>
public sealed record ThinSvd(Tensor U, Tensor S, Tensor Vt)
{
    /// <summary>How many singular values there are.</summary>
    public long Count => S.shape[0];

    /// <summary>Decomposes a matrix outside any graph of gradients; the factors live in the caller's scope, on the matrix's device.</summary>
    /// <param name="matrix">[rows, columns], any floating type; it is not changed.</param>
    /// <param name="name">What it is called, for the error sentences.</param>
    /// <exception cref="EspalierException">When it is no matrix, is empty, or has entries that are not finite.</exception>
    public static ThinSvd Of(Tensor matrix, string name = "the matrix")
    {
        EspalierException.Require(matrix.dim() == 2 && matrix.numel() > 0 && matrix.is_floating_point(),
            $"Singular values need a matrix of floating-point numbers, but {name} is {matrix.dtype} [{string.Join(", ", matrix.shape)}].");
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor wide = matrix.detach().to(ScalarType.Float64);
        EspalierException.Require(wide.isfinite().all().item<bool>(), $"Singular values of {name} do not exist: it has entries that are infinite or NaN; check the checkpoint.");
        (Tensor u, Tensor s, Tensor vt) = linalg.svd(wide, fullMatrices: false);
        return new ThinSvd(u.MoveToOuterDisposeScope(), s.MoveToOuterDisposeScope(), vt.MoveToOuterDisposeScope());
    }

    /// <summary>Some neighbouring triples (u_i, s_i, v_i), as views.</summary>
    /// <param name="first">The first, from 0.</param>
    /// <param name="count">How many.</param>
    public ThinSvd Part(long first, long count) => new(U.narrow(1, first, count), S.narrow(0, first, count), Vt.narrow(0, first, count));

    /// <summary>U·diag(s)·Vᵀ [rows, columns], float64.</summary>
    public Tensor Product()
    {
        using var scope = NewDisposeScope();
        return (U * S).mm(Vt).MoveToOuterDisposeScope();
    }

    /// <summary>U·Vᵀ [rows, columns], float64, of the triples whose singular value is at least a share of the largest: a sub-gradient of the sum of singular values.</summary>
    /// <param name="above">Triples below this share of the largest are left out.</param>
    public Tensor Polar(double above)
    {
        using var scope = NewDisposeScope();
        Tensor kept = S.ge(S[0] * above).logical_and(S.gt(0)).to(S.dtype);
        return (U * kept).mm(Vt).MoveToOuterDisposeScope();
    }
}
