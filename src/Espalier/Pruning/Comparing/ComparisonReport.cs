using System.Text.Json.Serialization;
using Espalier.Evaluation;

namespace Espalier.Pruning.Comparing;

/// <summary>The names of what is compared, as <c>compare.json</c> spells them.</summary>
public static class Metric
{
    /// <summary>Perplexity of the finished model.</summary>
    public const string Perplexity = "perplexity";

    /// <summary>ln(perplexity / dense perplexity).</summary>
    public const string LogRise = "log rise";

    /// <summary>Tokens per second of a forward pass.</summary>
    public const string TokensPerSecond = "tokens per second";

    /// <summary>How many times as fast as the dense model, in turns with it.</summary>
    public const string SpeedUp = "speed-up";

    /// <summary>Seconds of a run without measuring.</summary>
    public const string Seconds = "seconds";

    /// <summary>The share of the prunable weights that went.</summary>
    public const string Sparsity = "sparsity";

    /// <summary>Parameters of the written model.</summary>
    public const string Parameters = "parameters";

    /// <summary>Parameters that are not zero.</summary>
    public const string Nonzero = "nonzero";

    /// <summary>Bytes on the disk.</summary>
    public const string DiskBytes = "disk bytes";

    /// <summary>Computed bytes of values that are not zero and a bitmap.</summary>
    public const string PackedBytes = "packed bytes (computed)";

    /// <summary>Trained parameters.</summary>
    public const string Trained = "trained";
}

/// <summary>What a comparison found: what <c>compare.json</c> holds and <c>compare.html</c> draws.</summary>
public sealed record ComparisonReport
{
    /// <summary>The model as the user named it.</summary>
    public required string Model { get; init; }

    /// <summary>Where the evaluation windows came from, with a content hash.</summary>
    public required string Evaluation { get; init; }

    /// <summary>The seeds.</summary>
    public required IReadOnlyList<long> Seeds { get; init; }

    /// <summary>The dense model's quality.</summary>
    public required StageQuality Dense { get; init; }

    /// <summary>The plans, the best perplexity first, those without any result last.</summary>
    public required IReadOnlyList<PlanResult> Plans { get; init; }

    /// <summary>The machine and versions.</summary>
    public required IReadOnlyDictionary<string, string> Machine { get; init; }

    /// <summary>The output folder.</summary>
    [JsonIgnore]
    public string Out { get; init; } = "";

    /// <summary>The runs that failed, as sentences.</summary>
    [JsonIgnore]
    public IReadOnlyList<string> Failures =>
        [.. Plans.SelectMany(p => p.Runs.Where(r => r.Failure is not null).GroupBy(r => r.Failure).Select(g => $"{p.Name} failed with seed{(g.Count() == 1 ? "" : "s")} {string.Join(", ", g.Select(r => r.Seed))}: {g.Key}"))];

    internal static ComparisonReport Of(ComparisonRequest request, PruningJob shared, StageQuality dense, Dictionary<string, List<SeedRun>> runs)
    {
        PlanResult[] plans = [.. request.Plans.Select(p => PlanResult.Of(p, request.Seeds[0], runs[p.Name]))
            .OrderBy(p => p.Mean(Metric.Perplexity) ?? double.PositiveInfinity)];
        return new ComparisonReport
        {
            Model = shared.Model,
            Evaluation = shared.Data["evaluation"],
            Seeds = request.Seeds,
            Dense = dense,
            Plans = [plans[0], .. plans.Skip(1).Select(p => p with { AgainstBest = Against(plans[0], p) })],
            Machine = Espalier.Runtime.Machine.Describe(),
            Out = shared.Out,
        };
    }

    /// <summary>The paired difference of log-perplexity over the seeds that both finished.</summary>
    private static AgainstBest? Against(PlanResult best, PlanResult plan)
    {
        (double Plan, double Best)[] pairs = [.. from mine in plan.Runs
                                                 join theirs in best.Runs on mine.Seed equals theirs.Seed
                                                 where mine.Figures is not null && theirs.Figures is not null
                                                 select (mine.Figures!.LogRise, theirs.Figures!.LogRise)];
        if (pairs.Length == 0)
        {
            return null;
        }

        MeanEstimate difference = Significance.PairedDifference([.. pairs.Select(p => p.Plan)], [.. pairs.Select(p => p.Best)]);
        string verdict = !difference.ExcludesZero ? "not distinguishable" : difference.Mean > 0 ? "worse" : "better";
        return new AgainstBest(best.Name, difference.Mean, pairs.Length > 1 ? difference.Low : null, pairs.Length > 1 ? difference.High : null, pairs.Length, verdict);
    }
}

/// <summary>One plan over the seeds.</summary>
/// <param name="Name">What it is called.</param>
/// <param name="Plan">The plan, part by part.</param>
/// <param name="PlanYaml">The plan as YAML, with the first seed.</param>
/// <param name="Runs">Seed by seed.</param>
/// <param name="Metrics">Each figure over the seeds that finished.</param>
public sealed record PlanResult(string Name, IReadOnlyDictionary<string, string> Plan, string PlanYaml, IReadOnlyList<SeedRun> Runs, IReadOnlyDictionary<string, MetricSummary> Metrics)
{
    /// <summary>The difference to the best plan; null for the best and where no seed was finished by both.</summary>
    public AgainstBest? AgainstBest { get; init; }

    /// <summary>The mean of a metric; null where there is none.</summary>
    public double? Mean(string metric) => Metrics.GetValueOrDefault(metric)?.Mean;

    internal static PlanResult Of(NamedPlan plan, long seed, IReadOnlyList<SeedRun> runs)
    {
        PlanFigures[] finished = [.. runs.Select(r => r.Figures).OfType<PlanFigures>()];
        var metrics = new Dictionary<string, MetricSummary>();
        Add(Metric.Perplexity, f => f.Perplexity);
        Add(Metric.LogRise, f => f.LogRise);
        Add(Metric.Sparsity, f => f.Sparsity);
        Add(Metric.Parameters, f => f.Parameters);
        Add(Metric.Nonzero, f => f.Nonzero);
        Add(Metric.DiskBytes, f => f.DiskBytes);
        Add(Metric.PackedBytes, f => f.PackedBytes);
        Add(Metric.Trained, f => f.Trained);
        Add(Metric.Seconds, f => f.Seconds);
        Add(Metric.TokensPerSecond, f => f.Speed?.CutTokensPerSecond);
        Add(Metric.SpeedUp, f => f.Speed?.Gain);
        PruneRequest request = plan.Request with { Seed = seed, Out = $"./{plan.FolderName}" };
        return new PlanResult(plan.Name, request.ToPlan().Describe().Where(p => p.Part != "seed").ToDictionary(p => p.Part, p => p.Value), request.ToYaml(), runs, metrics);

        void Add(string name, Func<PlanFigures, double?> of)
        {
            double[] values = [.. finished.Select(of).OfType<double>()];
            if (values.Length > 0)
            {
                metrics[name] = MetricSummary.Of(values);
            }
        }
    }
}

/// <summary>One plan with one seed.</summary>
/// <param name="Seed">The seed.</param>
/// <param name="Folder">Where its report lies, within the output folder.</param>
/// <param name="Figures">What was measured; null where it failed.</param>
/// <param name="Failure">Why it failed; null where it did not.</param>
public sealed record SeedRun(long Seed, string Folder, PlanFigures? Figures, string? Failure);

/// <summary>A plan against the best one, seed by seed.</summary>
/// <param name="Best">The best plan.</param>
/// <param name="Difference">The mean over seeds of ln(perplexity / the best's perplexity).</param>
/// <param name="Low">The lower end of its 95 % interval; null for one seed.</param>
/// <param name="High">The upper end.</param>
/// <param name="Seeds">Seeds that both finished.</param>
/// <param name="Verdict">worse, better, or not distinguishable where the interval holds 0.</param>
public sealed record AgainstBest(string Best, double Difference, double? Low, double? High, int Seeds, string Verdict);
