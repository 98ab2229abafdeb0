using System.Text.RegularExpressions;
using Espalier.Runtime;

namespace Espalier.Pruning.Comparing;

/// <summary>One plan of a comparison.</summary>
/// <param name="Name">What tables and pictures call it.</param>
/// <param name="Request">The plan; its seed and output folder are the comparison's.</param>
public sealed partial record NamedPlan(string Name, PruneRequest Request)
{
    /// <summary>The name as a part of a folder's name.</summary>
    public string FolderName => Strange().Replace(Name, "-");

    [GeneratedRegex("[^A-Za-z0-9._+-]+")]
    private static partial Regex Strange();
}

/// <summary>Several plans for one model, on the same texts, each with every seed.</summary>
public sealed record ComparisonRequest
{
    private const int LongestName = 60;

    // What all plans share: how a sentence calls it, the flag that sets it for all, and where it stands.
    private static readonly (string What, string Flag, Func<PruneRequest, object?> Of)[] shared =
    [
        ("models", "--model", r => r.Model),
        ("calibration texts", "--calibration", r => r.Data.Calibration),
        ("retraining texts", "--train-data", r => r.Data.Train),
        ("evaluation texts", "--evaluation", r => r.Data.Evaluation),
        ("numbers of calibration windows", "--samples", r => r.Data.Samples),
        ("lengths of calibration windows", "--length", r => r.Data.Length),
        ("numbers of evaluation windows", "--windows", r => r.Data.Windows),
        ("lengths of evaluation windows", "--context", r => r.Data.Context),
    ];

    /// <summary>The plans; at least two, of different names, for one model and the same texts.</summary>
    public required IReadOnlyList<NamedPlan> Plans { get; init; }

    /// <summary>The seeds; each draws calibration windows that all plans share. Default 0, 1, 2.</summary>
    public IReadOnlyList<long> Seeds { get; init; } = [0, 1, 2];

    /// <summary>Where runs and results go.</summary>
    public string Out { get; init; } = "espalier-comparison";

    /// <summary>Keep the pruned checkpoints; else their weights are deleted when they have been measured.</summary>
    public bool Keep { get; init; }

    /// <summary>Reads the plans from their files.</summary>
    /// <param name="paths">Two plans or more, or one file that lists several under <c>plans</c>.</param>
    /// <param name="overrides">Words that all plans are given ("data.samples"), as on the command line.</param>
    /// <exception cref="EspalierException">For files that are missing, and unknown words, with their lines; and all that <see cref="Check"/> refuses.</exception>
    public static ComparisonRequest Read(IReadOnlyList<string> paths, IReadOnlyDictionary<string, string> overrides)
    {
        PlanFile[] files = [.. paths.Select(PlanFile.Read).Select(f => overrides.Aggregate(f, (plan, word) => plan.With(word.Key, word.Value)))];
        PlanFile? study = files.FirstOrDefault(f => f.Has("plans"));
        EspalierException.Require(study is null || files.Length == 1, $"{study?.Origin} lists several plans itself; compare it alone, without other files.");
        return study is not null ? ReadStudy(study) : new ComparisonRequest
        {
            Plans = [.. files.Select(f => f.With("out", "-").Bind<PruneRequest>()).Zip(paths, (r, path) => new NamedPlan(r.Name ?? Path.GetFileNameWithoutExtension(path), r))],
        };
    }

    /// <summary>Checks that there is something to compare, and that only the plans differ.</summary>
    /// <exception cref="EspalierException">For fewer than two plans, a name or seed twice, plans that differ in model or texts, parts that do not go together.</exception>
    public void Check()
    {
        EspalierException.Require(Plans.Count >= 2, "A comparison needs at least two plans; name two plan files, or one file that lists plans under `plans:`.");
        EspalierException.Require(Seeds.Count > 0 && Seeds.Distinct().Count() == Seeds.Count && Seeds.All(s => s >= 0), "Give at least one seed, each once, whole numbers from 0, for example 0,1,2.");
        foreach (NamedPlan plan in Plans)
        {
            EspalierException.Require(plan.Name.Trim().Length is > 0 and <= LongestName, $"'{plan.Name}' is no name for a plan; give it one of 1 to {LongestName} letters with `name:`.");
        }

        if (Plans.GroupBy(p => p.FolderName, StringComparer.OrdinalIgnoreCase).FirstOrDefault(g => g.Count() > 1) is { } same)
        {
            throw new EspalierException($"Two plans are called '{same.First().Name}'{(same.First().Name == same.Last().Name ? "" : $" and '{same.Last().Name}', which is one name for a folder")}; give one of them another with `name:`.");
        }

        foreach ((string what, string flag, Func<PruneRequest, object?> of) in shared)
        {
            NamedPlan first = Plans[0];
            NamedPlan? other = Plans.FirstOrDefault(p => !Equals(of(p.Request), of(first.Request)));
            EspalierException.Require(other is null,
                $"'{first.Name}' and '{other?.Name}' name different {what} ({of(first.Request) ?? "none"} and {(other is null ? "" : of(other.Request) ?? "none")}); a comparison takes one for all: set it with {flag}.");
        }

        EspalierException.Require(Plans[0].Request.Data.Evaluation is not null, "A comparison measures perplexity, but no evaluation text was named; name one with --evaluation (or `evaluation:` under `data:`).");
        foreach (NamedPlan plan in Plans)
        {
            try
            {
                plan.Request.ToPlan();
            }
            catch (EspalierException fault)
            {
                throw new EspalierException($"{plan.Name}: {fault.Message}", fault);
            }
        }
    }

    private static ComparisonRequest ReadStudy(PlanFile file)
    {
        IReadOnlyList<PlanFile> parts = file.Parts("plans");
        ComparisonStudy study = file.Bind<ComparisonStudy>();
        var defaults = new ComparisonRequest { Plans = [] };
        return defaults with
        {
            Plans = [.. parts.Select(p => p.Bind<StudiedPlan>()).Select(p => new NamedPlan(p.Name, new PruneRequest
            {
                Name = p.Name, Model = study.Model, Out = "-", Data = study.Data, Prune = p.Prune, Quantise = p.Quantise, Retrain = p.Retrain, Memory = study.Memory,
            }))],
            Seeds = study.Seeds ?? defaults.Seeds,
            Out = study.Out ?? defaults.Out,
        };
    }

    /// <summary>A comparison in one file.</summary>
    private sealed record ComparisonStudy
    {
        public required string Model { get; init; }

        public DataSection Data { get; init; } = new();

        public IReadOnlyList<long>? Seeds { get; init; }

        public string? Memory { get; init; }

        public string? Out { get; init; }

        public IReadOnlyList<object> Plans { get; init; } = [];
    }

    /// <summary>What one of its plans says for itself.</summary>
    private sealed record StudiedPlan
    {
        public required string Name { get; init; }

        public PruneSection Prune { get; init; } = new();

        public object? Quantise { get; init; }

        public object? Retrain { get; init; }
    }
}
