using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>What attention maps look like: local (each query has keys of its own), global (all queries share them), or hybrid, by mutual information.</summary>
/// <param name="Nmi">[B, H]: I / √(H(q)·H(k)), 0 to 1.</param>
/// <param name="MutualInformation">[B, H], nats.</param>
/// <param name="KeyEntropy">H(k) [B, H], nats.</param>
public sealed record AttentionPatterns(Tensor Nmi, Tensor MutualInformation, Tensor KeyEntropy)
{
    /// <summary>The mean over images and heads: what layers are compared by.</summary>
    public double Mean => Nmi.mean().to(ScalarType.Float64).item<double>();

    /// <summary>Step 2, for every map of its own: p(q) = 1/N, p(q, k) = A_qk/N, p(k) the mean of A over queries.</summary>
    /// <param name="logits">Maps before their softmax [B, H, M, M].</param>
    /// <param name="hasClassToken">Drops the first row and column and makes rows sum to 1 again.</param>
    /// <returns>Float64, in the caller's scope.</returns>
    /// <exception cref="EspalierException">When the maps are not square or have no token left.</exception>
    public static AttentionPatterns Of(Tensor logits, bool hasClassToken)
    {
        EspalierException.Require(logits.dim() == 4 && logits.shape[2] == logits.shape[3], $"Attention maps are [images, heads, tokens, tokens], not [{string.Join(", ", logits.shape)}].");
        long tokens = logits.shape[2] - (hasClassToken ? 1 : 0);
        EspalierException.Require(tokens >= 1, "There is no token beside the class token, so its attention has no pattern.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor wide = logits.detach().to(ScalarType.Float64);
        if (hasClassToken)
        {
            // Rows that sum to 1 again are the softmax over what is left, and stay finite where the class token took everything.
            wide = wide.narrow(2, 1, tokens).narrow(3, 1, tokens);
        }

        Tensor a = wide.softmax(-1), keys = a.mean([2L]);
        Tensor information = (Plogp(a).sum(dim: -1).mean([2L]) - Plogp(keys).sum(dim: -1)).clamp(min: 0);
        Tensor entropy = -Plogp(keys).sum(dim: -1);
        Tensor root = (entropy * Math.Log(tokens)).clamp(min: 0).sqrt();
        Tensor nmi = where(root.gt(0), information / root, zeros_like(root));
        return new AttentionPatterns(nmi.MoveToOuterDisposeScope(), information.MoveToOuterDisposeScope(), entropy.MoveToOuterDisposeScope());
    }

    /// <summary>Step 3: the layer whose mean NMI is nearest to the target; among equals the earlier.</summary>
    /// <param name="nmi">The mean of each layer.</param>
    /// <param name="target">The value of a hybrid pattern.</param>
    /// <returns>The layer, counted from 1.</returns>
    /// <exception cref="EspalierException">Without layers.</exception>
    public static int Choose(IReadOnlyList<double> nmi, double target)
    {
        EspalierException.Require(nmi.Count > 0 && nmi.All(double.IsFinite), "A layer is chosen by the NMI of at least one layer, all of them numbers.");
        int best = 0;
        for (int l = 1; l < nmi.Count; l++)
        {
            best = Math.Abs(nmi[l] - target) < Math.Abs(nmi[best] - target) ? l : best;
        }

        return best + 1;
    }

    /// <summary>Step 5, hybrid-attention distillation: the mean over images, heads and queries of KL(softmax T ‖ softmax S).</summary>
    /// <param name="student">S [B, H, N, N], scaled by the student's own head size, class token included.</param>
    /// <param name="teacher">T [B, H, N, N], scaled by the teacher's.</param>
    /// <returns>One number within the graph of S, in the caller's scope.</returns>
    /// <exception cref="EspalierException">When heads or tokens differ.</exception>
    public static Tensor DistillationLoss(Tensor student, Tensor teacher)
    {
        EspalierException.Require(student.shape.AsSpan().SequenceEqual(teacher.shape),
            $"The student's attention [{string.Join(", ", student.shape)}] and the teacher's [{string.Join(", ", teacher.shape)}] must have the same heads and tokens; give the student's last block the teacher's heads, and both the same number of patches.");
        using var scope = NewDisposeScope();
        Tensor log = nn.functional.log_softmax(teacher.detach(), -1);
        return (log.exp() * (log - nn.functional.log_softmax(student, -1))).sum(dim: -1).mean().MoveToOuterDisposeScope();
    }

    // 0·ln 0 = 0.
    private static Tensor Plogp(Tensor p) => p * p.clamp(min: 1e-300).log();
}
