using Espalier.Models;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// A linear map held as W = U·diag(s)·Vᵀ with m = min(out, in) columns (SST): y = ((x·V) ⊙ s)·Uᵀ + b. All of s is trained, and of U and V only the active columns, which are unit vectors.
/// </summary>
/// <remarks>
/// The active columns are parameters of their own, so that gradients and optimiser state are r·(out + in) + m numbers. They enter the graph as terms that are 0 in value,
/// which gives them the enhanced gradients G·V_A and Gᵀ·U_A (or the default ones, with the factor s) without G itself.
/// </remarks>
public sealed class SpectralAdapter : ILinearAdapter
{
    internal const string SName = "sst_s", ActiveUName = "sst_u", ActiveVName = "sst_v", UName = "sst_all_u", VName = "sst_all_v";

    private readonly Tensor _u, _v;
    private Tensor _active = null!;

    /// <summary>Makes a map from its factors, which are copied; the first columns are active.</summary>
    /// <param name="u">U [out, m].</param>
    /// <param name="s">s [m].</param>
    /// <param name="v">V [in, m].</param>
    /// <param name="rank">r, the most columns that are active at once; more than m means m.</param>
    /// <param name="enhanced">Whether vectors learn by the enhanced gradients.</param>
    /// <exception cref="EspalierException">When shapes do not fit.</exception>
    public SpectralAdapter(Tensor u, Tensor s, Tensor v, long rank, bool enhanced = true)
    {
        EspalierException.Require(u.dim() == 2 && v.dim() == 2 && s.dim() == 1 && u.shape[1] == s.shape[0] && v.shape[1] == s.shape[0],
            $"SST needs factors u [out, m], s [m], v [in, m], not [{string.Join(", ", u.shape)}], [{string.Join(", ", s.shape)}] and [{string.Join(", ", v.shape)}].");
        EspalierException.Require(rank >= 1, $"A rank of {rank} is not possible for SST; at least 1 column must be active.");
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Enhanced = enhanced;
        Rank = Math.Min(rank, s.shape[0]);
        _u = u.detach().to(ScalarType.Float32, copy: true).contiguous().DetachFromDisposeScope();
        _v = v.detach().to(ScalarType.Float32, copy: true).contiguous().DetachFromDisposeScope();
        S = Parameters.Of(s.detach().to(ScalarType.Float32, copy: true));
        ActiveU = Parameters.Of(zeros([_u.shape[0], Rank], device: _u.device));
        ActiveV = Parameters.Of(zeros([_v.shape[0], Rank], device: _v.device));
        Activate([.. Enumerable.Range(0, (int)Rank).Select(i => (long)i)]);
    }

    /// <summary>s [m].</summary>
    public Parameter S { get; }

    /// <summary>The active columns of U [out, r]; beyond the active ones, zeros.</summary>
    public Parameter ActiveU { get; }

    /// <summary>The active columns of V [in, r].</summary>
    public Parameter ActiveV { get; }

    /// <summary>U [out, m] with the active columns as they are.</summary>
    public Tensor U => _u;

    /// <summary>V [in, m].</summary>
    public Tensor V => _v;

    /// <summary>r.</summary>
    public long Rank { get; }

    /// <summary>m.</summary>
    public long Count => S.shape[0];

    /// <summary>Whether vectors learn by the enhanced gradients.</summary>
    public bool Enhanced { get; }

    /// <summary>The active columns, at most r, int64.</summary>
    public Tensor Active => _active;

    /// <inheritdoc/>
    IReadOnlyList<(string Name, Parameter Value)> ILinearAdapter.Parameters => [(SName, S), (ActiveUName, ActiveU), (ActiveVName, ActiveV)];

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> Stored => [(SName, S), (UName, _u), (VName, _v)];

    /// <summary>The spectral form of a dense weight; it computes the same.</summary>
    /// <param name="svd">Its decomposition.</param>
    /// <param name="rank">r.</param>
    /// <param name="enhanced">Whether vectors learn by the enhanced gradients.</param>
    public static SpectralAdapter Of(ThinSvd svd, long rank, bool enhanced = true)
    {
        using var scope = NewDisposeScope();
        return new SpectralAdapter(svd.U, svd.S, svd.Vt.t(), rank, enhanced);
    }

    /// <summary>Makes other columns active.</summary>
    /// <param name="columns">Their numbers, 1 to r of them.</param>
    public void Activate(IReadOnlyList<long> columns)
    {
        EspalierException.Require(columns.Count >= 1 && columns.Count <= Rank && columns.All(c => c >= 0 && c < Count), $"SST can make 1 to {Rank} of {Count} columns active, not {string.Join(", ", columns)}.");
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        _active?.Dispose();
        _active = tensor([.. columns], ScalarType.Int64, _u.device).DetachFromDisposeScope();
        Load();
    }

    /// <summary>Step 5 after the optimiser: s ← max(s, 0), active columns back to length 1 and into U and V.</summary>
    public void Constrain()
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        S.clamp_(min: 0);
        foreach ((Parameter trained, Tensor whole) in Sides())
        {
            Tensor columns = trained.narrow(1, 0, _active.numel());
            columns.div_(columns.norm(0, keepdim: true).clamp_min(1e-12));
            whole.index_copy_(1, _active, columns);
        }
    }

    /// <summary>Step 5, option tangent: takes the part along the vector itself out of each active column's gradient, g ← g − u·(u·g).</summary>
    public void ProjectGradients()
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        foreach ((Parameter trained, _) in Sides())
        {
            if (trained.grad is { } gradient)
            {
                gradient.sub_(trained * (trained * gradient).sum([0], keepdim: true));
            }
        }
    }

    /// <summary>Step 6: decomposes W anew, which makes the columns orthogonal again and sorts s. The active columns keep their numbers.</summary>
    public void Redecompose()
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        ThinSvd svd = ThinSvd.Of(Product(), "a spectral weight").Part(0, Count);
        _u.copy_(svd.U);
        S.copy_(svd.S);
        _v.copy_(svd.Vt.t());
        Load();
    }

    /// <summary>W = U·diag(s)·Vᵀ [out, in] outside any graph, in the caller's scope.</summary>
    /// <param name="largest">Only so many columns of largest s; null takes all.</param>
    public Tensor Product(long? largest = null)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        EspalierException.Require(largest is null || (largest >= 1 && largest <= Count), $"A spectral weight of {Count} columns cannot be cut to {largest}; keep 1 to {Count}.");
        Tensor s = S;
        if (largest is { } kept && kept < Count)
        {
            (_, Tensor places) = S.topk((int)kept);
            s = zeros_like(S, requires_grad: false).index_copy_(0, places, S.index_select(0, places));
        }

        return (_u * s).mm(_v.t()).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        Tensor inner = x.matmul(_v);
        Tensor y = nn.functional.linear(inner * S, _u, bias);
        (Tensor changeU, Tensor changeV) = (Change(ActiveU), Change(ActiveV));
        Tensor seen = inner.detach().index_select(-1, _active), seenByV = x.detach().matmul(changeV);
        if (!Enhanced)
        {
            Tensor factors = S.detach().index_select(0, _active);
            (seen, seenByV) = (seen * factors, seenByV * factors);
        }

        return y.add(seen.matmul(changeU.t())).add(seenByV.matmul(_u.index_select(1, _active).t())).MoveToOuterDisposeScope();
    }

    /// <summary>W [out, in] within the graph of gradients.</summary>
    /// <param name="matrix">The weight that W takes the place of; only its type is looked at.</param>
    public Tensor Weight(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        (Tensor changeU, Tensor changeV) = (Change(ActiveU), Change(ActiveV));
        Tensor u = _u.index_select(1, _active), v = _v.index_select(1, _active);
        if (!Enhanced)
        {
            Tensor factors = S.detach().index_select(0, _active);
            (u, v) = (u * factors, v * factors);
        }

        return (_u * S).mm(_v.t()).add(changeU.mm(v.t())).add(u.mm(changeV.t())).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor Merge(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        return Product().to(matrix.dtype).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        S.Dispose();
        ActiveU.Dispose();
        ActiveV.Dispose();
        _u.Dispose();
        _v.Dispose();
        _active.Dispose();
    }

    /// <summary>The active columns less themselves: 0 in value, with a gradient.</summary>
    private Tensor Change(Parameter trained)
    {
        Tensor columns = trained.narrow(1, 0, _active.numel());
        return columns - columns.detach();
    }

    private (Parameter Trained, Tensor Whole)[] Sides() => [(ActiveU, _u), (ActiveV, _v)];

    private void Load()
    {
        foreach ((Parameter trained, Tensor whole) in Sides())
        {
            trained.zero_();
            trained.narrow(1, 0, _active.numel()).copy_(whole.index_select(1, _active));
        }
    }
}
