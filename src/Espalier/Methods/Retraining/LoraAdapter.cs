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
        using Tensor all = Dense(matrix);
        return new LoraAdapter(matrix, rank, alpha, seed, name, all);
    }

    /// <summary>The share of inputs of A that are dropped while <see cref="Drops"/> is there. Default 0.</summary>
    public double Dropout { get; init; }

    /// <summary>Draws what is dropped; null (outside training) drops nothing.</summary>
    public Generator? Drops { get; set; }

    /// <inheritdoc/>
    public override bool KeepsZeros => false;

    /// <inheritdoc/>
    public override Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        Tensor low = nn.functional.linear(nn.functional.linear(Dropout > 0 && Drops is not null ? Dropped(x, Drops) : x, A), B);
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

    private Tensor Dropped(Tensor x, Generator drops)
    {
        using Tensor kept = rand(x.shape, ScalarType.Float32, generator: drops).ge(Dropout).to(x.device).to(x.dtype);
        return x * kept / (1 - Dropout);
    }

    /// <inheritdoc/>
    protected override Tensor Effective(Tensor matrix) => matrix.add(B.mm(A), Scaling);
}
