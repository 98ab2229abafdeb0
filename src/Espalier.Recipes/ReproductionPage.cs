using System.Globalization;
using Espalier.Reporting;

namespace Espalier.Recipes;

/// <summary>A reproduction as a page to look at and as a Markdown table for the docs.</summary>
public static class ReproductionPage
{
    /// <summary>Makes the page.</summary>
    public static ReportPage Make(ReproductionReport report)
    {
        string headline = report.Verdict switch
        {
            "shown" => $"The claim shows over {report.Seeds.Count} seeds.",
            "not shown" => $"The claim does not show over {report.Seeds.Count} seeds: {report.Checks.Count(c => !c.Holds)} of {report.Checks.Count} conditions fail.",
            _ => $"The claim was {report.Verdict}.",
        };
        var drawn = report.Arms.Where(a => a.Metrics.ContainsKey(report.Metric)).ToList();
        ReportPage page = new ReportPage($"Reproduction: {report.System}", headline) { Kicker = "Espalier reproduction", Footer = string.Join(" · ", report.Machine.Select(m => $"{m.Key} {m.Value}")) }
            .Section("The claim", report.Claim, new Paragraph(report.Setting))
            .Section("The comparison", $"{report.Metric}; {(report.LowerIsBetter ? "lower" : "higher")} is better; mean and 95 % interval over seeds {string.Join(", ", report.Seeds)}.",
                new BarChart
                {
                    Title = report.Metric,
                    Bars = [.. drawn.Select(a => new Bar(a.Arm, a.Metrics[report.Metric].Mean, Shown: Number(a.Metrics[report.Metric].Mean), Error: a.Metrics[report.Metric].HalfWidth))],
                },
                Table(report));
        if (report.Checks.Count > 0)
        {
            page = page.Section("The verdict", null, new DataTable(
                [new Column("must hold"), new Column("measured"), new Column("")],
                [.. report.Checks.Select(c => (IReadOnlyList<string>)[c.Statement, c.Measured, c.Holds ? "holds" : "fails"])]));
        }

        return page.Section("The full reproduction", "For a machine with a GPU.", new CodeBlock("plan", report.FullPlan));
    }

    /// <summary>The table of arms and metrics as Markdown, for the system's page in docs/.</summary>
    public static string ToMarkdown(ReproductionReport report)
    {
        string[] metrics = Metrics(report);
        var lines = new List<string>
        {
            $"| arm | {string.Join(" | ", metrics)} |",
            $"|---|{string.Concat(metrics.Select(_ => "---:|"))}",
        };
        lines.AddRange(report.Arms.Select(a => $"| {a.Arm} | {string.Join(" | ", metrics.Select(m => Cell(a, m)))} |"));
        if (report.Checks.Count > 0)
        {
            lines.AddRange(["", "| must hold | measured | |", "|---|---|---|"]);
            lines.AddRange(report.Checks.Select(c => $"| {c.Statement} | {c.Measured} | {(c.Holds ? "holds" : "**fails**")} |"));
        }

        lines.AddRange(["", $"Verdict: **{report.Verdict}** ({report.Size}, seeds {string.Join(", ", report.Seeds)}; {report.Machine["processor"]}, {report.Machine["cores"]} cores)."]);
        return string.Join("\n", lines) + "\n";
    }

    private static DataTable Table(ReproductionReport report)
    {
        string[] metrics = Metrics(report);
        return new DataTable(
            [new Column("arm"), .. metrics.Select(m => new Column(m, Numeric: true))],
            [.. report.Arms.Select(a => (IReadOnlyList<string>)[a.Arm, .. metrics.Select(m => Cell(a, m))])]);
    }

    private static string[] Metrics(ReproductionReport report) => [.. report.Arms.SelectMany(a => a.Metrics.Keys).Distinct()];

    /// <summary>A metric of an arm as text: the mean, with the deviation over seeds where there is one.</summary>
    public static string Cell(ArmSummary arm, string metric) => !arm.Metrics.TryGetValue(metric, out MetricSummary? m) ? ""
        : m.StandardDeviation is > 0 and var deviation ? $"{Number(m.Mean)} ± {Number(deviation)}" : Number(m.Mean);

    private static string Number(double value) => Math.Abs(value) switch
    {
        _ when value == Math.Floor(value) && Math.Abs(value) >= 100 => value.ToString("N0", CultureInfo.InvariantCulture),
        >= 10_000 => value.ToString("N0", CultureInfo.InvariantCulture),
        >= 100 => value.ToString("F1", CultureInfo.InvariantCulture),
        >= 1 => value.ToString("F2", CultureInfo.InvariantCulture),
        _ => value.ToString("0.###", CultureInfo.InvariantCulture),
    };
}
