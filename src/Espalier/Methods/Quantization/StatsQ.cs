using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

/// <summary>A weight on StatsQ's grid.</summary>
/// <param name="Value">ŵ = s·(q + ½)/n, as the weight.</param>
/// <param name="Scale">s, one per output row, shaped to multiply.</param>
/// <param name="Level">q, whole numbers in the weight's element type.</param>
/// <param name="Position">z = u·n − ½: what is rounded to q. Weights near a half change their level next.</param>
public sealed record StatsQWeight(Tensor Value, Tensor Scale, Tensor Level, Tensor Position);

/// <summary>
/// Step 1: weights on 2^b levels placed evenly around 0 (none of them 0), whose spacing follows from the weights' own statistics at every forward
/// pass: nothing is learnt, so no scale chases the weights.
/// </summary>
public static class StatsQ
{
    /// <summary>n = 2^(b−1), half the number of levels.</summary>
    public static double Half(int bits) => Math.Pow(2, bits - 1);

    /// <summary>Rounds a weight.</summary>
    /// <param name="w">[out, in] with a scale per row; [a, d, c] with one per middle index; [out, in, k, k] with one per filter.</param>
    /// <param name="bits">b, 1 to 8.</param>
    /// <param name="asPublished">At one bit the published code has a third level at −1.5·s for weights that are clamped; false keeps to two. No difference from two bits on.</param>
    /// <returns>New tensors in the caller's scope, outside any graph. A row of zeros stays zero.</returns>
    /// <exception cref="EspalierException">For another number of dimensions or bits.</exception>
    public static StatsQWeight Quantise(Tensor w, int bits, bool asPublished = false)
    {
        EspalierException.Require(w.dim() is 2 or 3 or 4, $"StatsQ rounds weights of 2, 3 or 4 dimensions, not [{string.Join(", ", w.shape)}].");
        EspalierException.Require(bits is >= 1 and <= 8, $"StatsQ rounds to 1 to 8 bits, not {bits}.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        double n = Half(bits);
        long[] within = w.dim() switch { 2 => [1], 3 => [0, 2], _ => [1, 2, 3] };
        Tensor plain = w.detach(), scale = plain.abs().mean(within, keepdim: true) * 2;
        Tensor u = (plain / scale).nan_to_num(0, 0, 0).clamp(-1, 1 - 1e-6);
        Tensor position = (u * n) - 0.5, level = position.round();
        if (!asPublished)
        {
            level = level.clamp(-n, n - 1);
        }

        Tensor value = (level + 0.5) / n * scale;
        return new StatsQWeight(value.MoveToOuterDisposeScope(), scale.MoveToOuterDisposeScope(), level.MoveToOuterDisposeScope(), position.MoveToOuterDisposeScope());
    }

    /// <summary>ŵ within the graph of gradients: ∂L/∂w = ∂L/∂ŵ everywhere, clamped weights included.</summary>
    /// <param name="w">As in <see cref="Quantise"/>.</param>
    /// <param name="bits">b.</param>
    public static Tensor StraightThrough(Tensor w, int bits)
    {
        using var scope = NewDisposeScope();
        return (w + (Quantise(w, bits).Value - w.detach())).MoveToOuterDisposeScope();
    }
}
