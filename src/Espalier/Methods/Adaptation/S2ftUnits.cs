using Espalier.Models;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>What is trained of one coupled structure of one block.</summary>
/// <param name="Group">The structure: heads, key-value groups or neurons.</param>
/// <param name="First">Units whose outputs are trained in the map that makes them (values, up).</param>
/// <param name="Second">Units whose inputs are trained in the map that reads them (output, down).</param>
internal sealed record S2ftUnits(CoupledGroup Group, IReadOnlyList<long> First, IReadOnlyList<long> Second)
{
    /// <summary>Where the units lie in the map that makes them: the values', or the up projection's.</summary>
    public SlicePattern Maker => MakerOf(Group);

    /// <summary>Draws or ranks the units of the whole model: ⌊share · units⌋ of each kind, so layers get different numbers and some none.</summary>
    /// <exception cref="EspalierException">Where heads are asked for whose values cannot be told apart.</exception>
    public static IReadOnlyList<S2ftUnits> Choose(S2ft method, AdaptationContext context, LanguageModel model)
    {
        CoupledGroup[] heads = [.. model.Blocks.SelectMany(b => b.Groups).Where(g => g.Kind is CoupledKind.AttentionHead or CoupledKind.KeyValueGroup)];
        CoupledGroup[] neurons = [.. model.Blocks.SelectMany(b => b.Groups).Where(g => g.Kind is CoupledKind.Neuron)];
        bool mixed = heads.Any(g => g.Patterns.Count(p => p.Tensor.EndsWith(".weight", StringComparison.Ordinal)) < 4);
        EspalierException.Require(method.ValueRatio == 0 || !mixed, "This architecture stores query, key and value of a head as one, so s2ft cannot train values alone; leave value_ratio at 0.");
        var byName = context.Weights.ToDictionary(w => w.Name, StringComparer.Ordinal);
        Dictionary<(CoupledGroup Group, bool Second), double[]>? scores = method.Selection is S2ftSelection.Random ? null : S2ftScores.Measure(method, context, [.. heads, .. neurons], byName);
        IReadOnlyList<long>[] Pick(CoupledGroup[] groups, double ratio, bool second, string word)
        {
            long[] offsets = [.. groups.Select((_, i) => groups.Take(i).Sum(g => (long)g.Count))];
            long all = groups.Sum(g => (long)g.Count), count = (long)(ratio * all);
            if (count == 0)
            {
                if (ratio > 0)
                {
                    context.Progress.Warn(FormattableString.Invariant($"A share of {ratio} of {all} {word} is less than one, so none is trained."));
                }

                return [.. groups.Select(_ => (IReadOnlyList<long>)[])];
            }

            long[] chosen;
            if (scores is null)
            {
                using var scope = NewDisposeScope();
                using Generator generator = context.Seed.Generator($"s2ft {word}");
                chosen = [.. randperm(all, generator: generator).data<long>().ToArray().Take((int)count).Order()];
            }
            else
            {
                double[] pooled = [.. groups.SelectMany(g => scores[(g, second)])];
                var ranked = Enumerable.Range(0, (int)all).Select(i => (long)i);
                chosen = [.. (method.Largest ? ranked.OrderByDescending(i => pooled[i]) : ranked.OrderBy(i => pooled[i])).Take((int)count).Order()];
            }

            return [.. groups.Select((g, i) => (IReadOnlyList<long>)[.. chosen.Where(c => c >= offsets[i] && c < offsets[i] + g.Count).Select(c => c - offsets[i])])];
        }

        IReadOnlyList<long>[] values = Pick(heads, method.ValueRatio, second: false, "value heads"), outputs = Pick(heads, method.OutputRatio, second: true, "output heads");
        IReadOnlyList<long>[] up = Pick(neurons, method.UpRatio, second: false, "up channels"), down = Pick(neurons, method.DownRatio, second: true, "down channels");
        return [.. heads.Select((g, i) => new S2ftUnits(g, values[i], outputs[i])).Concat(neurons.Select((g, i) => new S2ftUnits(g, up[i], down[i]))).Where(u => u.First.Count + u.Second.Count > 0)];
    }

    /// <summary>The last weight that makes the units: patterns name query, key, value, or gate, up, and the reader last.</summary>
    internal static SlicePattern MakerOf(CoupledGroup group) => group.Patterns.SkipLast(1).Last(p => p.Tensor.EndsWith(".weight", StringComparison.Ordinal));
}
