using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>What S²FT changed of one weight: some whole rows or columns. Fusing and switching touch these alone, without a product.</summary>
internal static class S2ftDelta
{
    /// <summary>W += λ·scatter(Δ), in place; equal ids of several adapters add up.</summary>
    /// <param name="weight">W [out, in].</param>
    /// <param name="delta">Δ: [n, in] of rows, [out, n] of columns.</param>
    /// <param name="indices">The rows or columns [n], int64.</param>
    /// <param name="axis">0 rows (outputs), 1 columns (inputs).</param>
    /// <param name="factor">λ.</param>
    public static void Scatter(Tensor weight, Tensor delta, Tensor indices, int axis, double factor = 1)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        weight.index_add_(axis, indices, delta.to(weight.dtype), factor);
    }

    /// <summary>One request served with one adapter beside the shared W: no fused copy is made.</summary>
    /// <param name="weight">W [out, in].</param>
    /// <param name="delta">Δ as for <see cref="Scatter"/>.</param>
    /// <param name="indices">The rows or columns [n], int64.</param>
    /// <param name="axis">0 rows, 1 columns.</param>
    /// <param name="x">The request [in].</param>
    /// <returns>[out].</returns>
    public static Tensor Serve(Tensor weight, Tensor delta, Tensor indices, int axis, Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor y = weight.mv(x);
        return (axis == 0 ? y.index_add(0, indices, delta.mv(x), 1) : y + delta.mv(x.index_select(0, indices))).MoveToOuterDisposeScope();
    }
}
