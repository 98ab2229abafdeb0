using Espalier.Catalogue;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What a group costs of the budget.</summary>
public enum GroupCost
{
    /// <summary>Every group the same: the budget counts groups.</summary>
    One,

    /// <summary>Its weights over the mean of all groups: the budget counts weights.</summary>
    Size,
}

/// <summary>
/// Group envelope regularisation: after every optimiser step a proximal map shrinks the groups of a layer so that about k of them live and the rest become
/// exactly zero, where they can be cut out of the net. Pick it when the number of filters that may stay is known before training.
/// </summary>
/// <remarks>
/// No official code was found; the card's equations, derived from the abstract and the theory of Beck and Refael's sparse envelope, decide. The map contains a weight decay of strength λ on
/// the kept part, so grouped weights need no other. The momentum buffer is not touched by it.
/// </remarks>
[Method("wgsef", "Learning k-Level Structured Sparse Neural Networks Using Group Envelope Regularization",
    Family = "Pruning",
    Source = "Refael, Arbel, Huleihel, arXiv 2212.12921",
    Summary = "Trains with a proximal map that lets about k filters, channels, shapes, layers or weights live and cuts the rest: the number is given, no search for a penalty.",
    Fits = "sparse training; any optimiser and schedule; groups of any shape; a vision net is cut at the end")]
public sealed partial record Wgsef : ICuttingTraining
{
    /// <summary>The share of the groups that stay, of each regulariser's whole cost. Default 0.3.</summary>
    public double Keep
    {
        get;
        init
        {
            EspalierException.Require(value is > 0 and <= 1, FormattableString.Invariant($"wgsef.keep is {value}; it is the share of groups that stay, above 0 and at most 1."));
            field = value;
        }
    } = 0.3;

    /// <summary>λ: the strength of the regulariser; the proximal map's multiplier is learning rate · λ. Default 0.1.</summary>
    public double Lambda
    {
        get;
        init
        {
            EspalierException.Require(value > 0 && double.IsFinite(value), FormattableString.Invariant($"wgsef.lambda is {value}; it is the strength of the regulariser, above 0."));
            field = value;
        }
    } = 0.1;

    /// <summary>The first share of the steps, over which λ rises from 0. Default a third; 0 is full strength from the start.</summary>
    public double Rise
    {
        get;
        init
        {
            EspalierException.Require(value is >= 0 and <= 1, FormattableString.Invariant($"wgsef.rise is {value}; it is a share of the steps, from 0 to 1."));
            field = value;
        }
    } = 1.0 / 3;

    /// <summary>What a group is. Default <see cref="WeightGroup.Filter"/>.</summary>
    public WeightGroup Groups { get; init; } = WeightGroup.Filter;

    /// <summary>What a group costs. Default <see cref="GroupCost.One"/>.</summary>
    public GroupCost Cost { get; init; } = GroupCost.One;

    /// <summary>One regulariser for the whole net, so that layers share the budget, instead of one per layer. Default false.</summary>
    public bool WholeNet { get; init; }

    /// <summary>Step 4: the proximal map of λ·GS_k.</summary>
    /// <param name="values">θ, any shape.</param>
    /// <param name="group">The group of each entry in memory order, int64, 0 … m−1.</param>
    /// <param name="costs">d [m].</param>
    /// <param name="budget">k in units of the costs.</param>
    /// <param name="lambda">The whole multiplier, ηλ in training.</param>
    /// <returns>The shrunk values as a new tensor, and u [m].</returns>
    public static (Tensor Values, double[] Shares) Prox(Tensor values, Tensor group, double[] costs, double budget, double lambda)
    {
        using var scope = NewDisposeScope();
        double[] shares = GroupEnvelope.Shares(GroupEnvelope.Norms(values, group, costs.Length), costs, budget, lambda);
        Tensor factors = tensor(GroupEnvelope.Factors(shares, lambda)).to(values.dtype).to(values.device);
        return ((values * factors.index_select(0, group.flatten()).view(values.shape)).MoveToOuterDisposeScope(), shares);
    }

    /// <inheritdoc/>
    public void Check(IReadOnlyList<NetWeight> weights, int steps) =>
        EspalierException.Require(weights.Count > 0, "wgsef found no weight to make sparse; the net has no linear maps or convolutions.");

    /// <inheritdoc/>
    public ISparseTrainingRun Begin(SparseTrainingContext context)
    {
        Check(context.Weights, context.Steps);
        return new WgsefRun(this, context.Weights, context.Net);
    }

    /// <summary>The regularisers of a net, one for each layer or one of all; the caller disposes them.</summary>
    /// <param name="weights">The weights of the net.</param>
    /// <param name="net">The vision net; null for a language model.</param>
    public IReadOnlyList<ParameterGrouping> Regularised(IReadOnlyList<NetWeight> weights, VisionModel? net)
    {
        IReadOnlyList<ParameterGrouping> parts = ParameterGrouping.Of(weights, net, Groups);
        EspalierException.Require(parts.Count > 0, "wgsef finds no channel or neuron that could be cut out of this net; take groups: shape or weight.");
        return WholeNet && parts.Count > 1 ? [ParameterGrouping.Joined("the whole net", parts)] : parts;
    }

    /// <summary>λ at a step (from 0) of a run.</summary>
    public double LambdaAt(long step, int steps) => Rise == 0 ? Lambda : Lambda * Math.Min(1, (step + 1) / Math.Max(1, Rise * steps));

    /// <summary>k of a regulariser, in units of its costs; at least the cheapest group's.</summary>
    public double Budget(IReadOnlyList<double> costs) => Math.Max(costs.Min(), Keep * costs.Sum());

    /// <summary>The costs of a regulariser's groups, 1 in the mean.</summary>
    public double[] Costs(ParameterGrouping grouping) =>
        Cost is GroupCost.One ? Equal(grouping.Count) : [.. grouping.Sizes.Select(s => s / grouping.Sizes.Average())];

    /// <summary>Step 7: zeroes all groups of a vision net but those of largest norm that the budget holds.</summary>
    /// <param name="model">The trained net.</param>
    /// <returns>How many groups were zeroed that were not zero already.</returns>
    public int Project(VisionModel model)
    {
        using var run = new WgsefRun(this, NetWeight.Of(model), model);
        return run.Project();
    }

    /// <summary>
    /// The smaller net without the units of which all that writes them, or all that reads them, is zero. It computes the same as this one; of a layer that
    /// is wholly zero one unit stays.
    /// </summary>
    /// <param name="model">The trained net.</param>
    public VisionModel Shrink(VisionModel model)
    {
        IReadOnlyList<ParameterGrouping> writers = ParameterGrouping.Of(model, WeightGroup.Filter), readers = ParameterGrouping.Of(model, WeightGroup.Channel);
        // A shortcut without weights reads a channel although no map does, and fills one that no map writes.
        PadShortcutLayer[] shortcuts = [.. model.Layers.OfType<PadShortcutLayer>()];
        var remove = new Dictionary<string, IReadOnlyCollection<int>>();
        var silent = new Dictionary<string, HashSet<int>>(StringComparer.Ordinal);
        foreach ((ParameterGrouping written, ParameterGrouping read) in writers.Zip(readers))
        {
            (double[] makes, double[] reads) = (written.Norms(), read.Norms());
            bool carried = shortcuts.Any(s => OwnerOf(s.Inputs[0]) == written.Name);
            silent[written.Name] = [.. Enumerable.Range(0, written.Count).Where(j => makes[j] == 0 && shortcuts.Where(s => OwnerOf(s) == written.Name)
                .All(s => s.Map[j] < 0 || (silent.TryGetValue(OwnerOf(s.Inputs[0]) ?? "", out HashSet<int>? source) && source.Contains(s.Map[j]))))];
            int[] dead = [.. Enumerable.Range(0, written.Count).Where(j => silent[written.Name].Contains(j) || (reads[j] == 0 && !carried))];
            remove[written.Name] = dead.Length == written.Count ? dead[1..] : dead;
            written.Dispose();
            read.Dispose();
        }

        return model.Cut(remove);
    }

    private static string? OwnerOf(VisionLayer layer) => layer.Channels.Root.Group?.Owner;

    private static double[] Equal(int count) => [.. Enumerable.Repeat(1.0, count)];

    // The index along an axis of every entry, in memory order.
    private static Tensor AlongAxis(long[] shape, int axis)
    {
        long[] view = [.. shape.Select((s, i) => i == axis ? s : 1)];
        return arange(shape[axis], ScalarType.Int64).view(view).expand(shape).flatten();
    }
}
