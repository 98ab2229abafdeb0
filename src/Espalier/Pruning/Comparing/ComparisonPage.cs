using System.Globalization;
using Espalier.Evaluation;
using Espalier.Reporting;
using Espalier.Runtime;

namespace Espalier.Pruning.Comparing;

/// <summary>A comparison as a table and as one page to look at.</summary>
public static class ComparisonPage
{
    /// <summary>The headings of the table.</summary>
    public static IReadOnlyList<Column> Headings { get; } =
    [
        new("plan"), new("perplexity", Numeric: true), new("log rise", Numeric: true), new("zero", Numeric: true), new("trained", Numeric: true),
        new("speed", Numeric: true), new("seconds", Numeric: true), new("against the best"),
    ];

    /// <summary>The rows of the table: the dense model, then the plans, the best first.</summary>
    public static IEnumerable<IReadOnlyList<string>> Rows(ComparisonReport report)
    {
        yield return ["dense", PruningReportPage.Format(report.Dense.Perplexity), "", "", "", "", "", ""];
        foreach (PlanResult plan in report.Plans)
        {
            yield return
            [
                plan.Name,
                Cell(plan, Metric.Perplexity, PruningReportPage.Format),
                Cell(plan, Metric.LogRise, v => v.ToString("0.000", CultureInfo.InvariantCulture)),
                Cell(plan, Metric.Sparsity, PruningReportPage.Percent),
                Cell(plan, Metric.Trained, Count),
                Cell(plan, Metric.SpeedUp, v => v.ToString("0.00×", CultureInfo.InvariantCulture)),
                Cell(plan, Metric.Seconds, v => v.ToString("0.0", CultureInfo.InvariantCulture)),
                plan.Metrics.Count == 0 ? "failed" : Against(plan, report),
            ];
        }
    }

    /// <summary>What the table's figures are.</summary>
    public static string Legend(ComparisonReport report) =>
        $"Mean{(report.Seeds.Count > 1 ? " ± half of the 95 % interval" : "")} over {Seeds(report)}. Log rise: ln(perplexity / dense perplexity). Speed: forward passes against the dense model, in turns. Seconds: without measuring. Against the best: the paired difference of log-perplexity.";

    /// <summary>The result in one sentence.</summary>
    public static string Headline(ComparisonReport report)
    {
        PlanResult best = report.Plans[0];
        if (best.Mean(Metric.Perplexity) is not { } perplexity)
        {
            return "No plan finished.";
        }

        string[] equal = [.. report.Plans.Where(p => p.AgainstBest is { Verdict: "not distinguishable" }).Select(p => p.Name)];
        string near = equal.Length == 0 ? "" : $" With {Seeds(report)} {string.Join(", ", equal)} cannot be told from it.";
        return $"Best: {best.Name}, perplexity {PruningReportPage.Format(perplexity)} (dense {PruningReportPage.Format(report.Dense.Perplexity)}).{near}";
    }

    /// <summary>Makes the page.</summary>
    public static ReportPage Make(ComparisonReport report)
    {
        ReportPage page = new ReportPage($"{report.Plans.Count} plans for {PruningReportPage.ShortName(report.Model)}", Headline(report))
        {
            Kicker = "Espalier comparison", Footer = string.Join(" · ", report.Machine.Select(m => $"{m.Key} {m.Value}")),
        };
        if (report.Failures.Count > 0)
        {
            page = page.Add(new Callout(report.Failures));
        }

        page = page.Section("The plans", Legend(report), new DataTable(Headings, [.. Rows(report)]))
            .Section("What quality costs", "Perplexity: lower is better. The line joins the plans that no other beats in both figures; it is drawn through means, and bars are 95 % intervals over seeds.", [.. Charts(report)]);
        return page.Add(new Details("Sizes", Sizes(report)))
            .Add(new Details("Seed by seed", BySeed(report)))
            .Add(new Details("Texts", DataTable.Of([new("model", report.Model), new("evaluation", report.Evaluation)], "what", "from")))
            .Add(new Details("The plans in full", [.. report.Plans.Select(p => new CodeBlock(p.Name, p.PlanYaml))]));
    }

    private static IEnumerable<ScatterChart> Charts(ComparisonReport report)
    {
        yield return Chart(report, "Perplexity against size", Metric.Nonzero, "parameters that are not zero", Goal.Lower, "A model of fewer parameters that are not zero is smaller only where zeros are stored packed.");

        // Masked weights are computed as any others: among models of one shape, speed has no front but noise.
        bool shapes = report.Plans.Select(p => p.Mean(Metric.Parameters)).OfType<double>().Distinct().Count() > 1;
        yield return Chart(report, "Perplexity against speed", Metric.SpeedUp, "speed of a forward pass, dense model = 1", shapes ? Goal.Higher : null, SpeedNote(report, shapes));
        if (report.Plans.Any(p => p.Mean(Metric.Trained) > 0))
        {
            yield return Chart(report, "Perplexity against training", Metric.Trained, "trained parameters", Goal.Lower, null);
        }
    }

    private static ScatterChart Chart(ComparisonReport report, string title, string metric, string label, Goal? goal, string? note)
    {
        PlanResult[] plans = [.. report.Plans.Where(p => p.Metrics.ContainsKey(metric))];
        double[] all = [.. plans.Select(p => p.Mean(Metric.Perplexity)!.Value), report.Dense.Perplexity];
        return new ScatterChart
        {
            Title = title,
            Note = note,
            XLabel = label,
            YLabel = "perplexity",
            Front = goal,
            Logarithmic = all.Max() > 5 * all.Min(),
            Reference = ("dense", report.Dense.Perplexity),
            Points = [.. plans.Select(p => new ScatterPoint(p.Name, p.Metrics[metric].Mean, p.Metrics[Metric.Perplexity].Mean, p.Metrics[metric].HalfWidth, p.Metrics[Metric.Perplexity].HalfWidth))],
        };
    }

    private static string? SpeedNote(ComparisonReport report, bool shapes)
    {
        PlanFigures[] figures = [.. report.Plans.SelectMany(p => p.Runs).Select(r => r.Figures).OfType<PlanFigures>()];
        string noise = shapes ? "" : " Zeros are computed as any other weights and no plan changes a shape, so what differs here is noise and no front is drawn.";
        return figures.FirstOrDefault(f => f.Speed is not null)?.Speed is { } s
            ? $"Forward pass of {s.Batch} × {s.Tokens} tokens, median of {s.Repeats} in turns with the dense model.{noise}"
            : figures.FirstOrDefault(f => f.SpeedNote is not null)?.SpeedNote is { } why ? $"Not measured: {why}." : null;
    }

    private static DataTable Sizes(ComparisonReport report) => new(
        [new("plan"), new("parameters", Numeric: true), new("not zero", Numeric: true), new("on disk", Numeric: true), new("packed, computed", Numeric: true), new("tokens/s", Numeric: true)],
        [.. report.Plans.Where(p => p.Metrics.Count > 0).Select(p => (IReadOnlyList<string>)
            [p.Name, Cell(p, Metric.Parameters, Count), Cell(p, Metric.Nonzero, Count), Cell(p, Metric.DiskBytes, Bytes), Cell(p, Metric.PackedBytes, Bytes), Cell(p, Metric.TokensPerSecond, Count)])],
        "Packed: the bytes of the values that are not zero and one bit for each place; computed, nothing is stored so.");

    private static DataTable BySeed(ComparisonReport report) => new(
        [new("plan"), new("seed", Numeric: true), new("perplexity", Numeric: true), new("log rise", Numeric: true), new("report")],
        [.. from plan in report.Plans
            from run in plan.Runs
            select (IReadOnlyList<string>)
            [
                plan.Name, run.Seed.ToString(CultureInfo.InvariantCulture), run.Figures is { } f ? PruningReportPage.Format(f.Perplexity) : "failed",
                run.Figures?.LogRise.ToString("0.0000", CultureInfo.InvariantCulture) ?? "", Path.Combine(run.Folder, "report.html").Replace('\\', '/'),
            ]]);

    private static string Against(PlanResult plan, ComparisonReport report) => plan.AgainstBest switch
    {
        null => plan == report.Plans[0] ? "the best" : "no seed in common",
        { High: { } high } a => string.Create(CultureInfo.InvariantCulture, $"{a.Verdict} ({a.Difference:+0.000;-0.000;0.000} ± {high - a.Difference:0.000})"),
        { } a => string.Create(CultureInfo.InvariantCulture, $"{a.Verdict} ({a.Difference:+0.000;-0.000;0.000}, one seed)"),
    };

    // The half-width follows where it is not nothing.
    private static string Cell(PlanResult plan, string metric, Func<double, string> format) => !plan.Metrics.TryGetValue(metric, out MetricSummary? m) ? ""
        : m.HalfWidth is { } half && format(half) != format(0) ? $"{format(m.Mean)} ± {format(half)}" : format(m.Mean);

    private static string Count(double value) => Text.Count((long)Math.Round(value));

    private static string Bytes(double value) => Text.Bytes((long)Math.Round(value));

    private static string Seeds(ComparisonReport report) => $"seed{(report.Seeds.Count == 1 ? "" : "s")} {string.Join(", ", report.Seeds)}";
}
