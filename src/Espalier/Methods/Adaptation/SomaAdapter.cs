using Espalier.Models;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// SoMA on one linear map: y = x·W_resᵀ + b + scaling·(x·Aᵀ)·Bᵀ, where A and B start as the smallest (or, for PiSSA, the largest) singular triples of W
/// and W_res = W − scaling·B₀·A₀.
/// </summary>
/// <remarks>
/// The map keeps its whole weight W and the adapter the start A₀, B₀: what is added to x·Wᵀ is scaling·(x·Aᵀ·Bᵀ − x·A₀ᵀ·B₀ᵀ), which is 0 at the start to the last bit.
/// An adapter without a start stands beside W_res itself.
/// </remarks>
public sealed class SomaAdapter : ILinearAdapter
{
    private readonly Tensor? _startA, _startB;

    /// <summary>Makes an adapter from its factors, which are copied.</summary>
    /// <param name="a">A [r, in].</param>
    /// <param name="b">B [out, r].</param>
    /// <param name="scaling">lora_alpha / r.</param>
    /// <param name="whole">Whether the weight beside the adapter is W, which holds scaling·B·A already; else it is W_res.</param>
    /// <exception cref="EspalierException">When shapes do not fit.</exception>
    public SomaAdapter(Tensor a, Tensor b, double scaling, bool whole)
    {
        EspalierException.Require(a.dim() == 2 && b.dim() == 2 && a.shape[0] == b.shape[1], $"SoMA needs factors A [r, in] and B [out, r], not [{string.Join(", ", a.shape)}] and [{string.Join(", ", b.shape)}].");
        EspalierException.Require(scaling > 0 && double.IsFinite(scaling), FormattableString.Invariant($"A scaling of {scaling} is not possible; it is alpha over rank, above 0."));
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Scaling = scaling;
        A = Parameters.Of(a.detach().to(ScalarType.Float32, copy: true).contiguous());
        B = Parameters.Of(b.detach().to(ScalarType.Float32, copy: true).contiguous());
        if (whole)
        {
            _startA = A.detach().clone().DetachFromDisposeScope();
            _startB = B.detach().clone().DetachFromDisposeScope();
        }
    }

    /// <summary>A [r, in]: diag(√σ')·Vᵀ at the start.</summary>
    public Parameter A { get; }

    /// <summary>B [out, r]: U·diag(√σ') at the start.</summary>
    public Parameter B { get; }

    /// <summary>lora_alpha / r.</summary>
    public double Scaling { get; }

    /// <summary>Numbers that are held beside the trained ones: A₀ and B₀.</summary>
    public long BufferCount => (_startA?.numel() ?? 0) + (_startB?.numel() ?? 0);

    /// <inheritdoc/>
    IReadOnlyList<(string Name, Parameter Value)> ILinearAdapter.Parameters => [("lora_A", A), ("lora_B", B)];

    /// <summary>Step 2 of the card: A = diag(√(σ/scaling))·Vᵀ and B = U·diag(√(σ/scaling)) of some triples.</summary>
    /// <param name="part">The triples, as <see cref="Soma.Part"/> gives them.</param>
    /// <param name="scaling">lora_alpha / r.</param>
    /// <returns>A [r, in] and B [out, r], float64, in the caller's scope.</returns>
    public static (Tensor A, Tensor B) Factors(ThinSvd part, double scaling)
    {
        using var scope = NewDisposeScope();
        Tensor root = (part.S / scaling).sqrt();
        return ((root.unsqueeze(1) * part.Vt).MoveToOuterDisposeScope(), (part.U * root).MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    public Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        Tensor low = Low(x, A, B);
        if (_startA is not null)
        {
            low = low.sub(Low(x, _startA, _startB!));
        }

        return nn.functional.linear(x, matrix.detach(), bias).add(low, Scaling).MoveToOuterDisposeScope();
    }

    /// <summary>W_res + scaling·B·A [out, in], float32, within the graph of gradients.</summary>
    /// <param name="matrix">W (or W_res) [out, in].</param>
    public Tensor Weight(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        Tensor low = B.mm(A);
        if (_startA is not null)
        {
            low = low.sub(_startB!.mm(_startA));
        }

        return matrix.detach().to(A.dtype).add(low, Scaling).MoveToOuterDisposeScope();
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
        A.Dispose();
        B.Dispose();
        _startA?.Dispose();
        _startB?.Dispose();
    }

    private static Tensor Low(Tensor x, Tensor a, Tensor b) => nn.functional.linear(nn.functional.linear(x, a), b);
}
