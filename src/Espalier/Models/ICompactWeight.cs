using Espalier.Checkpoints;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>A weight [out, in] that stays in a form of its own (packed, quantised) and is used without becoming dense. For inference: no gradient passes it.</summary>
public interface ICompactWeight : IDisposable
{
    /// <summary>The bytes it takes in memory.</summary>
    long StoredBytes { get; }

    /// <summary>x Wᵀ.</summary>
    /// <param name="x">Inputs [..., in] on the CPU.</param>
    /// <returns>[..., out] in float32; the caller's scope disposes it.</returns>
    Tensor Multiply(Tensor x);

    /// <summary>W x of one vector.</summary>
    /// <param name="x">[in].</param>
    /// <param name="y">[out].</param>
    void Multiply(ReadOnlySpan<float> x, Span<float> y);

    /// <summary>Some entries of W x of one vector; the others become 0, and their rows need not be read.</summary>
    /// <param name="x">[in].</param>
    /// <param name="y">[out].</param>
    /// <param name="rows">The entries wanted, ascending.</param>
    void Multiply(ReadOnlySpan<float> x, Span<float> y, ReadOnlySpan<int> rows);

    /// <summary>Some rows as dense float32.</summary>
    /// <param name="ids">Their numbers [count], int64.</param>
    /// <returns>[count, in]; the caller's scope disposes it.</returns>
    Tensor Rows(Tensor ids);

    /// <summary>The whole weight as a new dense float32 tensor [out, in].</summary>
    Tensor ToDense();
}

/// <summary>Named tensors of which some can be had in a compact form.</summary>
public interface ICompactSource : ITensorSource
{
    /// <summary>A weight in its compact form, which the caller disposes; null where it is stored dense.</summary>
    /// <param name="name">The checkpoint name of the weight.</param>
    /// <param name="layout">How the model stores it.</param>
    ICompactWeight? ReadCompact(string name, WeightLayout layout);
}
