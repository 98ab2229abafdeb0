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
    Fits = "training of vision nets from any start; any optimiser; groups of any shape; the net is cut at the end")]
public sealed partial class Wgsef
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

    /// <summary>The regularisers of a net, one for each layer or one of all; the caller disposes them.</summary>
    public IReadOnlyList<ParameterGrouping> Regularised(VisionModel model)
    {
        IReadOnlyList<ParameterGrouping> parts = ParameterGrouping.Of(model, Groups);
        EspalierException.Require(parts.Count > 0, "wgsef finds no channel or neuron that could be cut out of this net; take groups: shape or weight.");
        return WholeNet && parts.Count > 1 ? [ParameterGrouping.Joined("the whole net", parts)] : parts;
    }

    /// <summary>What makes the training loop apply the proximal map after every step; the caller disposes it when the training has ended.</summary>
    /// <param name="model">The net that is trained.</param>
    public WgsefHook Hook(VisionModel model) => new(this, Regularised(model));

    /// <summary>λ at a step (from 0) of a run.</summary>
    public double LambdaAt(long step, int steps) => Rise == 0 ? Lambda : Lambda * Math.Min(1, (step + 1) / Math.Max(1, Rise * steps));

    /// <summary>k of a regulariser, in units of its costs; at least the cheapest group's.</summary>
    public double Budget(IReadOnlyList<double> costs) => Math.Max(costs.Min(), Keep * costs.Sum());

    /// <summary>The costs of a regulariser's groups, 1 in the mean.</summary>
    public double[] Costs(ParameterGrouping grouping) =>
        Cost is GroupCost.One ? Equal(grouping.Count) : [.. grouping.Sizes.Select(s => s / grouping.Sizes.Average())];

    /// <summary>Step 7: zeroes all groups but those of largest norm that the budget holds.</summary>
    /// <param name="model">The trained net.</param>
    /// <returns>How many groups were zeroed that were not zero already.</returns>
    public int Project(VisionModel model)
    {
        int zeroed = 0;
        foreach (ParameterGrouping grouping in Regularised(model))
        {
            using ParameterGrouping disposed = grouping;
            double[] norms = grouping.Norms(), costs = Costs(grouping);
            double left = Budget(costs) + 1e-9;
            var factors = new double[norms.Length];
            foreach (int j in Enumerable.Range(0, norms.Length).OrderByDescending(j => norms[j]))
            {
                if (costs[j] > left)
                {
                    break;
                }

                (factors[j], left) = (1, left - costs[j]);
            }

            zeroed += norms.Where((a, j) => a > 0 && factors[j] == 0).Count();
            grouping.Multiply(factors);
        }

        return zeroed;
    }

    /// <summary>
    /// The smaller net without the units of which all that writes them, or all that reads them, is zero. It computes the same as this one; of a layer that
    /// is wholly zero one unit stays.
    /// </summary>
    /// <param name="model">The trained net.</param>
    public static VisionModel Shrink(VisionModel model)
    {
        IReadOnlyList<ParameterGrouping> writers = ParameterGrouping.Of(model, WeightGroup.Filter), readers = ParameterGrouping.Of(model, WeightGroup.Channel);
        var remove = new Dictionary<string, IReadOnlyCollection<int>>();
        foreach ((ParameterGrouping written, ParameterGrouping read) in writers.Zip(readers))
        {
            (double[] out1, double[] in1) = (written.Norms(), read.Norms());
            int[] dead = [.. Enumerable.Range(0, written.Count).Where(j => out1[j] == 0 || in1[j] == 0)];
            remove[written.Name] = dead.Length == written.Count ? dead[1..] : dead;
            written.Dispose();
            read.Dispose();
        }

        return model.Cut(remove);
    }

    private static double[] Equal(int count) => [.. Enumerable.Repeat(1.0, count)];

    // The index along an axis of every entry, in memory order.
    private static Tensor AlongAxis(long[] shape, int axis)
    {
        long[] view = [.. shape.Select((s, i) => i == axis ? s : 1)];
        return arange(shape[axis], ScalarType.Int64).view(view).expand(shape).flatten();
    }
}

/// <summary>The proximal map after every optimiser step.</summary>
public sealed class WgsefHook : ITrainingHook, IDisposable
{
    private readonly Wgsef _method;
    private readonly (ParameterGrouping Grouping, double[] Costs, double Budget)[] _parts;

    internal WgsefHook(Wgsef method, IReadOnlyList<ParameterGrouping> groupings)
    {
        _method = method;
        _parts = [.. groupings.Select(g => (g, method.Costs(g), method.Budget(method.Costs(g))))];
    }

    /// <inheritdoc/>
    public string Name => FormattableString.Invariant($"wgsef {_method.Groups} keep {_method.Keep} lambda {_method.Lambda} rise {_method.Rise} {_method.Cost} {_method.WholeNet}");

    /// <inheritdoc/>
    public void AfterStep(TrainingStep step)
    {
        double lambda = step.LearningRate * _method.LambdaAt(step.Index, step.Loop.Options.Steps);
        if (lambda == 0)
        {
            return;
        }

        foreach ((ParameterGrouping grouping, double[] costs, double budget) in _parts)
        {
            grouping.Multiply(GroupEnvelope.Factors(GroupEnvelope.Shares(grouping.Norms(), costs, budget, lambda), lambda));
        }
    }

    /// <summary>How many groups live, and what share of the squared norm lies outside the largest groups that the budget holds.</summary>
    /// <param name="above">A group lives when its norm is above this share of the largest of its regulariser; 0 counts all that are not exactly zero.</param>
    public (int Alive, int Groups, double NormOutside) Measure(double above = 0)
    {
        (int alive, int groups, double outside, double all) = (0, 0, 0, 0);
        foreach ((ParameterGrouping grouping, _, double budget) in _parts)
        {
            double[] norms = grouping.Norms();
            double largest = norms.Max();
            alive += norms.Count(a => a > above * largest);
            groups += norms.Length;
            outside += norms.OrderDescending().Skip((int)(budget + 1e-9)).Sum();
            all += norms.Sum();
        }

        return (alive, groups, all == 0 ? 0 : outside / all);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((ParameterGrouping grouping, _, _) in _parts)
        {
            grouping.Dispose();
        }
    }
}
