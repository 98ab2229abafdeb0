using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>The steps of the alternation on dense matrices in float64, as they stand on paper: for small problems, for comparing, and as what the fast solver is tested against.</summary>
/// <remarks>Results are new tensors in the caller's scope. U and V are unique up to a rotation only; compare products and spaces.</remarks>
public static class LrmcEquations
{
    /// <summary>Step 2: the start U₀ from the top singular vectors of P_Ω(M)/p̂.</summary>
    /// <param name="observed">M [m, n]; unknown entries may hold anything.</param>
    /// <param name="mask">[m, n]: 1 or true where known.</param>
    /// <param name="k">The rank.</param>
    /// <param name="rowNormLimit">Rows of U_φ above this norm become 0 before U₀ is made orthonormal; null keeps all.</param>
    /// <returns>U₀ [m, k], the row norms of U_φ [m], p̂, and the k singular values.</returns>
    public static (Tensor U, Tensor RowNorms, double Share, Tensor SingularValues) Start(Tensor observed, Tensor mask, int k, double? rowNormLimit = null)
    {
        RequireRank(k, observed.shape);
        using var scope = NewDisposeScope();
        Tensor known = mask.ne(0);
        double share = known.to(ScalarType.Float64).mean().item<double>();
        EspalierException.Require(share > 0, $"No entry of the {observed.shape[0]} × {observed.shape[1]} matrix is known; there is nothing to complete it from.");
        (Tensor u, Tensor values, _) = linalg.svd(Known(observed, known) / share, fullMatrices: false);
        u = u.narrow(1, 0, k);
        Tensor norms = u.pow(2).sum(dim: 1).sqrt();
        if (rowNormLimit is { } limit)
        {
            u = u.masked_fill(norms.gt(limit).unsqueeze(1), 0);
        }

        return (Orthonormal(u).MoveToOuterDisposeScope(), norms.MoveToOuterDisposeScope(), share, values.narrow(0, 0, k).MoveToOuterDisposeScope());
    }

    /// <summary>Steps 3 and 5: for every column j, v_j = argmin ‖U[Ω_j]·v − M[Ω_j, j]‖, of least norm where there are several and 0 without a known entry.</summary>
    /// <param name="u">U [m, k]; its columns need not be orthonormal.</param>
    /// <param name="observed">M [m, n].</param>
    /// <param name="mask">[m, n].</param>
    /// <returns>V̂ [n, k] and the root of the squared residuals over the known entries.</returns>
    public static (Tensor V, double Residual) HalfStep(Tensor u, Tensor observed, Tensor mask)
    {
        EspalierException.Require(u.dim() == 2 && u.shape[0] == observed.shape[0], $"U [{string.Join(", ", u.shape)}] does not fit the matrix [{string.Join(", ", observed.shape)}].");
        using var scope = NewDisposeScope();
        Tensor known = mask.ne(0), m = Known(observed, known), wide = u.to(ScalarType.Float64);
        Tensor v = zeros([observed.shape[1], u.shape[1]], ScalarType.Float64);
        for (long j = 0; j < observed.shape[1]; j++)
        {
            using var column = NewDisposeScope();
            Tensor rows = known.select(1, j).nonzero().reshape(-1);
            if (rows.numel() > 0)
            {
                v.select(0, j).copy_(LeastSquares(wide.index_select(0, rows), m.select(1, j).index_select(0, rows)));
            }
        }

        double residual = (wide.mm(v.t()) - m).masked_fill(known.logical_not(), 0).pow(2).sum().sqrt().item<double>();
        return (v.MoveToOuterDisposeScope(), residual);
    }

    /// <summary>Steps 3 to 6 with exact half steps, V first: X = Û·Vᵀ of the last round, and how it went.</summary>
    /// <param name="start">U₀ [m, k], orthonormal.</param>
    /// <param name="observed">M [m, n].</param>
    /// <param name="mask">[m, n].</param>
    /// <param name="truth">The whole matrix, which errors are measured against.</param>
    /// <param name="rounds">T, at least 1.</param>
    /// <returns>X [m, n], ‖X_t − M‖/‖M‖ of each round, and the distance of U to M's leading space at the start and after each round.</returns>
    public static (Tensor Completed, IReadOnlyList<double> RelativeErrors, IReadOnlyList<double> Distances) Alternate(Tensor start, Tensor observed, Tensor mask, Tensor truth, int rounds)
    {
        EspalierException.Require(rounds >= 1, $"Alternating minimisation needs at least one round, not {rounds}.");
        using var scope = NewDisposeScope();
        Tensor u = start.to(ScalarType.Float64), whole = truth.to(ScalarType.Float64), x = whole;
        Tensor space = linalg.svd(whole, fullMatrices: false).Item1.narrow(1, 0, u.shape[1]);
        var errors = new List<double>();
        var distances = new List<double> { SubspaceDistance(space, u) };
        for (int t = 0; t < rounds; t++)
        {
            Tensor v = Orthonormal(HalfStep(u, observed, mask).V);
            Tensor wide = HalfStep(v, observed.t(), mask.t()).V;
            x = wide.mm(v.t());
            errors.Add(((x - whole).norm() / whole.norm()).item<double>());
            u = Orthonormal(wide);
            distances.Add(SubspaceDistance(space, u));
        }

        return (x.MoveToOuterDisposeScope(), errors, distances);
    }

    /// <summary>‖(I − Q_a·Q_aᵀ)·Q_b‖₂: the sine of the largest angle between two spaces.</summary>
    /// <param name="a">[m, k], any basis.</param>
    /// <param name="b">[m, k].</param>
    public static double SubspaceDistance(Tensor a, Tensor b)
    {
        using var scope = NewDisposeScope();
        Tensor qa = Orthonormal(a), qb = Orthonormal(b);
        return linalg.svdvals(qb - qa.mm(qa.t().mm(qb))).max().item<double>();
    }

    /// <summary>μ = (m/k)·max ‖row of Q_a‖²: 1 where every row weighs the same, m/k where a single row carries a direction.</summary>
    /// <param name="a">[m, k], any basis.</param>
    public static double Incoherence(Tensor a)
    {
        using var scope = NewDisposeScope();
        return (Orthonormal(a).pow(2).sum(dim: 1).max() * ((double)a.shape[0] / a.shape[1])).item<double>();
    }

    /// <summary>argmin ‖A·x − b‖ of least norm, float64.</summary>
    internal static Tensor LeastSquares(Tensor a, Tensor b)
    {
        using var scope = NewDisposeScope();
        (Tensor u, Tensor s, Tensor vh) = linalg.svd(a, fullMatrices: false);
        Tensor real = s.gt(s.max() * (Math.Max(a.shape[0], a.shape[1]) * 2.220446049250313e-16));
        Tensor inverse = where(real, s.reciprocal(), zeros_like(s));
        return vh.t().mv(inverse * u.t().mv(b)).MoveToOuterDisposeScope();
    }

    /// <summary>Q of QR, float64.</summary>
    internal static Tensor Orthonormal(Tensor a)
    {
        using var scope = NewDisposeScope();
        return linalg.qr(a.to(ScalarType.Float64)).Item1.MoveToOuterDisposeScope();
    }

    internal static void RequireRank(int k, long[] shape) => EspalierException.Require(k >= 1 && k <= Math.Min(shape[0], shape[1]),
        $"A matrix of {shape[0]} × {shape[1]} has ranks from 1 to {Math.Min(shape[0], shape[1])}, and k is {k}.");

    private static Tensor Known(Tensor observed, Tensor known)
    {
        Tensor m = observed.to(ScalarType.Float64).masked_fill(known.logical_not(), 0);
        EspalierException.Require(m.isfinite().all().item<bool>(), "A known entry is NaN or infinite; mask it, or mend it.");
        return m;
    }
}
