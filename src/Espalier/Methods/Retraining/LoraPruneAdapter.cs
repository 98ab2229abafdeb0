using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Retraining;

/// <summary>
/// LoRA-Prune: trained as plain LoRA, merged as W + (alpha/r)·M∘(B·A). The part outside the mask is thrown away at the end,
/// so the merged map differs from the trained one.
/// </summary>
public sealed class LoraPruneAdapter : LowRankAdapter
{
    /// <summary>Makes an adapter from its factors; see the base class.</summary>
    public LoraPruneAdapter(Tensor matrix, Tensor a, Tensor b, double alpha, Tensor? keep = null, string name = "the layer")
        : base(matrix, a, b, alpha, keep, name)
    {
    }

    /// <summary>Makes an adapter at LoRA's start: A uniform in ±1/√in, B zero.</summary>
    /// <inheritdoc cref="MaskLoraAdapter(Tensor, int, double, Seed, string, Tensor)"/>
    public LoraPruneAdapter(Tensor matrix, int rank, double alpha, Seed seed, string name, Tensor? keep = null)
        : this(matrix, RandomA(matrix, rank, seed, name), ZeroB(matrix, rank), alpha, keep, name)
    {
    }

    /// <summary>Whether the forward pass already leaves out what merging will throw away; for judging the result before merging.</summary>
    public bool AsMerged { get; set; }

    /// <inheritdoc/>
    public override Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        if (AsMerged)
        {
            return base.Forward(x, matrix, bias);
        }

        using var scope = NewDisposeScope();
        Tensor low = nn.functional.linear(nn.functional.linear(x, A), B);
        return nn.functional.linear(x, matrix.detach(), bias).add(low, Scaling).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    protected override Tensor Effective(Tensor matrix) => matrix.add(B.mm(A).masked_fill(Pruned, 0), Scaling);
}
