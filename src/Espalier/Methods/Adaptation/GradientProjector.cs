using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// GaLore's projector (Zhao et al., ICML 2024, arXiv 2403.03507) of the gradients of one matrix [O, I]: onto the r leading singular vectors of a
/// gradient, looked up anew every few steps. It decides its side once, from the matrix, and can serve any optimiser.
/// </summary>
/// <remarks>Singular vectors are turned so that their largest entry is positive: running means outlive a new basis, and a library's signs are arbitrary.</remarks>
/// <param name="rows">O.</param>
/// <param name="columns">I.</param>
/// <param name="rank">r; min(O, I) at most counts.</param>
/// <param name="gap">T, steps between two looks for a basis.</param>
/// <param name="scale">α, multiplies what comes back.</param>
/// <param name="side">The side.</param>
public sealed class GradientProjector(long rows, long columns, int rank, int gap, double scale, ProjectionSide side) : IDisposable
{
    private const double InsteadOfNaN = 1e-9; // the original's guard; the training loop refuses such gradients before

    private readonly long _rank = Math.Min(rank, Math.Min(rows, columns));
    private readonly bool _left = side is ProjectionSide.Left or ProjectionSide.Full || (rows >= columns ? side is ProjectionSide.ReverseStd : side is ProjectionSide.Std);
    private readonly bool _right = side is ProjectionSide.Right or ProjectionSide.Full || (rows >= columns ? side is ProjectionSide.Std : side is ProjectionSide.ReverseStd);
    private Tensor? _u, _vt; // [O, r] and [r, I]

    /// <summary>The shape of a projected gradient.</summary>
    public long[] LowShape => [_left ? _rank : rows, _right ? _rank : columns];

    /// <summary>The projected gradient, in the caller's scope.</summary>
    /// <param name="gradient">G [O, I].</param>
    /// <param name="step">s, the updates before this one.</param>
    public Tensor Project(Tensor gradient, long step)
    {
        using var scope = NewDisposeScope();
        if (step % gap == 0 || (_u is null && _vt is null))
        {
            Look(gradient);
        }

        Tensor low = _u is null ? gradient : _u.t().mm(gradient);
        return (_vt is null ? low : low.mm(_vt.t())).MoveToOuterDisposeScope();
    }

    /// <summary>α times a low-rank step in the full space [O, I], in the caller's scope.</summary>
    /// <param name="low">Shaped as <see cref="LowShape"/>.</param>
    public Tensor Back(Tensor low)
    {
        using var scope = NewDisposeScope();
        Tensor full = _u is null ? low : _u.mm(low);
        return (_vt is null ? full : full.mm(_vt)).mul(scale).MoveToOuterDisposeScope();
    }

    /// <summary>The basis, where there is one.</summary>
    internal IEnumerable<(string Name, Tensor Value)> Save(string name)
    {
        if (_u is not null)
        {
            yield return ($"basis_u.{name}", _u);
        }

        if (_vt is not null)
        {
            yield return ($"basis_vt.{name}", _vt);
        }
    }

    /// <summary>Copies a basis in.</summary>
    /// <exception cref="EspalierException">When it is missing or shaped otherwise.</exception>
    internal void Load(string name, IReadOnlyDictionary<string, Tensor> state)
    {
        Tensor Take(string part, long[] shape)
        {
            EspalierException.Require(state.TryGetValue($"{part}.{name}", out Tensor? saved) && saved.shape.AsSpan().SequenceEqual(shape),
                $"The optimizer state has no tensor {part}.{name} of shape [{string.Join(", ", shape)}]; start the training anew.");
            return saved.clone().DetachFromDisposeScope();
        }

        Dispose();
        _u = _left ? Take("basis_u", [rows, _rank]) : null;
        _vt = _right ? Take("basis_vt", [_rank, columns]) : null;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _u?.Dispose();
        _vt?.Dispose();
        (_u, _vt) = (null, null);
    }

    private void Look(Tensor gradient)
    {
        using var scope = NewDisposeScope();
        (Tensor u, _, Tensor vt) = linalg.svd(gradient.to(ScalarType.Float32).nan_to_num(InsteadOfNaN), fullMatrices: false);
        Dispose();
        _u = _left ? Turned(u.narrow(1, 0, _rank), 0).to(gradient.dtype).DetachFromDisposeScope() : null;
        _vt = _right ? Turned(vt.narrow(0, 0, _rank), 1).to(gradient.dtype).DetachFromDisposeScope() : null;
    }

    // Vectors lie along `dim`; each gets the sign that makes its largest entry positive.
    private static Tensor Turned(Tensor vectors, long dim)
    {
        Tensor largest = vectors.gather(dim, vectors.abs().argmax(dim, keepdim: true));
        return (vectors * largest.sign()).contiguous();
    }
}
