using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

// The layer-wise shares that RD-Prune is compared with. All count the layer's nonzero weights and round half to even.
public sealed partial class RdPrune
{
    /// <summary>LAMP (Lee et al., ICLR 2021): a weight's score is w² over the sum of squares of the weights of its layer that are not smaller; the best of all layers together stay.</summary>
    /// <param name="weights">One per layer, any shapes; zeros count as already pruned.</param>
    /// <param name="amount">The share of the nonzero weights to remove, in [0, 1].</param>
    /// <returns>The share of its nonzero weights that each layer loses.</returns>
    public static IReadOnlyList<double> LampAmounts(IReadOnlyList<Tensor> weights, double amount)
    {
        CheckAmount(weights, amount);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        long[] nonzero = CountNonzero(weights);
        long survivors = Round((1 - amount) * nonzero.Sum());
        if (survivors == 0)
        {
            return [.. nonzero.Select(n => n == 0 ? 0.0 : 1)];
        }

        Tensor[] scores = [.. weights.Select(LampScores)];
        Tensor all = cat(scores);
        Tensor threshold = all.kthvalue(all.numel() - survivors + 1, 0, false).values;
        return [.. scores.Select((s, l) => nonzero[l] == 0 ? 0 : 1 - (double)s.ge(threshold).sum().item<long>() / nonzero[l])];
    }

    /// <summary>ERK (Evci et al., ICML 2020): a layer's density is proportional to the sum of its dimensions over its size; layers that would exceed 1 stay dense.</summary>
    /// <inheritdoc cref="LampAmounts"/>
    public static IReadOnlyList<double> ErkAmounts(IReadOnlyList<Tensor> weights, double amount)
    {
        CheckAmount(weights, amount);
        long[] nonzero = CountNonzero(weights);
        IReadOnlyList<long> kept = Erk.Survivors(nonzero, [.. weights.Select(w => w.shape.Sum())], amount);
        return [.. nonzero.Select((n, l) => kept[l] == n ? 0 : 1 - (double)kept[l] / n)];
    }

    /// <summary>Unif+ (Gale et al., 2019): uniform, but a convolution that comes first stays dense and the last layer keeps at least a fifth of its weights.</summary>
    /// <inheritdoc cref="LampAmounts"/>
    /// <exception cref="EspalierException">When the other layers cannot give so many weights.</exception>
    public static IReadOnlyList<double> UniformPlusAmounts(IReadOnlyList<Tensor> weights, double amount)
    {
        CheckAmount(weights, amount);
        long[] nonzero = CountNonzero(weights);
        int first = weights[0].dim() == 4 ? 1 : 0, last = weights.Count - 1;
        long remove = Round(amount * nonzero.Sum());
        double share = Share(remove, nonzero[first..].Sum(), amount);
        var amounts = new double[weights.Count];
        Array.Fill(amounts, share, first, amounts.Length - first);

        // Where pruning has already gone below a fifth, what is left stays.
        long least = Math.Min(Round(0.2 * weights[last].numel()), nonzero[last]);
        if (last >= first && Round((1 - share) * nonzero[last]) < least)
        {
            long given = nonzero[last] - least;
            Array.Fill(amounts, Share(remove - given, nonzero[first..last].Sum(), amount), first, last - first);
            amounts[last] = nonzero[last] == 0 ? 0 : (double)given / nonzero[last];
        }

        return amounts;
    }

    private static double Share(long remove, long from, double amount)
    {
        EspalierException.Require(remove <= from,
            $"Unif+ cannot remove {amount:P0} of the weights: {remove} would have to come from layers that hold {from}, because the first convolution and a fifth of the last layer stay; lower the amount.");
        return from == 0 ? 0 : (double)remove / from;
    }

    private static Tensor LampScores(Tensor weight)
    {
        using var scope = NewDisposeScope();
        Tensor ascending = weight.detach().to(ScalarType.Float64).square().reshape(-1).sort(dim: 0, descending: false, stable: true).Values;
        Tensor atOrAfter = ascending.flip(0).cumsum(0).flip(0);
        return (ascending / atOrAfter).nan_to_num(0).MoveToOuterDisposeScope();
    }

    private static void CheckAmount(IReadOnlyList<Tensor> weights, double amount)
    {
        EspalierException.Require(weights.Count > 0, "No layer was given to share the sparsity among.");
        EspalierException.Require(amount is >= 0 and <= 1, $"An amount of {amount} is not possible; it is the share of the nonzero weights to remove, from 0 to 1.");
    }

    private static long[] CountNonzero(IReadOnlyList<Tensor> weights)
    {
        using var scope = NewDisposeScope();
        return [.. weights.Select(w => w.count_nonzero().item<long>())];
    }

    private static long Round(double value) => (long)Math.Round(value, MidpointRounding.ToEven);
}
