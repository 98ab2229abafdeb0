using Espalier.Catalogue;
using Espalier.Evaluation;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial record Ap
{
    [ParityOp("ap.percentile_prune")]
    internal static IReadOnlyDictionary<string, Tensor> PercentileOp(ParityCase c)
    {
        IReadOnlyList<Tensor> weights = c.Numbered("w");
        int[] repeat = c.Parameter("repeat", Enumerable.Repeat(1, weights.Count).ToArray());
        (IReadOnlyList<Tensor> keep, double threshold, long count) = PercentilePrune(
            [.. weights.Select(w => w.abs())], [.. weights.Select(w => w.ne(0))], c.Parameter<double>("percent"), c.Parameter<double>("percent_ap"), repeat);
        // A mask of a weight that is 0 already stays as it was unless the threshold takes it.
        Tensor[] masks = [.. weights.Zip(c.Numbered("mask"), (w, m) => where(w.abs().to(ScalarType.Float64).lt(threshold), zeros_like(m), m))];
        var results = new Dictionary<string, Tensor> { ["num_ap"] = tensor(count), ["threshold"] = tensor(threshold) };
        return Numbered(results, [.. weights.Zip(masks, (w, m) => w * m)], masks);
    }

    [ParityOp("ap.activate_prune")]
    internal static IReadOnlyDictionary<string, Tensor> ActivateOp(ParityCase c)
    {
        (IReadOnlyList<Tensor> weights, IReadOnlyList<Tensor> masks) = (c.Numbered("w"), c.Numbered("mask"));
        (IReadOnlyList<Tensor> keep, double threshold, long pruned) = TakeSmallest(
            [.. weights.Zip(c.Numbered("prev"), (w, p) => (w - p).abs())], [.. weights.Select(w => w.lt(0))], [.. masks.Select(m => m.ne(0))], c.Parameter<long>("num_ap"));
        Tensor[] after = [.. keep.Zip(masks, (k, m) => k.to(m.dtype))];
        var results = new Dictionary<string, Tensor> { ["threshold"] = tensor(threshold), ["n_pruned"] = tensor(pruned) };
        return Numbered(results, [.. after.Zip(c.Numbered("init"), (m, i) => m * i)], after);
    }

    [ParityOp("ap.dnr")]
    internal static IReadOnlyDictionary<string, Tensor> RateOp(ParityCase c)
    {
        IReadOnlyList<DeadNeuronRate> rates = DeadNeurons.Of([.. c.Numbered("act").Zip(c.Numbered("wmask"), (a, w) => ("layer", a, (Tensor?)w))]);
        static double[] Row(DeadNeuronRate r) => [r.Total / 100, r.Static / 100, r.Dynamic / 100];
        double[] all = Row(rates[^1]);
        return new Dictionary<string, Tensor>
        {
            ["dnr"] = tensor(all[0]), ["static"] = tensor(all[1]), ["dynamic"] = tensor(all[2]), ["per_layer"] = stack([.. rates.SkipLast(1).Select(r => tensor(Row(r)))]),
        };
    }

    private static Dictionary<string, Tensor> Numbered(Dictionary<string, Tensor> results, Tensor[] weights, Tensor[] masks)
    {
        for (int i = 0; i < weights.Length; i++)
        {
            (results[FormattableString.Invariant($"w{i}")], results[FormattableString.Invariant($"mask{i}")]) = (weights[i], masks[i]);
        }

        return results;
    }
}
