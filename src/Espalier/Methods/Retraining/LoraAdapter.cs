using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Retraining;

/// <summary>Plain LoRA: y = x·Wᵀ + (alpha/r)·x·Aᵀ·Bᵀ + b. Folding it into a sparse weight would fill its zeros, so that is refused.</summary>
public sealed class LoraAdapter : LowRankAdapter
{
    /// <summary>Makes an adapter from its factors; see the base class.</summary>
    public LoraAdapter(Tensor matrix, Tensor a, Tensor b, double alpha, Tensor? keep = null, string name = "the layer")
        : base(matrix, a, b, alpha, keep, name)
    {
    }

    /// <summary>Makes an adapter at LoRA's start: A uniform in ±1/√in, B zero.</summary>
    /// <inheritdoc cref="MaskLoraAdapter(Tensor, int, double, Seed, string, Tensor)"/>
    public LoraAdapter(Tensor matrix, int rank, double alpha, Seed seed, string name, Tensor? keep = null)
        : this(matrix, RandomA(matrix, rank, seed, name), ZeroB(matrix, rank), alpha, keep, name)
    {
    }

    /// <summary>An adapter of a dense weight (the head), whose chance zeros may fill.</summary>
    public static LoraAdapter OfDense(Tensor matrix, int rank, double alpha, Seed seed, string name)
    {
        using Tensor all = ones(matrix.shape, ScalarType.Bool, matrix.device);
        return new LoraAdapter(matrix, rank, alpha, seed, name, all);
    }

    /// <inheritdoc/>
    public override Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        Tensor low = nn.functional.linear(nn.functional.linear(x, A), B);
        return nn.functional.linear(x, matrix.detach(), bias).add(low, Scaling).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    /// <exception cref="EspalierException">When the weight is pruned.</exception>
    public override Tensor Merge(Tensor matrix)
    {
        RequireDense();
        return base.Merge(matrix);
    }

    /// <summary>Throws where folding in would fill pruned weights.</summary>
    internal void RequireDense()
    {
        using Tensor pruned = Pruned.count_nonzero();
        EspalierException.Require(pruned.item<long>() == 0,
            $"Folding the LoRA of {Name} into its weight would fill {pruned.item<long>()} pruned weights; train it with mask_lora, which keeps them zero, or leave it unmerged.");
    }

    /// <inheritdoc/>
    protected override Tensor Effective(Tensor matrix) => matrix.add(B.mm(A), Scaling);
}
