using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>
/// The upper Cholesky factor U of a damped inverse Hessian, H⁻¹ = UᵀU: what the optimal-brain-surgeon sweep divides by
/// and spreads errors with.
/// </summary>
/// <remarks>
/// The inverse itself is never formed. With J the reversal of rows and columns and J·H·J = L·Lᵀ, the matrix J·L⁻¹·J is upper
/// triangular with a positive diagonal and (J·L⁻¹·J)ᵀ(J·L⁻¹·J) = H⁻¹, so it is U, which is unique. One factorisation and one
/// triangular inverse replace the published factorise, invert, factorise: less than half of the work, and better conditioned.
/// </remarks>
internal sealed class InverseHessianFactor : IDisposable
{
    /// <summary>How often the damping is raised tenfold before the layer is given up.</summary>
    private const int Attempts = 4;

    private const long ProductColumns = 512;

    private const long FactorColumns = 256;

    private InverseHessianFactor(Tensor u, Tensor dead, double damping, int raised) => (U, Dead, Damping, Raised) = (u, dead, damping, raised);

    /// <summary>U [C, C], upper triangular.</summary>
    public Tensor U { get; }

    /// <summary>Inputs that were always 0 [C], bool.</summary>
    public Tensor Dead { get; }

    /// <summary>The share of the mean diagonal that was added in the end.</summary>
    public double Damping { get; }

    /// <summary>How often the damping had to be raised.</summary>
    public int Raised { get; }

    /// <summary>Factors a raw Hessian.</summary>
    /// <param name="H">[C, C], symmetric, undamped; stays as it is.</param>
    /// <param name="percdamp">The damping as a share of the mean diagonal.</param>
    /// <param name="type">The element type to compute in.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <exception cref="EspalierException">When H is no finite symmetric matrix, or not positive definite even with much damping.</exception>
    public static InverseHessianFactor Compute(Tensor H, double percdamp, ScalarType type, string layer)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor raw = H.detach().to(type).cpu();
        RequireSymmetric(raw, layer);
        Tensor diagonal = raw.diagonal();
        Tensor dead = diagonal.eq(0);

        // The card's steps 2 and 3: dead inputs get 1, then a share of the mean is added.
        Tensor alive = diagonal.masked_fill(dead, 1);
        double mean = alive.mean().to(ScalarType.Float64).item<double>();
        for (int attempt = 0; attempt < Attempts; attempt++)
        {
            double damping = attempt == 0 ? percdamp : Math.Max(percdamp, 1e-3) * Math.Pow(10, attempt);
            using var trial = NewDisposeScope();
            Tensor reversed = raw.flip(0, 1);
            reversed.diagonal().copy_((alive + damping * mean).flip(0));
            if (FactorInPlace(reversed))
            {
                InvertInPlace(reversed);
                FlipInPlace(reversed);
                if (reversed.diagonal().isfinite().all().item<bool>())
                {
                    return new InverseHessianFactor(reversed.DetachFromDisposeScope(), dead.DetachFromDisposeScope(), damping, attempt);
                }
            }
        }

        throw new EspalierException(
            $"The Hessian of {layer} is not positive definite even after its damping was raised {Attempts - 1} times; give the plan more calibration text, or use Wanda for this model.");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        U.Dispose();
        Dead.Dispose();
    }

    /// <summary>
    /// The lower Cholesky factor in the matrix's own memory, column block by column block (right-looking): the matrices of
    /// a wide layer are the largest things in memory, and a library call would hold two of them.
    /// </summary>
    /// <returns>False when the matrix is not positive definite; it is spoilt then.</returns>
    private static bool FactorInPlace(Tensor A)
    {
        long n = A.shape[0];
        for (long k = 0; k < n; k += FactorColumns)
        {
            using var scope = NewDisposeScope();
            long width = Math.Min(FactorColumns, n - k), next = k + width, rest = n - next;
            Tensor corner = A.narrow(0, k, width).narrow(1, k, width);
            (Tensor L, Tensor info) = linalg.cholesky_ex(corner);
            if (info.item<int>() != 0)
            {
                return false;
            }

            corner.copy_(L);
            if (rest > 0)
            {
                // P = A[next:, k]·L⁻ᵀ, then A[next:, next:] −= P·Pᵀ.
                Tensor panel = A.narrow(0, next, rest).narrow(1, k, width);
                Tensor solved = linalg.solve_triangular(L, panel.t(), upper: false).t().contiguous();
                panel.copy_(solved);
                A.narrow(0, k, width).narrow(1, next, rest).zero_();
                A.narrow(0, next, rest).narrow(1, next, rest).addmm_(solved, solved.t(), beta: 1, alpha: -1);
            }
        }

        return true;
    }

    /// <summary>The inverse of a lower triangular matrix in its own memory, by halves: [[A, 0], [B, D]]⁻¹ = [[A⁻¹, 0], [−D⁻¹·B·A⁻¹, D⁻¹]].</summary>
    internal static void InvertInPlace(Tensor L)
    {
        using var scope = NewDisposeScope();
        long n = L.shape[0];
        if (n <= 128)
        {
            L.copy_(linalg.solve_triangular(L, eye(n, dtype: L.dtype), upper: false));
            return;
        }

        long half = n / 2, rest = n - half;
        Tensor A = L.narrow(0, 0, half).narrow(1, 0, half);
        Tensor D = L.narrow(0, half, rest).narrow(1, half, rest);
        Tensor B = L.narrow(0, half, rest).narrow(1, 0, half);
        InvertInPlace(A);
        InvertInPlace(D);

        // A⁻¹ is lower triangular: column c of B·A⁻¹ needs only the columns of B from c on, so ascending columns may overwrite B.
        for (long from = 0; from < half; from += ProductColumns)
        {
            using var part = NewDisposeScope();
            long count = Math.Min(ProductColumns, half - from), left = half - from;
            Tensor product = B.narrow(1, from, left).mm(A.narrow(0, from, left).narrow(1, from, count));
            B.narrow(1, from, count).copy_(D.mm(product).neg_());
        }
    }

    /// <summary>Reverses rows and columns: of a contiguous matrix, its memory from end to start.</summary>
    private static unsafe void FlipInPlace(Tensor square)
    {
        long count = square.numel();
        if (square.dtype is ScalarType.Float64)
        {
            Reverse(TensorMemory.Pointer<double>(square), count);
        }
        else
        {
            Reverse(TensorMemory.Pointer<float>(square), count);
        }

        GC.KeepAlive(square);

        static void Reverse<T>(T* values, long count)
            where T : unmanaged
        {
            for (long i = 0, k = count - 1; i < k; i++, k--)
            {
                (values[i], values[k]) = (values[k], values[i]);
            }
        }
    }

    // Some rows at a time: a difference of the whole matrix would be the largest thing in memory.
    private static double Skew(Tensor H)
    {
        double skew = 0;
        const long rows = 256;
        for (long from = 0; from < H.shape[0]; from += rows)
        {
            using var scope = NewDisposeScope();
            long count = Math.Min(rows, H.shape[0] - from);
            skew = Math.Max(skew, (H.narrow(0, from, count) - H.narrow(1, from, count).t()).abs_().max().to(ScalarType.Float64).item<double>());
        }

        return skew;
    }

    private static void RequireSymmetric(Tensor H, string layer)
    {
        EspalierException.Require(H.dim() == 2 && H.shape[0] == H.shape[1], $"The Hessian of {layer} is [{string.Join(", ", H.shape)}]; a square matrix is needed.");
        using var scope = NewDisposeScope();
        double largest = Math.Max(H.max().to(ScalarType.Float64).item<double>(), -H.min().to(ScalarType.Float64).item<double>());
        EspalierException.Require(double.IsFinite(largest), $"The Hessian of {layer} holds NaN or infinite values; its calibration inputs are damaged.");
        double skew = Skew(H);
        EspalierException.Require(skew <= 1e-4 * largest, $"The Hessian of {layer} is not symmetric (it differs from its transpose by {skew:0.###e+0}); it must be a sum of x·xᵀ.");
        double least = H.diagonal().min().to(ScalarType.Float64).item<double>();
        EspalierException.Require(least >= 0, $"The Hessian of {layer} has a negative diagonal; it must be a sum of x·xᵀ.");
    }
}
