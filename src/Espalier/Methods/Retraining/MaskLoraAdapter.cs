using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Retraining;

/// <summary>MaskLoRA: W_eff = W + (alpha/r)·M∘(B·A). What is trained is what is merged, and no pruned weight comes back.</summary>
public sealed class MaskLoraAdapter : LowRankAdapter
{
    /// <summary>Makes an adapter from its factors; see the base class.</summary>
    public MaskLoraAdapter(Tensor matrix, Tensor a, Tensor b, double alpha, Tensor? keep = null, string name = "the layer")
        : base(matrix, a, b, alpha, keep, name)
    {
    }

    /// <summary>Makes an adapter at LoRA's start: A uniform in ±1/√in, B zero.</summary>
    /// <param name="matrix">W [out, in].</param>
    /// <param name="rank">r, from 1 to min(in, out).</param>
    /// <param name="alpha">The strength; the factor is alpha/r.</param>
    /// <param name="seed">A draws from a stream of its own for <paramref name="name"/>.</param>
    /// <param name="name">The linear map's name.</param>
    /// <param name="keep">The mask; null takes W ≠ 0.</param>
    public MaskLoraAdapter(Tensor matrix, int rank, double alpha, Seed seed, string name, Tensor? keep = null)
        : this(matrix, RandomA(matrix, rank, seed, name), ZeroB(matrix, rank), alpha, keep, name)
    {
    }

    /// <inheritdoc/>
    protected override Tensor Effective(Tensor matrix) => matrix.add(B.mm(A).masked_fill(Pruned, 0), Scaling);
}
