using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>Causal attention as every decoder here uses it: grouped heads, an optional window, an optional cache.</summary>
/// <remarks>Letters: B batch, T new tokens, S all tokens, N query heads, G key-value heads, D head width.</remarks>
internal static class Attention
{
    /// <summary>Splits [B, T, heads·D] into [B, heads, T, D].</summary>
    public static Tensor SplitHeads(Tensor x_BTC, long heads) =>
        x_BTC.view(x_BTC.shape[0], x_BTC.shape[1], heads, -1).transpose(1, 2);

    /// <summary>softmax(q kᵀ / √D + mask) v.</summary>
    /// <param name="q_BNTD">Queries of the new tokens.</param>
    /// <param name="k_BGTD">Their keys; G divides N.</param>
    /// <param name="v_BGTD">Their values.</param>
    /// <param name="layer">The block, as the cache counts them.</param>
    /// <param name="cache">Keys and values of the tokens before; null when the new tokens are all there are.</param>
    /// <param name="window">A query sees only this many tokens up to and including its own; null for all.</param>
    /// <returns>[B, T, N·D].</returns>
    public static Tensor Attend(Tensor q_BNTD, Tensor k_BGTD, Tensor v_BGTD, int layer, KeyValueCache? cache, int? window = null)
    {
        using var scope = NewDisposeScope();
        (Tensor k_BGSD, Tensor v_BGSD) = cache is null ? (k_BGTD, v_BGTD) : cache.Append(layer, k_BGTD, v_BGTD);
        long heads = q_BNTD.shape[1], tokens = q_BNTD.shape[2], all = k_BGSD.shape[2];
        bool windowed = window < all;
        // The kernel's own causal path reads no mask, which is faster; one token that sees everything needs none either.
        bool causal = !windowed && tokens == all && tokens > 1;
        Tensor? mask_TS = causal || (!windowed && tokens == 1) ? null : Mask(tokens, all, window, q_BNTD);
        Tensor y_BNTD = nn.functional.scaled_dot_product_attention(q_BNTD, Spread(k_BGSD, heads), Spread(v_BGSD, heads), mask_TS, 0, causal);
        return y_BNTD.transpose(1, 2).reshape(q_BNTD.shape[0], tokens, -1).MoveToOuterDisposeScope();
    }

    /// <summary>Gives every query head its key-value head: [B, G, S, D] to [B, N, S, D].</summary>
    private static Tensor Spread(Tensor x_BGSD, long heads)
    {
        (long batch, long groups, long tokens, long width) = (x_BGSD.shape[0], x_BGSD.shape[1], x_BGSD.shape[2], x_BGSD.shape[3]);
        return groups == heads
            ? x_BGSD
            : x_BGSD.unsqueeze(2).expand(batch, groups, heads / groups, tokens, width).reshape(batch, heads, tokens, width);
    }

    /// <summary>0 where token i (counted from the end of the context) may look at token j, -∞ elsewhere: j ≤ i and i - j &lt; window.</summary>
    private static Tensor Mask(long tokens, long all, int? window, Tensor like)
    {
        using var scope = NewDisposeScope();
        Tensor i_T1 = arange(all - tokens, all, ScalarType.Int64, like.device).unsqueeze(1);
        Tensor j_1S = arange(all, ScalarType.Int64, like.device).unsqueeze(0);
        Tensor distance_TS = i_T1 - j_1S;
        Tensor hidden_TS = distance_TS < 0;
        if (window is { } w)
        {
            hidden_TS = hidden_TS.logical_or(distance_TS >= w);
        }

        return zeros([tokens, all], like.dtype, like.device).masked_fill_(hidden_TS, double.NegativeInfinity).MoveToOuterDisposeScope();
    }
}
