using static TorchSharp.torch;

namespace Espalier.Methods.Retraining;

/// <summary>
/// ScaleLoRA: W_eff = W∘(B·A), without alpha/r. Both factors start at 1/√r, so that B·A = 1 and the map starts as the
/// pruned one; zeros stay zero whatever is learned.
/// </summary>
/// <remarks>A kept weight whose factor becomes exactly 0 vanishes from the pattern; <see cref="Vanished"/> counts these.</remarks>
public sealed class ScaleLoraAdapter : LowRankAdapter
{
    /// <summary>Makes an adapter from its factors; see the base class. Alpha is not used.</summary>
    public ScaleLoraAdapter(Tensor matrix, Tensor a, Tensor b, Tensor? keep = null, string name = "the layer")
        : base(matrix, a, b, alpha: 1, keep, name)
    {
    }

    /// <summary>Makes an adapter whose factors are all 1/√r.</summary>
    /// <param name="matrix">W [out, in].</param>
    /// <param name="rank">r, from 1 to min(in, out).</param>
    /// <param name="name">The linear map's name.</param>
    /// <param name="keep">The mask; null takes W ≠ 0.</param>
    public ScaleLoraAdapter(Tensor matrix, int rank, string name, Tensor? keep = null)
        : this(matrix, Start(matrix, rank, [rank, matrix.shape[1]], name), Start(matrix, rank, [matrix.shape[0], rank], name), keep, name)
    {
    }

    /// <summary>How many kept weights that are not 0 would be exactly 0 after merging.</summary>
    public long Vanished(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        return Merge(matrix).eq(0).logical_and(matrix.ne(0)).logical_and(Pruned.logical_not()).sum().item<long>();
    }

    /// <inheritdoc/>
    protected override Tensor Effective(Tensor matrix) => matrix * B.mm(A);

    private static Tensor Start(Tensor matrix, int rank, long[] shape, string name)
    {
        CheckRank(rank, matrix.shape[0], matrix.shape[1], name);
        return full(shape, 1 / Math.Sqrt(rank), ScalarType.Float32, matrix.device);
    }
}
