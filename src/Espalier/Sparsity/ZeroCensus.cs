using Espalier.Checkpoints;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>Counts the zeros that a checkpoint really holds, tensor by tensor, without loading it whole.</summary>
public static class ZeroCensus
{
    /// <summary>The zeros of one tensor; negative zero counts as one.</summary>
    /// <param name="source">The checkpoint.</param>
    /// <param name="name">The tensor.</param>
    /// <exception cref="Runtime.EspalierException">When there is no such tensor, or its element type cannot be read.</exception>
    public static long Zeros(ITensorSource source, string name)
    {
        using var inference = no_grad();
        using var scope = NewDisposeScope();
        Tensor values = source.Read(name);
        return values.numel() - values.count_nonzero().item<long>();
    }
}
