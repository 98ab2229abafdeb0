using Espalier.Catalogue;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>UNIP.</summary>
[Method("unip", "UNIP: Rethinking Pre-trained Attention Patterns for Infrared Semantic Segmentation", Family = "Adaptation", Source = "Zhang, Wen, Chen, Ding, Xiang, Pan, ICLR 2025, arXiv 2502.02257",
    Summary = "x", Fits = "x")]
public sealed partial record Unip
{
    /// <summary>S = q·kᵀ/√(head size), before the softmax, from a block's fused queries, keys and values.</summary>
    /// <param name="qkv">[B, N, 3·d]: all queries, all keys, all values; head h owns columns h·d/H on.</param>
    /// <param name="heads">H.</param>
    /// <returns>[B, H, N, N], within the graph.</returns>
    public static Tensor AttentionScores(Tensor qkv, long heads)
    {
        using var scope = NewDisposeScope();
        long images = qkv.shape[0], tokens = qkv.shape[1], size = qkv.shape[2] / 3 / heads;
        Tensor[] parts = [.. qkv.view(images, tokens, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)];
        return (parts[0].matmul(parts[1].transpose(-2, -1)) / Math.Sqrt(size)).MoveToOuterDisposeScope();
    }
}
