using System.Runtime.InteropServices;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Merging;

/// <summary>Which weights are ranked together.</summary>
public enum MagnitudeSelector
{
    /// <summary>All weights of the net.</summary>
    Global,

    /// <summary>The weights of each layer.</summary>
    Uniform,

    /// <summary>None: they are drawn by chance from all.</summary>
    Random,
}

/// <summary>Iterative magnitude pruning: each time a share of what remains.</summary>
public static class MagnitudePruning
{
    /// <summary>Masks that keep everything.</summary>
    /// <returns>Bool tensors in the weights' stored shapes by weight name, in the caller's scope.</returns>
    public static Dictionary<string, Tensor> All(VisionModel net) => net.Weights.ToDictionary(w => w.WeightName, w => ones(w.Weight.shape, ScalarType.Bool, net.Device));

    /// <summary>Prunes a net in place and makes its masks smaller.</summary>
    /// <param name="net">The net.</param>
    /// <param name="masks">Its keep masks by weight name; new tensors, in the caller's scope, take the place of the old ones.</param>
    /// <param name="amount">The share of the remaining weights, in [0, 1).</param>
    /// <param name="selector">Which weights are ranked together.</param>
    /// <param name="seed">For <see cref="MagnitudeSelector.Random"/>.</param>
    /// <returns>The norm of the pruned weights over that of all parameters before.</returns>
    public static double Prune(VisionModel net, Dictionary<string, Tensor> masks, double amount, MagnitudeSelector selector, Seed seed)
    {
        using var frozen = no_grad();
        WeightLayer[] layers = [.. net.Weights];
        (double before, double after) = (SquaredNorm(net), 0);
        IReadOnlyList<Tensor> next = Next([.. layers.Select(l => (Tensor)l.Weight)], [.. layers.Select(l => masks[l.WeightName])], amount, selector, seed);
        foreach ((WeightLayer layer, Tensor mask) in layers.Zip(next))
        {
            using Tensor pruned = mask.logical_not();
            layer.Weight.masked_fill_(pruned, 0);
            masks[layer.WeightName] = mask;
        }

        after = SquaredNorm(net);
        return before == 0 ? 0 : Math.Sqrt(Math.Max(0, before - after) / before);
    }

    /// <summary>The masks after pruning round-half-even(amount · remaining) of the smallest |w|; among equal ones the lower place goes first.</summary>
    /// <param name="weights">Weights of any shape, in the order of the layers.</param>
    /// <param name="masks">Their keep masks, bool.</param>
    /// <param name="amount">The share of the remaining weights, in [0, 1).</param>
    /// <param name="selector">Which weights are ranked together.</param>
    /// <param name="seed">For <see cref="MagnitudeSelector.Random"/>.</param>
    /// <returns>New keep masks, in the caller's scope.</returns>
    /// <exception cref="EspalierException">For another amount, or weights that are not finite.</exception>
    public static IReadOnlyList<Tensor> Next(IReadOnlyList<Tensor> weights, IReadOnlyList<Tensor> masks, double amount, MagnitudeSelector selector, Seed seed)
    {
        EspalierException.Require(amount is >= 0 and < 1, FormattableString.Invariant($"A share of {amount} of the remaining weights cannot be pruned; it must be from 0 up to but not including 1."));
        if (selector is MagnitudeSelector.Uniform)
        {
            return [.. weights.Zip(masks).SelectMany(p => Next([p.First], [p.Second], amount, MagnitudeSelector.Global, seed))];
        }

        byte[][] keep = [.. masks.Select(m => m.cpu().contiguous().bytes.ToArray())];
        var scores = new List<float>();
        foreach ((Tensor weight, byte[] kept) in weights.Zip(keep))
        {
            using Tensor values = weight.detach().abs().to(ScalarType.Float32).cpu().contiguous();
            ReadOnlySpan<float> all = MemoryMarshal.Cast<byte, float>(values.bytes);
            for (int i = 0; i < all.Length; i++)
            {
                if (kept[i] != 0)
                {
                    scores.Add(all[i]);
                }
            }
        }

        float[] ranked = [.. scores];
        if (selector is MagnitudeSelector.Random)
        {
            Random random = seed.Random("pruned weights");
            ranked = Array.ConvertAll(ranked, _ => random.NextSingle());
        }

        byte[] stays = Marked(ranked, (long)Math.Round(amount * ranked.Length, MidpointRounding.ToEven));
        int place = 0;
        return [.. weights.Zip(keep, (weight, kept) =>
        {
            for (int i = 0; i < kept.Length; i++)
            {
                kept[i] = kept[i] != 0 ? stays[place++] : (byte)0;
            }

            using var scope = NewDisposeScope();
            return tensor(Array.ConvertAll(kept, k => k != 0)).reshape(weight.shape).to(weight.device).MoveToOuterDisposeScope();
        })];
    }

    private static unsafe byte[] Marked(float[] scores, long count)
    {
        var stays = new byte[scores.Length];
        fixed (float* from = scores)
        fixed (byte* to = stays)
        {
            EspalierException.Require(SmallestSelection.Mark(from, to, scores.Length, count), "A weight is infinite or NaN, so that magnitudes cannot be ranked; prune a sound checkpoint.");
        }

        return stays;
    }

    private static double SquaredNorm(VisionModel net)
    {
        using var scope = NewDisposeScope();
        return net.Parameters.Sum(p => p.Value.detach().to(ScalarType.Float64).square().sum().item<double>());
    }
}
