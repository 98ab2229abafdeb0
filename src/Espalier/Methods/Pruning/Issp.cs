using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>
/// Iterative soft shrinkage: after every optimiser step the weights that are the smallest now are multiplied by a factor a little below 1 instead of being zeroed, so
/// that they can come back; the last set is cut and the rest trained on. Pick it to train an unstructured sparse net from random weights without a dense one before.
/// </summary>
/// <remarks>
/// Symbols as on the card: p the share, α the factor, S the set that is shrunk. With α = 0 this is iterative hard thresholding, with α = 1 a dense training that is cut by
/// magnitude at the end of the stage. The optimiser's moments are not touched.
/// </remarks>
[Method("issp", "Iterative Soft Shrinkage Learning for Efficient Image Super-Resolution",
    Family = "Pruning",
    Source = "Wang, Wang, Zhang, Fu, Tao, ICCV 2023, arXiv 2303.09650",
    Summary = "Shrinks the smallest weights a little after every step, then cuts them: sparse nets from random weights, made for super-resolution.",
    Fits = "sparse training from random weights; any optimiser and net; unstructured, or N of every M weights pruned")]
public sealed partial record Issp : ISparseTraining
{
    /// <summary>More than this share is never removed from a layer, whatever p says.</summary>
    internal const double MostPruned = 0.995;

    /// <summary>p: the share of each layer's weights that is shrunk and in the end removed. Default 0.95.</summary>
    public double Sparsity
    {
        get;
        init
        {
            EspalierException.Require(value is > 0 and <= 1, FormattableString.Invariant($"issp.sparsity is {value}; it is the share of weights removed, above 0 and at most 1 (0.995 of a layer go at most)."));
            field = value;
        }
    } = 0.95;

    /// <summary>
    /// Groups in place of a share, as the published code writes them: <c>19:20</c> PRUNES 19 of every 20 consecutive weights, the opposite of the usual reading. Null (default) for none.
    /// Where the net's layers do not divide into such groups, both numbers grow together until they do.
    /// </summary>
    public string? PrunedOf
    {
        get;
        init
        {
            field = value;
            _ = value is null ? default : ParseGroups(value);
        }
    }

    /// <summary>α: what the smallest weights are multiplied by after each step. Default 0.95; 0 is iterative hard thresholding, 1 leaves them until the cut.</summary>
    public double Ratio
    {
        get;
        init
        {
            EspalierException.Require(value is >= 0 and <= 1, FormattableString.Invariant($"issp.ratio is {value}; it is a factor from 0 to 1."));
            field = value;
        }
    } = 0.95;

    /// <summary>The share of the steps that shrink; after it the last set is cut. Default 0.6; the paper's runs took about 100,000 of 400,000 steps.</summary>
    public double Stage
    {
        get;
        init
        {
            EspalierException.Require(value is > 0 and <= 1, FormattableString.Invariant($"issp.stage is {value}; it is a share of the steps, above 0 and at most 1."));
            field = value;
        }
    } = 0.6;

    /// <summary>
    /// Layers of at least this many weights are judged by a threshold from a random sample of this size, which saves the exact selection; null (default) always selects exactly. The published code has 32,400.
    /// </summary>
    public int? Sample
    {
        get;
        init
        {
            EspalierException.Require(value is null or >= 100, $"issp.sample is {value}; a threshold needs a sample of at least 100 weights.");
            field = value;
        }
    }

    /// <summary>Layers that stay dense: parts of weight names. None by default; SwinIR's code leaves out "mean" and "tail".</summary>
    public IReadOnlyList<string> Skip { get; init; } = [];

    /// <summary>Step 2b: which weights stay.</summary>
    /// <param name="weight">Any shape.</param>
    /// <param name="sparsity">p; min(⌈p·N⌉, ⌊0.995·N⌋) of the N weights go, the lower index first where two are equal.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <returns>The weight's shape, bool.</returns>
    public static Tensor Select(Tensor weight, double sparsity, string layer)
    {
        using Tensor score = weight.detach().abs();
        long all = weight.numel();
        return MaskSelection.KeepAllButSmallest(score, Math.Min((long)Math.Ceiling(sparsity * all), (long)(MostPruned * all)), layer);
    }

    /// <summary>Step 2b by groups: of every <paramref name="m"/> consecutive weights, rows flattened one after the other, the <paramref name="pruned"/> smallest go.</summary>
    /// <inheritdoc cref="Select"/>
    public static Tensor SelectGroups(Tensor weight, int pruned, int m, string layer)
    {
        EspalierException.Require(weight.numel() % m == 0, $"{layer} has {weight.numel()} weights, which do not divide into groups of {m}; skip the layer or take other groups.");
        using var scope = NewDisposeScope();
        return MaskSelection.KeepLargestPerGroup(weight.detach().abs().reshape(-1, m), pruned, m, layer).view(weight.shape).MoveToOuterDisposeScope();
    }

    /// <summary>Step 3: groups that divide every layer.</summary>
    /// <param name="counts">The weights of each layer.</param>
    /// <param name="pruned">n.</param>
    /// <param name="m">m.</param>
    /// <returns>The greatest common divisor g of the counts; n and m, both raised by the same until m divides g.</returns>
    /// <exception cref="EspalierException">When g is not above m.</exception>
    public static (long Divisor, int Pruned, int M) Adjust(IReadOnlyList<long> counts, int pruned, int m)
    {
        EspalierException.Require(counts.Count > 0 && counts.All(c => c > 0), "Groups are fitted to the weights of at least one layer, and none may be empty.");
        long divisor = counts.Aggregate((a, b) => (long)System.Numerics.BigInteger.GreatestCommonDivisor(a, b));
        (pruned, m) = AdjustTo(divisor, pruned, m);
        return (divisor, pruned, m);
    }

    /// <summary>Step 4: the threshold below which weights go, from all or a sample of the scores.</summary>
    /// <param name="weight">Any shape.</param>
    /// <param name="sparsity">p.</param>
    /// <param name="sample">Indices into the flattened weight; null takes all.</param>
    /// <returns>τ, and which weights stay: |w| ≥ τ.</returns>
    /// <exception cref="EspalierException">When p is so near to 1 that no score is left to be the threshold.</exception>
    public static (double Threshold, Tensor Keep) ThresholdSelect(Tensor weight, double sparsity, Tensor? sample = null)
    {
        using var scope = NewDisposeScope();
        Tensor all = weight.detach().abs();
        Tensor scores = sample is null ? all.flatten() : all.flatten().index_select(0, sample);
        long rank = (long)Math.Ceiling(sparsity * scores.numel());
        EspalierException.Require(rank >= 0 && rank < scores.numel(), FormattableString.Invariant($"A share of {sparsity} of {scores.numel()} scores leaves none to be the threshold; lower it."));
        Tensor threshold = scores.kthvalue(rank + 1, 0).values;
        return (threshold.to(ScalarType.Float64).item<double>(), all.ge(threshold).MoveToOuterDisposeScope());
    }

    /// <summary>Step 2c: the weights outside the mask times α, in place.</summary>
    public static void Shrink(Tensor weight, Tensor keep, double ratio)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        weight.copy_(where(keep, weight, weight * ratio));
    }

    /// <summary>The steps of the shrink stage.</summary>
    public int StageSteps(int steps) => Math.Max(1, (int)Math.Round(Stage * steps));

    /// <inheritdoc/>
    public void Check(IReadOnlyList<NetWeight> weights, int steps)
    {
        EspalierException.Require(weights.Any(Prunes), weights.Count == 0
            ? "issp found no weight to make sparse; the net has no linear maps or convolutions." : "issp.skip leaves no layer that could be pruned; name fewer.");
        _ = Groups(weights);
    }

    /// <inheritdoc/>
    public ISparseTrainingRun Begin(SparseTrainingContext context)
    {
        Check(context.Weights, context.Steps);
        return new Run(this, context);
    }

    private bool Prunes(NetWeight weight) => !Skip.Any(s => weight.Name.Contains(s, StringComparison.OrdinalIgnoreCase));

    // One pair of numbers for the whole net.
    private (int Pruned, int M)? Groups(IReadOnlyList<NetWeight> weights)
    {
        if (PrunedOf is null)
        {
            return null;
        }

        (int n, int m) = ParseGroups(PrunedOf);
        (_, n, m) = Adjust([.. weights.Where(Prunes).Select(w => w.Value.numel())], n, m);
        return (n, m);
    }

    private static (int Pruned, int M) ParseGroups(string text)
    {
        string[] parts = text.Split(':');
        EspalierException.Require(parts.Length == 2 && int.TryParse(parts[0], out int n) && int.TryParse(parts[1], out int m) && n >= 1 && n < m,
            $"issp.pruned_of is '{text}'; write how many of how many are pruned, as in 19:20.");
        return (int.Parse(parts[0], System.Globalization.CultureInfo.InvariantCulture), int.Parse(parts[1], System.Globalization.CultureInfo.InvariantCulture));
    }

    private static (int Pruned, int M) AdjustTo(long divisor, int pruned, int m)
    {
        EspalierException.Require(divisor > m, $"The layers have {divisor} as greatest common divisor of their numbers of weights, which is not above the group size {m}; take smaller groups or skip layers.");
        while (divisor % m != 0)
        {
            (pruned, m) = (pruned + 1, m + 1);
        }

        return (pruned, m);
    }
}
