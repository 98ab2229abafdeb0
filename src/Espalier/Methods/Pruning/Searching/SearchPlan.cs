using System.Globalization;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Pruning.Comparing;
using Espalier.Runtime;
using Espalier.Sparsity;

namespace Espalier.Methods.Pruning.Searching;

/// <summary>One architecture that a search tries.</summary>
/// <param name="Name">As in "L4 H6 F256 E144": layers, query heads, neurons, channels.</param>
/// <param name="Size">Its sizes and parameters.</param>
/// <param name="KeyValueHeads">Its key-value heads per block.</param>
/// <param name="Light">Its plan with light retraining.</param>
/// <param name="Full">Its plan with the full one.</param>
public sealed record SearchedArchitecture(string Name, MinitronCandidate Size, int KeyValueHeads, NamedPlan Light, NamedPlan Full);

/// <summary>Step 6 as far as it is known before any work: which architectures fit.</summary>
/// <param name="Parameters">The model's own parameters.</param>
/// <param name="Target">Those wanted.</param>
/// <param name="Fitting">How many architectures are near enough.</param>
/// <param name="Candidates">Those that are tried, by layers, heads, neurons and channels in the order listed.</param>
public sealed record SearchPlan(long Parameters, long Target, int Fitting, IReadOnlyList<SearchedArchitecture> Candidates)
{
    /// <summary>Lists the candidates.</summary>
    /// <param name="request">What is searched.</param>
    /// <param name="config">The model.</param>
    /// <exception cref="EspalierException">For sizes that the model cannot be cut to, parts that do not go together, and where no architecture is near enough.</exception>
    public static SearchPlan Make(SearchRequest request, ModelConfig config)
    {
        SearchSection search = request.Search;
        long own = Architecture.For(config).ParameterCount(config), target = Text.ParseCount(search.Parameters);
        EspalierException.Require(target < own, $"The model has {Text.Count(own)} parameters, and a search makes it smaller, so {Text.Count(target)} cannot be reached; ask for fewer.");
        EspalierException.Require(config.BlockShapes is null, "The blocks of this model differ in width already; a search chooses sizes that all blocks have, so take the model that it was cut from.");
        EspalierException.Require(request.Data.Evaluation is not null, "A search chooses by perplexity, but no evaluation text was named; name one with --evaluation (or `evaluation:` under `data:`).");
        var axes = new SearchAxes(search, config, Ranked(request));
        MinitronCandidate[] fitting = [.. Minitron.Candidates(axes.All(), target, search.Tolerance)];
        return new SearchPlan(own, target, fitting.Length, [.. Spread(fitting, search.Candidates, target).Select(c => Named(request, axes, c))]);
    }

    /// <summary>As in "23 architectures have 1,500,000 parameters within 5 % …".</summary>
    public string Sentence(double tolerance) => string.Create(CultureInfo.InvariantCulture,
        $"{Fitting} {(Fitting == 1 ? "architecture has" : "architectures have")} {Text.Count(Target)} parameters within {100 * tolerance:0.##} % (the model has {Text.Count(Parameters)}){(Candidates.Count < Fitting ? $"; {Candidates.Count} of them are tried" : "")}.");

    // Evenly over the list, from the first to the last: the nearest to the target would often be of one width.
    private static IEnumerable<MinitronCandidate> Spread(MinitronCandidate[] fitting, int most, long target) =>
        fitting.Length <= most ? fitting
        : most == 1 ? [fitting.MinBy(c => Math.Abs(c.Parameters - target))]
        : Enumerable.Range(0, most).Select(i => fitting[(int)((long)i * (fitting.Length - 1) / (most - 1))]);

    // What the criterion can rank; also refuses a plan without retraining, or one that is shorter than the light one.
    private static Units Ranked(SearchRequest request)
    {
        PruningPlan any = request.PlanOf("any", new Dictionary<string, int> { ["neurons"] = 1 }, light: false).ToPlan();
        EspalierException.Require(any.Retraining is not null, "A search retrains its candidates, so a retraining is needed; leave `retrain` out for distillation from the model, or name another.");
        EspalierException.Require(any.Retraining.Steps >= request.Search.LightSteps,
            $"The chosen model would be retrained for {any.Retraining.Steps} steps, fewer than the {request.Search.LightSteps} of light retraining; give more --steps or fewer --light-steps.");
        return ((IUnitCriterion)any.Criterion).Ranks;
    }

    private static SearchedArchitecture Named(SearchRequest request, SearchAxes axes, MinitronCandidate c)
    {
        string name = string.Create(CultureInfo.InvariantCulture, $"L{c.Layers} H{c.Heads} F{c.FeedForward} E{c.Embedding}");
        IReadOnlyDictionary<string, int> sizes = axes.Cuts(c);
        PruneRequest light = request.PlanOf(name, sizes, light: true);
        light.ToPlan();
        return new SearchedArchitecture(name, c, axes.KeyValueHeads(c), new NamedPlan(name, light), new NamedPlan(name, request.PlanOf(name, sizes, light: false)));
    }
}
