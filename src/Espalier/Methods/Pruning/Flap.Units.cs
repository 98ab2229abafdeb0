using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>FLAP as parts of a plan: the criterion of heads and neurons, the allocator of their numbers, the repair by a bias.</summary>
public sealed partial class Flap : IUnitCriterion, IUnitAllocator, IUnitBiasRepair
{
    /// <inheritdoc/>
    public Units Ranks => Units.Heads | Units.Neurons;

    /// <inheritdoc/>
    public bool ReadsActivations => true;

    /// <inheritdoc/>
    public IUnitWatch Watch(long width, Device device) => new FlapAccumulator(width, device);

    /// <summary>Steps 1 and 2: the metric of every input of the reader, squared for attentions.</summary>
    public Tensor Score(UnitContext place) =>
        Metric(((FlapAccumulator)place.Seen!).Figures(), place.Weight!, Ranking, place.Kind is not CoupledKind.Neuron, place.Name);

    /// <summary>Whether the structure lets layers differ: <c>al-am</c> and <c>al-mm</c> do.</summary>
    public bool IsUneven => Structure is FlapStructure.AlAm or FlapStructure.AlMm;

    /// <inheritdoc/>
    public bool NeedsScores => true;

    /// <summary>
    /// Step 3 on the groups of a plan. A head weighs floor(its parameters / a neuron's), which for a gated feed-forward part
    /// without biases is the published floor(4·head_dim/3).
    /// </summary>
    public IReadOnlyList<double> Keep(IReadOnlyList<UnitGroup> groups, double remove)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        UnitGroup[] attention = [.. groups.Where(g => g.Kind is not CoupledKind.Neuron)], mlp = [.. groups.Where(g => g.Kind is CoupledKind.Neuron)];
        double ratio = remove / groups.Sum(g => (double)g.Total);
        EspalierException.Require(Structure is FlapStructure.AlAm or FlapStructure.UlUm || (attention.Length > 0 && mlp.Length > 0 && RemoveHeads >= 0),
            "FLAP's structures al-mm and ul-mm need heads and neurons to be cut, and the number of heads in remove_heads.");
        Tensor heads = Ranked(attention, IsUneven, joined: true), neurons = Ranked(mlp, IsUneven, joined: false);
        (Tensor keepHeads, Tensor keepNeurons) = Structure switch
        {
            FlapStructure.AlAm => OneRanking(heads, neurons, attention.Length > 0 && mlp.Length > 0 ? attention[0].Parameters / mlp[0].Parameters : 1, ratio),
            FlapStructure.UlUm => (AtShare(heads, ratio), AtShare(neurons, ratio)),
            FlapStructure.AlMm => (Above(heads, Budget(RemoveHeads, heads.numel(), "heads")), Above(neurons, Budget(Rest(RemoveHeads, remove), neurons.numel(), "neurons"))),
            _ => (AtLeast(heads, RemoveHeads / attention.Length), AtLeast(neurons, Rest(RemoveHeads / attention.Length, remove / mlp.Length))),
        };
        long[] ofHeads = Counts(keepHeads), ofNeurons = Counts(keepNeurons);
        return [.. groups.Select(g => g.Kind is CoupledKind.Neuron
            ? (double)Math.Max(ofNeurons[Array.IndexOf(mlp, g)], Math.Min(MinimumNeurons, g.Count))
            : Math.Max(ofHeads[Array.IndexOf(attention, g)], Math.Min(MinimumHeads, g.Count)))];

        // What the neurons have to give beside so many heads.
        long Rest(long removedHeads, double budget)
        {
            double left = budget - (removedHeads * attention[0].Parameters);
            EspalierException.Require(left >= 0, $"Removing {removedHeads} heads alone exceeds the share asked for; remove fewer heads or raise the sparsity.");
            return (long)Math.Floor(left / mlp[0].Parameters);
        }
    }

    /// <summary>Step 4 for any change of weights: b = (W − W′)·mean, in float64.</summary>
    public Tensor Bias(Tensor dense, Tensor pruned, Tensor mean)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        return (dense.detach().to(ScalarType.Float64) - pruned.to(ScalarType.Float64)).mv(mean.to(ScalarType.Float64)).to(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    CalibrationNeeds IRepair.Needs => CalibrationNeeds.InputMoments;

    /// <summary>The bias compensation for a mask: no weight changes, the map's bias takes over what removed weights add on average.</summary>
    public PrunedLayer Repair(LayerContext layer, PrunedLayer pruned, Pattern pattern)
    {
        EspalierException.Require(layer.InputMean is not null, $"FLAP's bias needs the input means of {layer.Name}; give the plan calibration text.");
        return pruned with { BiasChange = Bias(layer.Weight, pruned.Weight, layer.InputMean) };
    }

    // [L, units]: standardised per layer where layers compete, heads joined from their columns.
    private static Tensor Ranked(UnitGroup[] groups, bool standardise, bool joined)
    {
        if (groups.Length == 0)
        {
            return zeros(0, 0, ScalarType.Float64);
        }

        EspalierException.Require(groups.All(g => g.Count == groups[0].Count && g.Channels!.numel() == groups[0].Channels!.numel()),
            "FLAP's search compares layers of equal widths, and this model's blocks differ already; use the allocator global.");
        Tensor metric = stack([.. groups.Select(g => g.Channels!)]).to(ScalarType.Float64);
        metric = standardise ? Standardise(metric) : metric;
        Tensor columns = metric.reshape(groups.Length, groups[0].Count, -1);
        return joined && standardise ? columns.mean([2]) : columns.sum([2]);
    }

    private static Tensor AtShare(Tensor score, double ratio) =>
        score.numel() == 0 ? score.to(ScalarType.Bool) : AtLeast(score, (long)Math.Floor(ratio * score.shape[1]));

    private static long[] Counts(Tensor keep) => keep.numel() == 0 ? [] : keep.sum([1L]).data<long>().ToArray();
}
