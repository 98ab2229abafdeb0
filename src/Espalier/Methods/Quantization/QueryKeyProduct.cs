using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

/// <summary>Step 3: queries and keys as one map per head, W_qk = W_qᵀ·W_k, which is what is rounded: two rounded factors would unsettle each other.</summary>
public static class QueryKeyProduct
{
    /// <summary>W_qk [heads, C, C] from W_q and W_k [C, C], within the graph; head h owns rows h·C/H on.</summary>
    /// <exception cref="EspalierException">When the heads do not divide the width.</exception>
    public static Tensor Of(Tensor wq, Tensor wk, long heads)
    {
        long width = wq.shape[0];
        EspalierException.Require(heads > 0 && width % heads == 0, $"A width of {width} cannot be shared out among {heads} heads.");
        using var scope = NewDisposeScope();
        return wq.view(heads, width / heads, -1).transpose(1, 2).matmul(wk.view(heads, width / heads, -1)).MoveToOuterDisposeScope();
    }

    /// <summary>The product on StatsQ's grid, one scale per row of all heads stacked [H·C, C]; straight through to W_q and W_k.</summary>
    /// <param name="product">W_qk [heads, C, C].</param>
    /// <param name="bits">b.</param>
    public static Tensor Quantise(Tensor product, int bits)
    {
        using var scope = NewDisposeScope();
        return StatsQ.StraightThrough(product.flatten(0, 1), bits).view(product.shape).MoveToOuterDisposeScope();
    }

    /// <summary>x·W_qk·xᵀ/√(C/H) for every head: [B, H, N, N].</summary>
    /// <param name="x">[B, N, C].</param>
    /// <param name="product">[H, C, C].</param>
    public static Tensor Scores(Tensor x, Tensor product)
    {
        using var scope = NewDisposeScope();
        Tensor wide = x.unsqueeze(1);
        double size = (double)x.shape[^1] / product.shape[0];
        return (wide.matmul(product).matmul(wide.transpose(-2, -1)) / Math.Sqrt(size)).MoveToOuterDisposeScope();
    }
}
