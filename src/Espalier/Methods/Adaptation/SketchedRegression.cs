using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// Step 7: least squares by a sketch. R of QR(S·A) makes A·R⁻¹ well conditioned, whatever A's own condition is, so that conjugate gradients on it
/// gain a constant factor a sweep. A is never squared.
/// </summary>
/// <remarks>Float64; results are new tensors in the caller's scope.</remarks>
public sealed class SketchedRegression : IDisposable
{
    private readonly Tensor _a, _b, _r;
    private readonly bool _deficient;

    /// <summary>Prepares a problem with a sketch at hand.</summary>
    /// <param name="a">A [N, k].</param>
    /// <param name="b">b [N].</param>
    /// <param name="sketchedA">S·A [s, k].</param>
    /// <param name="sketchedB">S·b [s].</param>
    public SketchedRegression(Tensor a, Tensor b, Tensor sketchedA, Tensor sketchedB)
    {
        using var scope = NewDisposeScope();
        (_a, _b) = (a.to(ScalarType.Float64).clone(), b.to(ScalarType.Float64).clone());
        Tensor sa = sketchedA.to(ScalarType.Float64), sb = sketchedB.to(ScalarType.Float64);
        bool exact = !IsWellPosed(sa);
        _deficient = exact && !IsWellPosed(_a);
        Tensor r = linalg.qr(exact ? _a : sa).R;
        Start = exact ? LrmcEquations.LeastSquares(_a, _b) : LrmcEquations.LeastSquares(sa, sb);
        _r = r.DetachFromDisposeScope();
        _a.DetachFromDisposeScope();
        _b.DetachFromDisposeScope();
        Start.DetachFromDisposeScope();
    }

    /// <summary>x₀ = argmin ‖S·A·x − S·b‖ [k]. It belongs to this object.</summary>
    public Tensor Start { get; }

    /// <summary>RᵀR [k, k], which is (S·A)ᵀ(S·A).</summary>
    public Tensor Gram => _r.t().mm(_r);

    /// <summary>x* [k], exactly.</summary>
    public Tensor Exact => LrmcEquations.LeastSquares(_a, _b);

    /// <summary>S·A where row i of A goes to bucket h(i) with sign σ(i): the cost is that of reading A.</summary>
    /// <param name="a">[N, k] or [N].</param>
    /// <param name="hash">h [N], int64.</param>
    /// <param name="sign">σ [N].</param>
    /// <param name="buckets">s; above the largest bucket in use.</param>
    public static Tensor CountSketch(Tensor a, Tensor hash, Tensor sign, long buckets)
    {
        EspalierException.Require(hash.numel() == a.shape[0] && sign.numel() == a.shape[0], $"A sketch of {a.shape[0]} rows needs as many buckets and signs, not {hash.numel()} and {sign.numel()}.");
        using var scope = NewDisposeScope();
        Tensor wide = a.to(ScalarType.Float64), signed = wide * (wide.dim() == 1 ? sign : sign.unsqueeze(1)).to(ScalarType.Float64);
        return zeros([buckets, .. a.shape[1..]], ScalarType.Float64).index_add_(0, hash.to(ScalarType.Int64), signed, 1).MoveToOuterDisposeScope();
    }

    /// <summary>A problem with a CountSketch of s rows; buckets that leave S·A singular are drawn again, five times, and then A itself is factored.</summary>
    /// <param name="a">A [N, k].</param>
    /// <param name="b">b [N].</param>
    /// <param name="rows">s; where A has no more, A itself is factored.</param>
    /// <param name="random">The draw.</param>
    public static SketchedRegression Draw(Tensor a, Tensor b, int rows, Random random)
    {
        using var scope = NewDisposeScope();
        int count = (int)a.shape[0];
        for (int attempt = 0; attempt <= 5 && count > rows; attempt++)
        {
            Tensor hash = tensor([.. Enumerable.Range(0, count).Select(_ => random.NextInt64(rows))], ScalarType.Int64);
            Tensor sign = tensor([.. Enumerable.Range(0, count).Select(_ => (2.0 * random.Next(2)) - 1)], ScalarType.Float64);
            Tensor sa = CountSketch(a, hash, sign, rows);
            if (IsWellPosed(sa))
            {
                return new SketchedRegression(a, b, sa, CountSketch(b, hash, sign, rows));
            }
        }

        return new SketchedRegression(a, b, a, b);
    }

    /// <summary>One step of Richardson's iteration, x + R⁻¹R⁻ᵀAᵀ(b − A·x).</summary>
    public Tensor Richardson(Tensor x)
    {
        using var scope = NewDisposeScope();
        if (_deficient)
        {
            return Start.clone().MoveToOuterDisposeScope();
        }

        Tensor wide = x.to(ScalarType.Float64), gradient = _a.t().mv(_b - _a.mv(wide));
        return (wide + Back(Transposed(gradient))).MoveToOuterDisposeScope();
    }

    /// <summary>Conjugate gradients on (A·R⁻¹)ᵀ(A·R⁻¹) from an estimate.</summary>
    /// <param name="x">The estimate [k].</param>
    /// <param name="sweeps">Steps; fewer where nothing is left to gain.</param>
    public Tensor ConjugateGradients(Tensor x, int sweeps)
    {
        using var scope = NewDisposeScope();
        if (_deficient)
        {
            return Start.clone().MoveToOuterDisposeScope();
        }

        Tensor y = x.to(ScalarType.Float64).clone(), residual = _b - _a.mv(y), s = Transposed(_a.t().mv(residual)), p = s;
        double gamma = s.dot(s).item<double>();
        for (int i = 0; i < sweeps && gamma > 0; i++)
        {
            // In the coordinates of R·x: y moves along R⁻¹·p.
            Tensor step = Back(p), q = _a.mv(step);
            double curvature = q.dot(q).item<double>();
            if (!(curvature > 0))
            {
                break;
            }

            double alpha = gamma / curvature;
            y += alpha * step;
            residual -= alpha * q;
            s = Transposed(_a.t().mv(residual));
            double next = s.dot(s).item<double>();
            (p, gamma) = (s + ((next / gamma) * p), next);
        }

        return y.MoveToOuterDisposeScope();
    }

    /// <summary>‖A·(x − x*)‖.</summary>
    public double Error(Tensor x)
    {
        using var scope = NewDisposeScope();
        return _a.mv(x.to(ScalarType.Float64) - Exact).norm().item<double>();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _a.Dispose();
        _b.Dispose();
        _r.Dispose();
        Start.Dispose();
    }

    // With fewer than k independent rows R cannot be inverted; the exact solution of least norm then stands for all estimates.
    private static bool IsWellPosed(Tensor sketched)
    {
        using var scope = NewDisposeScope();
        if (sketched.shape[0] < sketched.shape[1])
        {
            return false;
        }

        Tensor s = linalg.svdvals(sketched);
        return s.min().item<double>() > 1e-12 * s.max().item<double>();
    }

    // R⁻ᵀ·x.
    private Tensor Transposed(Tensor x) => linalg.solve_triangular(_r.t(), x.unsqueeze(1), upper: false).squeeze(1);

    // R⁻¹·x.
    private Tensor Back(Tensor x) => linalg.solve_triangular(_r, x.unsqueeze(1), upper: true).squeeze(1);
}
