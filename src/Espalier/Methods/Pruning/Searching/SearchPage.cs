using System.Globalization;
using Espalier.Evaluation;
using Espalier.Pruning;
using Espalier.Pruning.Comparing;
using Espalier.Reporting;
using Espalier.Runtime;

namespace Espalier.Methods.Pruning.Searching;

/// <summary>A search as a table and as one page to look at.</summary>
public static class SearchPage
{
    /// <summary>The headings of the table of candidates before any work.</summary>
    public static IReadOnlyList<Column> PlanHeadings { get; } =
    [
        new("candidate"), new("layers", Numeric: true), new("heads", Numeric: true), new("key-value heads", Numeric: true), new("neurons", Numeric: true), new("channels", Numeric: true), new("parameters", Numeric: true), new("from target", Numeric: true),
    ];

    /// <summary>The headings of the table of results.</summary>
    public static IReadOnlyList<Column> Headings { get; } =
    [
        new("candidate"), new("parameters", Numeric: true), new("perplexity, cut", Numeric: true), new("rank", Numeric: true), new("light retraining", Numeric: true), new("rank", Numeric: true), new("speed", Numeric: true), new("seconds", Numeric: true),
    ];

    /// <summary>The candidates before any work.</summary>
    public static IEnumerable<IReadOnlyList<string>> Rows(SearchPlan plan) => plan.Candidates.Select(c => (IReadOnlyList<string>)
    [
        c.Name, Whole(c.Size.Layers), Whole(c.Size.Heads), Whole(c.KeyValueHeads), Whole(c.Size.FeedForward), Whole(c.Size.Embedding), Text.Count(c.Size.Parameters),
        ((double)c.Size.Parameters / plan.Target - 1).ToString("+0.0 %;-0.0 %;0.0 %", CultureInfo.InvariantCulture),
    ]);

    /// <summary>The dense model, the candidates, the best first, and the chosen one after the full retraining.</summary>
    public static IEnumerable<IReadOnlyList<string>> Rows(SearchReport report)
    {
        yield return ["dense", Text.Count(report.Parameters), PruningReportPage.Format(report.Dense.Perplexity), "", "", "", "", ""];
        foreach (SearchedCandidate c in report.Candidates)
        {
            yield return c.Figures is not { } f ? [c.Name, Text.Count(c.Parameters), "", "", "failed", "", "", ""]
                : [c.Name, Text.Count(f.Parameters), PruningReportPage.Format(f.BeforeRetraining!.Value), $"{c.RankBefore}", PruningReportPage.Format(f.Perplexity), $"{c.Rank}", Times(f.Speed?.Gain), Seconds(f.Seconds)];
        }

        yield return [$"{report.Best.Name}, {Text.Count(report.Steps)} steps", Text.Count(report.Chosen.Parameters), "", "", PruningReportPage.Format(report.Chosen.Perplexity), "", Times(report.Chosen.Speed?.Gain), Seconds(report.Chosen.Seconds)];
    }

    /// <summary>What the table's figures are.</summary>
    public static string Legend(SearchReport report) =>
        $"L layers, H query heads, F neurons, E channels. Cut: before any retraining. Light retraining: perplexity after {Steps(report.LightSteps)}; the best goes on to {Steps(report.Steps)}, from its cut. Speed: forward passes against the dense model, in turns. Seconds: without measuring.";

    /// <summary>What light retraining did to the ranking, in a sentence.</summary>
    public static string Ranking(SearchReport report)
    {
        SearchedCandidate[] finished = [.. report.Candidates.Where(c => c.Rank is not null)];
        if (finished.Length == 1)
        {
            return "Only one candidate was finished, so nothing was ranked.";
        }

        int moved = finished.Count(c => c.Rank != c.RankBefore);
        string first = finished.FirstOrDefault(c => c.RankBefore == 1) is { } best && best != report.Best ? $"; {best.Name} was first before and is {Ordinal(best.Rank!.Value)} now" : "";
        string correlation = report.RankCorrelation is { } r ? string.Create(CultureInfo.InvariantCulture, $" (rank correlation {r:0.00})") : "";
        string few = report.LightSteps < 300 ? $" Rankings may change until about 300 steps; these are after {Steps(report.LightSteps)}." : "";
        return $"{moved} of {finished.Length} candidates changed their rank in light retraining{correlation}{first}.{few}";
    }

    /// <summary>The result in one sentence.</summary>
    public static string Headline(SearchReport report) => string.Create(CultureInfo.InvariantCulture,
        $"Chosen: {report.Best.Name}, {Text.Count(report.Chosen.Parameters)} of {Text.Count(report.Parameters)} parameters, perplexity {PruningReportPage.Format(report.Chosen.Perplexity)} after {Steps(report.Steps)} (dense {PruningReportPage.Format(report.Dense.Perplexity)}).");

    /// <summary>Makes the page.</summary>
    public static ReportPage Make(SearchReport report)
    {
        ReportPage page = new ReportPage($"{report.Candidates.Count} architectures for {PruningReportPage.ShortName(report.Model)}", Headline(report))
        {
            Kicker = "Espalier architecture search", Footer = string.Join(" · ", report.Machine.Select(m => $"{m.Key} {m.Value}")),
        };
        if (report.Failures.Count > 0)
        {
            page = page.Add(new Callout(report.Failures));
        }

        return page.Section("The candidates", $"{Ranking(report)} {Legend(report)}", new DataTable(Headings, [.. Rows(report)]))
            .Section("What a size is worth", "Perplexity after light retraining: lower is better. The line joins the candidates that no other beats in both figures.",
                Chart(report, "Perplexity against parameters", "parameters", Goal.Lower, f => f.Parameters),
                Chart(report, "Perplexity against speed", "speed of a forward pass, dense model = 1", Goal.Higher, f => f.Speed?.Gain),
                Chart(report, "Before and after light retraining", "perplexity as cut", null, f => f.BeforeRetraining))
            .Add(new Details("Reports", new DataTable([new("candidate"), new("report")],
                [.. report.Candidates.Where(c => c.Figures is not null).Select(c => (IReadOnlyList<string>)[c.Name, Path.Combine(c.Folder, "report.html").Replace('\\', '/')]), [$"{report.Best.Name}, chosen", "report.html"]])))
            .Add(new Details("Texts", DataTable.Of([new("model", report.Model), new("evaluation", report.Evaluation)], "what", "from")));
    }

    private static ScatterChart Chart(SearchReport report, string title, string label, Goal? goal, Func<PlanFigures, double?> x) => new()
    {
        Title = title,
        XLabel = label,
        YLabel = "perplexity",
        Front = goal,
        Points = [.. report.Candidates.Where(c => c.Figures is not null).Select(c => new ScatterPoint(c.Name, x(c.Figures!) ?? double.NaN, c.Figures!.Perplexity))],
    };

    private static string Whole(long value) => value.ToString(CultureInfo.InvariantCulture);

    private static string Steps(int steps) => steps == 1 ? "1 step" : $"{Text.Count(steps)} steps";

    private static string Ordinal(int rank) => rank switch { 2 => "second", 3 => "third", _ => $"number {rank}" };

    private static string Times(double? gain) => gain?.ToString("0.00×", CultureInfo.InvariantCulture) ?? "";

    private static string Seconds(double? seconds) => seconds?.ToString("0.0", CultureInfo.InvariantCulture) ?? "";
}
