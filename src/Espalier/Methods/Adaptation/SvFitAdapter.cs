using Espalier.Models;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// SVFit on one linear map: y = x·W_eᵀ + ((x·V_r) ⊙ s)·U_rᵀ + b, where only s [r] is trained and W = W_e + U_r·diag(σ_r)·V_rᵀ is the weight.
/// </summary>
/// <remarks>
/// The map keeps its whole weight W: x·W_eᵀ + ((x·V_r) ⊙ s)·U_rᵀ = x·Wᵀ + ((x·V_r) ⊙ (s − σ_r))·U_rᵀ, so the start is W to the last bit and nothing has to be put back.
/// An adapter whose <c>offset</c> is 0 stands beside the residual W_e itself (a quantised one, say).
/// </remarks>
public sealed class SvFitAdapter : ILinearAdapter
{
    internal const string SName = "svfit_s", UName = "svfit_u", VName = "svfit_vt", StartName = "svfit_start";

    // Two singular values so close have singular vectors that another computation may turn.
    private const double Close = 1e-5;

    private readonly Tensor _u, _vt, _offset;

    /// <summary>Makes an adapter from its factors, which are copied.</summary>
    /// <param name="u">U_r [out, r].</param>
    /// <param name="s">The trained values at the start [r].</param>
    /// <param name="vt">V_rᵀ [r, in].</param>
    /// <param name="offset">What the weight beside the adapter already holds of s [r]: σ_r where it is W, null (zero) where it is W_e.</param>
    /// <param name="relative">Whether z in s = s₀(1 + z) is trained instead of s.</param>
    /// <exception cref="EspalierException">When shapes do not fit.</exception>
    public SvFitAdapter(Tensor u, Tensor s, Tensor vt, Tensor? offset = null, bool relative = false)
    {
        EspalierException.Require(u.dim() == 2 && vt.dim() == 2 && s.dim() == 1 && u.shape[1] == s.shape[0] && vt.shape[0] == s.shape[0] && (offset is null || offset.shape.AsSpan().SequenceEqual(s.shape)),
            $"SVFit needs factors u [out, r], s [r], vt [r, in] and an offset like s, not [{string.Join(", ", u.shape)}], [{string.Join(", ", s.shape)}], [{string.Join(", ", vt.shape)}] and [{string.Join(", ", offset?.shape ?? [])}].");
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Relative = relative;
        _u = Kept(u);
        _vt = Kept(vt);
        Start = Kept(s);
        _offset = offset is null ? zeros_like(Start).DetachFromDisposeScope() : Kept(offset);
        S = Parameters.Of(relative ? zeros_like(Start) : Start.clone());
    }

    /// <summary>What is trained: s [r], or z [r] of s = s₀(1 + z).</summary>
    public Parameter S { get; }

    /// <summary>Whether <see cref="S"/> holds z.</summary>
    public bool Relative { get; }

    /// <summary>s at the start, σ_r [r].</summary>
    public Tensor Start { get; }

    /// <summary>U_r [out, r]; frozen.</summary>
    public Tensor U => _u;

    /// <summary>V_rᵀ [r, in]; frozen.</summary>
    public Tensor Vt => _vt;

    /// <summary>Numbers that are held beside the trained ones: the frozen factors.</summary>
    public long BufferCount => _u.numel() + _vt.numel() + Start.numel() + _offset.numel();

    /// <inheritdoc/>
    IReadOnlyList<(string Name, Parameter Value)> ILinearAdapter.Parameters => Count == 0 ? [] : [(SName, S)];

    /// <summary>r; 0 beside a weight that is all zero, which stays as it is.</summary>
    public long Count => S.shape[0];

    /// <inheritdoc/>
    /// <remarks>s alone, from which the weight gives the rest again; the factors too where two singular values are closer than 1e-5 of the larger one.</remarks>
    public IReadOnlyList<(string Name, Tensor Value)> Stored => Count == 0 ? [] : IsUnique ? [(SName, S)] : [(SName, S), (UName, _u), (VName, _vt), (StartName, Start)];

    private bool IsUnique
    {
        get
        {
            using var scope = NewDisposeScope();
            float[] values = [.. Start.cpu().data<float>()];
            return values.Zip(values.Skip(1)).All(p => p.First - p.Second > Close * p.First);
        }
    }

    /// <summary>An adapter at SVFit's start beside a whole weight.</summary>
    /// <param name="svd">The decomposition of W.</param>
    /// <param name="rank">r.</param>
    /// <param name="relative">Whether z is trained.</param>
    public static SvFitAdapter Of(ThinSvd svd, long rank, bool relative = false)
    {
        using var scope = NewDisposeScope();
        ThinSvd leading = svd.Part(0, rank);
        return new SvFitAdapter(leading.U, leading.S, leading.Vt, leading.S, relative);
    }

    /// <summary>The singular values as they are now, s [r], in the caller's scope and within the graph.</summary>
    public Tensor Values()
    {
        using var scope = NewDisposeScope();
        return (Relative ? Start * (S + 1) : S.alias()).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        if (Count == 0)
        {
            return nn.functional.linear(x, matrix.detach(), bias);
        }

        using var scope = NewDisposeScope();
        Tensor spectral = nn.functional.linear(nn.functional.linear(x, _vt) * (Values() - _offset), _u);
        return nn.functional.linear(x, matrix.detach(), bias).add(spectral).MoveToOuterDisposeScope();
    }

    /// <summary>W_e + U_r·diag(s)·V_rᵀ [out, in], float32, within the graph of gradients.</summary>
    /// <param name="matrix">W (or W_e) [out, in].</param>
    public Tensor Weight(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        return matrix.detach().to(_u.dtype).add((_u * (Values() - _offset)).mm(_vt)).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor Merge(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        return Weight(matrix).to(matrix.dtype).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        S.Dispose();
        Start.Dispose();
        _offset.Dispose();
        _u.Dispose();
        _vt.Dispose();
    }

    private static Tensor Kept(Tensor value) => value.detach().to(ScalarType.Float32, copy: true).contiguous().DetachFromDisposeScope();
}
