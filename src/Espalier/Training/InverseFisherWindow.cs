using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>
/// Products with the inverse of F = λ·I + (1/m)·Σ g·gᵀ over the last m gradients, without a matrix of the size of the net: M-FAC's
/// dynamic algorithm (Frantar, Kurtic, Alistarh, NeurIPS 2021). Slots that are not filled yet hold zeros.
/// </summary>
/// <remarks>
/// A product takes O(d·m + m²), a new gradient O(d·m + m³), memory m·d numbers. LU without pivoting of the positive definite
/// A = λ⁻¹·G·Gᵀ + m·I is Cholesky's factor scaled. The small matrices are float64; gradients are float64 below λ = 1e-3, where
/// float32 would lose what the inverse amplifies.
/// </remarks>
public sealed class InverseFisherWindow : IDisposable
{
    private const double SmallDamping = 1e-3;

    private readonly Tensor _gradients, _products;
    private readonly double _damping;
    private Tensor _differences, _basis, _denominators;
    private long _next;

    /// <summary>Makes an empty window.</summary>
    /// <param name="count">m, how many gradients it holds.</param>
    /// <param name="length">d, the length of a gradient.</param>
    /// <param name="damping">λ.</param>
    /// <param name="device">Where gradients live; null is the CPU.</param>
    /// <exception cref="EspalierException">For sizes below 1 or a damping that is not positive.</exception>
    public InverseFisherWindow(long count, long length, double damping, Device? device = null)
    {
        EspalierException.Require(count >= 1 && length >= 1, $"A window of {count} gradients of length {length} is not possible; both must be at least 1.");
        EspalierException.Require(damping > 0 && double.IsFinite(damping), FormattableString.Invariant($"A damping of {damping} is not possible; it must be a positive number, for example 1e-5."));
        _damping = damping;
        _gradients = zeros([count, length], damping < SmallDamping ? ScalarType.Float64 : ScalarType.Float32, device ?? CPU).DetachFromDisposeScope();
        _products = zeros([count, count], ScalarType.Float64).DetachFromDisposeScope();
        (_differences, _basis, _denominators) = Factor();
    }

    /// <summary>m.</summary>
    public long Count => _gradients.shape[0];

    /// <summary>D [m, m], upper triangular: gᵢᵀ·F⁻¹·gⱼ with F⁻¹ of the slots before i. It stays the window's.</summary>
    public Tensor Differences => _differences;

    /// <summary>B [m, m], lower triangular: how the products with single slots become F⁻¹. It stays the window's.</summary>
    public Tensor Basis => _basis;

    /// <summary>The whole state, to save; the tensors stay the window's.</summary>
    internal IReadOnlyList<(string Name, Tensor Value)> State => [("gradients", _gradients), ("products", _products)];

    /// <summary>The slot that the next gradient takes.</summary>
    internal long Next => _next;

    /// <summary>Puts a gradient in the oldest one's place.</summary>
    /// <param name="gradient">[d].</param>
    /// <exception cref="EspalierException">When it is not finite: it would spoil the window for m steps.</exception>
    public void Add(Tensor gradient)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        Tensor g = Own(gradient);
        EspalierException.Require(g.isfinite().all().item<bool>(), "A gradient is infinite or NaN and was not taken into the Fisher window; lower the learning rate or raise the damping.");
        _gradients[_next].copy_(g);
        Tensor products = _gradients.mv(g).to(ScalarType.Float64).cpu();
        _products[_next].copy_(products);
        _products.select(1, _next).copy_(products);
        _next = (_next + 1) % Count;
        Refactor();
    }

    /// <summary>F⁻¹·x.</summary>
    /// <param name="x">[d].</param>
    /// <returns>[d], of the window's type, in the caller's scope.</returns>
    public Tensor Multiply(Tensor x)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        Tensor own = Own(x);
        Tensor z = (_gradients.mv(own).to(ScalarType.Float64).cpu() / _damping).unsqueeze(1);
        z = linalg.solve_triangular(Unit(), z, false, true, true).squeeze(1);
        Tensor shares = (z / _denominators).unsqueeze(0).matmul(_basis).squeeze(0).to(_gradients.dtype).to(_gradients.device);
        return ((own / _damping) - shares.unsqueeze(0).matmul(_gradients).squeeze(0)).MoveToOuterDisposeScope();
    }

    /// <summary>Takes over a saved state.</summary>
    internal void Load(Tensor gradients, Tensor products, long next)
    {
        using var frozen = no_grad();
        EspalierException.Require(gradients.shape.AsSpan().SequenceEqual(_gradients.shape) && products.shape.AsSpan().SequenceEqual(_products.shape),
            "The optimizer state was saved for another window of gradients; start the training anew.");
        _gradients.copy_(gradients);
        _products.copy_(products);
        _next = next;
        Refactor();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor own in new[] { _gradients, _products, _differences, _basis, _denominators })
        {
            own.Dispose();
        }
    }

    private Tensor Own(Tensor vector)
    {
        EspalierException.Require(vector.dim() == 1 && vector.shape[0] == _gradients.shape[1], $"The vector has shape [{string.Join(", ", vector.shape)}], the window holds gradients of length {_gradients.shape[1]}.");
        return vector.detach().to(_gradients.dtype).to(_gradients.device);
    }

    /// <summary>L' of A = L'·U with ones on the diagonal: row i holds D[k, i] / denominator[k].</summary>
    private Tensor Unit()
    {
        using var scope = NewDisposeScope();
        return ((_differences / _denominators.unsqueeze(1)).t().tril(-1) + eye(Count, dtype: ScalarType.Float64)).MoveToOuterDisposeScope();
    }

    private void Refactor()
    {
        (Tensor differences, Tensor basis, Tensor denominators) = Factor();
        _differences.Dispose();
        _basis.Dispose();
        _denominators.Dispose();
        (_differences, _basis, _denominators) = (differences, basis, denominators);
    }

    private (Tensor Differences, Tensor Basis, Tensor Denominators) Factor()
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        Tensor one = eye(Count, dtype: ScalarType.Float64);
        Tensor lower = linalg.cholesky((_products / _damping) + (one * Count));
        Tensor diagonal = lower.diagonal();
        Tensor upper = lower.t() * diagonal.unsqueeze(1);
        Tensor denominators = diagonal.square();
        Tensor differences = (upper - (one * Count)).triu();
        Tensor basis = linalg.solve_triangular(lower / diagonal.unsqueeze(0), one / _damping, false, true, true).tril();
        return (differences.DetachFromDisposeScope(), basis.DetachFromDisposeScope(), denominators.DetachFromDisposeScope());
    }
}
