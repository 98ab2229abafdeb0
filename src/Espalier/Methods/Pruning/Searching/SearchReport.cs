using System.Text.Json.Serialization;
using Espalier.Evaluation;
using Espalier.Pruning;
using Espalier.Pruning.Comparing;

namespace Espalier.Methods.Pruning.Searching;

/// <summary>One candidate and what came of it; without figures where it failed.</summary>
/// <param name="Name">As in "L4 H6 F256 E144".</param>
/// <param name="Layers">Its layers.</param>
/// <param name="Heads">Query heads of every block.</param>
/// <param name="KeyValueHeads">Key-value heads of every block.</param>
/// <param name="Neurons">The width of its feed-forward parts.</param>
/// <param name="Hidden">Its width.</param>
/// <param name="Parameters">All its parameters.</param>
/// <param name="Folder">Where its report lies, within the output folder.</param>
/// <param name="Figures">What was measured after light retraining; null where it failed.</param>
/// <param name="Failure">Why it failed; null where it did not.</param>
public sealed record SearchedCandidate(string Name, int Layers, int Heads, int KeyValueHeads, int Neurons, int Hidden, long Parameters, string Folder, PlanFigures? Figures, string? Failure)
{
    /// <summary>Its place by perplexity as it was cut, from 1; null where it failed.</summary>
    public int? RankBefore { get; init; }

    /// <summary>Its place after light retraining, from 1.</summary>
    public int? Rank { get; init; }
}

/// <summary>What a search found: what <c>search.json</c> holds and <c>search.html</c> draws.</summary>
public sealed record SearchReport
{
    /// <summary>The model as the user named it.</summary>
    public required string Model { get; init; }

    /// <summary>Where the evaluation windows came from, with a content hash.</summary>
    public required string Evaluation { get; init; }

    /// <summary>The seed.</summary>
    public required long Seed { get; init; }

    /// <summary>The model's own parameters.</summary>
    public required long Parameters { get; init; }

    /// <summary>The parameters wanted.</summary>
    public required long Target { get; init; }

    /// <summary>How far from them a candidate may be, as a share.</summary>
    public required double Tolerance { get; init; }

    /// <summary>How many architectures are near enough; more than the candidates where not all were tried.</summary>
    public required int Fitting { get; init; }

    /// <summary>The dense model's quality.</summary>
    public required StageQuality Dense { get; init; }

    /// <summary>Retraining steps of every candidate.</summary>
    public required int LightSteps { get; init; }

    /// <summary>Retraining steps of the chosen one.</summary>
    public required int Steps { get; init; }

    /// <summary>The candidates, the best after light retraining first, those that failed last.</summary>
    public required IReadOnlyList<SearchedCandidate> Candidates { get; init; }

    /// <summary>Spearman's correlation of the perplexities before and after light retraining: 1 where no rank changed; null for fewer than three candidates.</summary>
    public double? RankCorrelation { get; init; }

    /// <summary>The chosen architecture after the full retraining.</summary>
    public required PlanFigures Chosen { get; init; }

    /// <summary>The machine and versions.</summary>
    public required IReadOnlyDictionary<string, string> Machine { get; init; }

    /// <summary>The output folder.</summary>
    [JsonIgnore]
    public string Out { get; init; } = "";

    /// <summary>The candidate that was chosen.</summary>
    [JsonIgnore]
    public SearchedCandidate Best => Candidates[0];

    /// <summary>The candidates that failed, as sentences.</summary>
    [JsonIgnore]
    public IReadOnlyList<string> Failures => [.. Candidates.Where(c => c.Failure is not null).Select(c => $"{c.Name} failed: {c.Failure}")];

    internal static SearchReport Of(SearchRequest request, SearchPlan plan, ComparisonReport compared, PlanFigures chosen)
    {
        SearchedCandidate[] all = [.. compared.Plans.Select(p => Candidate(plan.Candidates.Single(c => c.Name == p.Name), p.Runs[0]))];
        SearchedCandidate[] finished = [.. all.Where(c => c.Figures is not null)];
        double[] before = [.. finished.Select(c => c.Figures!.BeforeRetraining!.Value)], after = [.. finished.Select(c => c.Figures!.Perplexity)];
        return new SearchReport
        {
            Model = compared.Model,
            Evaluation = compared.Evaluation,
            Seed = request.Seed,
            Parameters = plan.Parameters,
            Target = plan.Target,
            Tolerance = request.Search.Tolerance,
            Fitting = plan.Fitting,
            Dense = compared.Dense,
            LightSteps = request.Search.LightSteps,
            Steps = plan.Candidates[0].Full.Request.ToPlan().Retraining!.Steps,
            Candidates = [.. all.Select(c => c.Figures is not { } f ? c : c with { RankBefore = 1 + before.Count(p => p < f.BeforeRetraining), Rank = 1 + after.Count(p => p < f.Perplexity) })],
            RankCorrelation = before.Distinct().Count() > 2 && after.Distinct().Count() > 2 ? Correlation.Spearman(before, after) : null,
            Chosen = chosen,
            Machine = compared.Machine,
            Out = Path.GetFullPath(request.Out),
        };
    }

    private static SearchedCandidate Candidate(SearchedArchitecture of, SeedRun run) => new(
        of.Name, (int)of.Size.Layers, (int)of.Size.Heads, of.KeyValueHeads, (int)of.Size.FeedForward, (int)of.Size.Embedding, of.Size.Parameters,
        Path.Combine(ArchitectureSearch.Folder, run.Folder), run.Figures, run.Failure);
}
