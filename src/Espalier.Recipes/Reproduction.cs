using System.Diagnostics;
using System.Reflection;
using System.Text.Json;
using System.Text.Json.Serialization;
using Espalier.Checkpoints;
using Espalier.Evaluation;
using Espalier.Reporting;
using Espalier.Runtime;

namespace Espalier.Recipes;

/// <summary>Runs a recipe over several seeds and states the verdict. A finished seed is durable: the same command continues.</summary>
public static class Reproduction
{
    /// <summary>The recipes there are, by slug.</summary>
    public static IReadOnlyDictionary<string, Type> All { get; } = typeof(Recipe).Assembly.GetTypes()
        .Where(t => !t.IsAbstract && t.IsSubclassOf(typeof(Recipe)))
        .ToDictionary(t => t.GetCustomAttribute<ReproducesAttribute>()!.Slug, StringComparer.OrdinalIgnoreCase);

    /// <summary>The recipe of a system.</summary>
    /// <exception cref="EspalierException">When there is none.</exception>
    public static Recipe For(string slug) => All.TryGetValue(slug, out Type? type)
        ? (Recipe)Activator.CreateInstance(type)!
        : throw new EspalierException($"There is no reproduction of '{slug}'; there are: {string.Join(", ", All.Keys.Order(StringComparer.Ordinal))}.");

    /// <summary>Runs the arms of a recipe with every seed that has not been run before, then judges and writes the report.</summary>
    /// <param name="slug">The system.</param>
    /// <param name="context">Size, device, progress.</param>
    /// <param name="seeds">The seeds; only the first where a recipe depends on none.</param>
    /// <param name="folder">Where <c>seed-N.json</c>, <c>report.json</c> and <c>report.html</c> go.</param>
    public static ReproductionReport Run(string slug, RecipeContext context, IReadOnlyList<long> seeds, string folder)
    {
        Recipe recipe = For(slug);
        Directory.CreateDirectory(folder);
        string setting = $"{context.Size}: {string.Join(" | ", recipe.Experiments.Select(e => $"{e.Name}: {e.About}"))} Code {Code}.";
        var measured = new Dictionary<long, IReadOnlyList<Measurement>>();
        var seconds = new List<double>();
        if (!recipe.DependsOnSeed && seeds.Count > 1)
        {
            context.Progress.Say($"Nothing in this depends on the seed: it is run once, with seed {seeds[0]}.");
        }

        IReadOnlyList<long> wanted = recipe.DependsOnSeed ? seeds : [.. seeds.Take(1)];
        foreach ((int place, long seed) in wanted.Index())
        {
            context.Cancellation.ThrowIfCancellationRequested();
            string path = Path.Combine(folder, $"seed-{seed}.json");
            SeedFile? earlier = Read(path);
            if (earlier is not null && earlier.Setting == setting && earlier.Model == context.Model)
            {
                context.Progress.Say($"Seed {seed} was run before ({path}).");
                measured[seed] = earlier.Measurements;
                seconds.Add(earlier.Seconds);
                continue;
            }

            int left = wanted.Count - place;
            context.Progress.Say(seconds.Count == 0 || context.Size is RecipeSize.Smoke ? $"Seed {seed}:" : $"Seed {seed} (about {Text.Duration(TimeSpan.FromSeconds(left * seconds.Average()))} to go):");
            var clock = Stopwatch.StartNew();
            IReadOnlyList<Measurement> result = recipe.Run(context, new Seed(seed));
            seconds.Add(clock.Elapsed.TotalSeconds);
            AtomicFile.WriteText(path, JsonSerializer.Serialize(new SeedFile(setting, context.Model, seconds[^1], result), Json));
            measured[seed] = result;
        }

        var results = new RecipeResults(measured);
        ReproductionReport report = Summarise(slug, recipe, results, context.Size, seconds.Average());
        ReportJson.Save(Path.Combine(folder, "report.json"), report);
        ReproductionPage.Make(report).Save(Path.Combine(folder, "report.html"));
        return report;
    }

    private static JsonSerializerOptions Json { get; } = new() { WriteIndented = true };

    // A finished seed is taken as it is only where the same code would measure it again.
    private static string Code { get; } = $"{typeof(Recipe).Module.ModuleVersionId:N} {typeof(Perplexity).Module.ModuleVersionId:N}";

    private static ReproductionReport Summarise(string slug, Recipe recipe, RecipeResults results, RecipeSize size, double seconds)
    {
        IReadOnlyList<Check> checks = size is RecipeSize.Smoke ? [] : recipe.Judge(results);
        string verdict = size is RecipeSize.Smoke ? "not judged (smoke size)"
            : recipe.DependsOnSeed && results.Seeds.Count < 3 ? "not judged (fewer than three seeds)"
            : checks.All(c => c.Holds) ? "shown" : "not shown";
        return new ReproductionReport(slug, recipe.Claim, size.ToString().ToLowerInvariant(), results.Seeds,
            [.. recipe.Experiments.Select(e => Summarise(e, results))], checks, verdict, recipe.FullPlan, Machine.Describe(), seconds);
    }

    private static ExperimentSummary Summarise(Experiment experiment, RecipeResults results)
    {
        return new ExperimentSummary(experiment, [.. experiment.Settings.Select(s => new SettingSummary(s, Arms(results.At(experiment.Name, s))))]);

        IReadOnlyList<ArmSummary> Arms(SettingResults measured) =>
            [.. experiment.Arms.Select(a => new ArmSummary(a, measured.MetricsOf(a).ToDictionary(m => m, m => MetricSummary.Of(measured.Values(a, m))))).Where(a => a.Metrics.Count > 0)];
    }

    private static SeedFile? Read(string path)
    {
        try
        {
            return File.Exists(path) ? JsonSerializer.Deserialize<SeedFile>(File.ReadAllText(path)) : null;
        }
        catch (JsonException)
        {
            return null; // a damaged file is measured anew
        }
    }

    private sealed record SeedFile(string Setting, string? Model, double Seconds, IReadOnlyList<Measurement> Measurements);
}

/// <summary>What a reproduction found.</summary>
/// <param name="System">The slug.</param>
/// <param name="Claim">The claim.</param>
/// <param name="Size">smoke or quick.</param>
/// <param name="Seeds">The seeds.</param>
/// <param name="Experiments">The experiments with all that was measured.</param>
/// <param name="Checks">The conditions of the verdict.</param>
/// <param name="Verdict">shown, not shown, or why it was not judged.</param>
/// <param name="FullPlan">The plan of the full reproduction.</param>
/// <param name="Machine">What it was measured on.</param>
/// <param name="SecondsPerSeed">How long one seed took, averaged.</param>
public sealed record ReproductionReport(
    string System, string Claim, string Size, IReadOnlyList<long> Seeds, IReadOnlyList<ExperimentSummary> Experiments,
    IReadOnlyList<Check> Checks, string Verdict, string FullPlan, IReadOnlyDictionary<string, string> Machine, double SecondsPerSeed);

/// <summary>One experiment.</summary>
/// <param name="Experiment">What was compared.</param>
/// <param name="Settings">What was measured at each setting.</param>
public sealed record ExperimentSummary(Experiment Experiment, IReadOnlyList<SettingSummary> Settings)
{
    /// <summary>The metrics that any arm has, in the order of their first appearance.</summary>
    [JsonIgnore]
    public IReadOnlyList<string> Metrics => [.. Settings.SelectMany(s => s.Arms).SelectMany(a => a.Metrics.Keys).Distinct()];
}

/// <summary>One setting of an experiment.</summary>
/// <param name="Setting">Its name; empty for the only one.</param>
/// <param name="Arms">The arms that were measured at it.</param>
public sealed record SettingSummary(string Setting, IReadOnlyList<ArmSummary> Arms);

/// <summary>One arm.</summary>
/// <param name="Arm">Its name.</param>
/// <param name="Metrics">Its metrics by name.</param>
public sealed record ArmSummary(string Arm, IReadOnlyDictionary<string, MetricSummary> Metrics);
