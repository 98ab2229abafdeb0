using Espalier.Models.Vision;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>One training with the group envelope: the proximal map after every optimiser step.</summary>
public sealed class WgsefRun : ISparseTrainingRun
{
    private readonly Wgsef _method;
    private readonly TrainingWork _work;
    private readonly (ParameterGrouping Grouping, double[] Costs, double Budget)[] _parts;

    /// <summary>Takes hold of a net's groups.</summary>
    /// <param name="method">The options.</param>
    /// <param name="weights">The weights.</param>
    /// <param name="net">The vision net; null for a language model.</param>
    public WgsefRun(Wgsef method, IReadOnlyList<NetWeight> weights, VisionModel? net)
    {
        _method = method;
        _work = new TrainingWork(weights);
        _parts = [.. method.Regularised(weights, net).Select(g => (g, method.Costs(g), method.Budget(method.Costs(g))))];
    }

    /// <inheritdoc/>
    public string Name => "wgsef";

    /// <inheritdoc/>
    public string Description => $"{_method}";

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, Tensor>? Masks => null;

    /// <inheritdoc/>
    public double TrainingShare => _work.Share;

    /// <inheritdoc/>
    public void AfterStep(TrainingStep step)
    {
        _work.Step();
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

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> SaveState() => [_work.Save()];

    /// <inheritdoc/>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state) => _work.Load(state);

    /// <inheritdoc/>
    public void Finish() => Project();

    /// <summary>Step 7: zeroes all groups but those of largest norm that the budget holds; among equal norms the lower index stays.</summary>
    /// <returns>How many groups were zeroed that were not zero already.</returns>
    public int Project()
    {
        int zeroed = 0;
        foreach ((ParameterGrouping grouping, double[] costs, double budget) in _parts)
        {
            double[] norms = grouping.Norms(), factors = new double[norms.Length];
            double left = budget + 1e-9;
            foreach (int j in Enumerable.Range(0, norms.Length).OrderByDescending(j => norms[j]).TakeWhile(j => (left -= costs[j]) >= 0))
            {
                factors[j] = 1;
            }

            zeroed += norms.Where((a, j) => a > 0 && factors[j] == 0).Count();
            grouping.Multiply(factors);
        }

        return zeroed;
    }

    /// <summary>How many groups live, and what share of the summed norms lies outside the largest groups, as many as the budget holds at cost 1.</summary>
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
