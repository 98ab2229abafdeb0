using Espalier.Evaluation;
using Espalier.Reporting;
using Espalier.Runtime;

namespace Espalier.Recipes;

/// <summary>A reproduction as a page to look at and as Markdown tables for the docs.</summary>
public static class ReproductionPage
{
    /// <summary>Makes the page.</summary>
    public static ReportPage Make(ReproductionReport report)
    {
        string headline = report.Verdict switch
        {
            "shown" => $"The claim shows over {Runs(report)}.",
            "not shown" => $"The claim does not show over {Runs(report)}: {report.Checks.Count(c => !c.Holds)} of {report.Checks.Count} conditions fail.",
            _ => $"The claim was {report.Verdict}.",
        };
        ReportPage page = new ReportPage($"Reproduction: {report.System}", headline) { Kicker = "Espalier reproduction", Footer = string.Join(" · ", [.. report.Machine.Select(m => $"{m.Key} {m.Value}"), Time(report)]) }
            .Section("The claim", null, new Paragraph(report.Claim));
        page = Sections(report).Aggregate(page, (made, section) => made.Section(section.Heading, section.Lead, section.Blocks));
        return page.Section("The full reproduction", "For a machine with a GPU.", new CodeBlock("plan", report.FullPlan));
    }

    /// <summary>The verdict's conditions and the experiments with their charts and tables, each with its heading and what to look for.</summary>
    /// <param name="report">What was found.</param>
    public static IEnumerable<(string Heading, string? Lead, IReadOnlyList<IReportBlock> Blocks)> Sections(ReproductionReport report)
    {
        if (report.Checks.Count > 0)
        {
            yield return ("The verdict", "Mean and 95 % interval over the seeds, against the smallest effect that counts.", [new DataTable(
                [new Column("effect"), new Column("measured", Numeric: true), new Column("needed", Numeric: true), new Column("")],
                [.. report.Checks.Select(c => (IReadOnlyList<string>)[c.Statement, c.Measured, c.Needed, c.Holds ? "holds" : "fails"])])]);
        }

        foreach (ExperimentSummary summary in report.Experiments)
        {
            Experiment experiment = summary.Experiment;
            yield return (Sentence(experiment.Name), experiment.About,
                [
                    new Paragraph($"{Sentence(experiment.Metric)}; {Better(experiment)}mean and 95 % interval over {Seeds(report)}."),
                    .. Charts(summary),
                    new DataTable([.. Headings(summary)], [.. Rows(summary)]),
                ]);
        }
    }

    /// <summary>The tables of arms and metrics and the verdict as Markdown, for the system's page in docs/.</summary>
    public static string ToMarkdown(ReproductionReport report)
    {
        var lines = new List<string>();
        foreach (ExperimentSummary summary in report.Experiments)
        {
            if (report.Experiments.Count > 1)
            {
                lines.AddRange([$"**{Sentence(summary.Experiment.Name)}.** {summary.Experiment.About}", ""]);
            }

            Column[] headings = [.. Headings(summary)];
            lines.AddRange([Line(headings.Select(h => h.Heading)), $"|{string.Concat(headings.Select(h => h.Numeric ? "---:|" : "---|"))}"]);
            lines.AddRange(Rows(summary).Select(Line));
            lines.Add("");
        }

        if (report.Checks.Count > 0)
        {
            lines.AddRange(["| effect | measured | needed | |", "|---|---:|---:|---|"]);
            lines.AddRange(report.Checks.Select(c => Line([c.Statement, c.Measured, c.Needed, c.Holds ? "holds" : "**fails**"])));
            lines.Add("");
        }

        lines.Add($"Verdict: **{report.Verdict}** ({report.Size}, {Seeds(report)}, {Time(report)}; {report.Machine["processor"]}, {report.Machine["cores"]} {(report.Machine["cores"] == "1" ? "core" : "cores")}).");
        return string.Join("\n", lines) + "\n";

        static string Line(IEnumerable<string> cells) => $"| {string.Join(" | ", cells.Select(c => c.Replace("|", "\\|", StringComparison.Ordinal)))} |";
    }

    /// <summary>How long a seed took, in words.</summary>
    public static string Time(ReproductionReport report) => $"{Text.Duration(TimeSpan.FromSeconds(report.SecondsPerSeed))} a seed";

    /// <summary>The headings of an experiment's table: the setting where there are several, the arm, the metrics.</summary>
    public static IEnumerable<Column> Headings(ExperimentSummary summary) =>
    [
        .. summary.Settings.Count > 1 ? [new Column("at")] : Array.Empty<Column>(),
        new Column("arm"),
        .. summary.Metrics.Select(m => new Column(m, Numeric: true)),
    ];

    /// <summary>The rows of an experiment's table.</summary>
    public static IEnumerable<IReadOnlyList<string>> Rows(ExperimentSummary summary) =>
        from setting in summary.Settings
        from arm in setting.Arms
        select (IReadOnlyList<string>)
        [
            .. summary.Settings.Count > 1 ? [setting.Setting] : Array.Empty<string>(),
            arm.Arm,
            .. summary.Metrics.Select(m => Cell(arm, m)),
        ];

    // One chart for each setting, two of them side by side.
    private static IEnumerable<IReportBlock> Charts(ExperimentSummary summary)
    {
        BarChart[] charts = [.. summary.Settings.Where(s => s.Arms.Any(a => a.Metrics.ContainsKey(summary.Experiment.Metric))).Select(s => Chart(summary.Experiment, s))];
        return charts.Chunk(2).Select(pair => pair.Length == 2 ? new SideBySide(pair[0], pair[1]) : (IReportBlock)pair[0]);
    }

    private static BarChart Chart(Experiment experiment, SettingSummary setting) => new()
    {
        Title = setting.Setting.Length > 0 ? $"{experiment.Metric}, {setting.Setting}" : experiment.Metric,
        Bars = [.. from arm in setting.Arms
                   where arm.Metrics.ContainsKey(experiment.Metric)
                   let metric = arm.Metrics[experiment.Metric]
                   select new Bar(arm.Arm, metric.Mean, arm.Arm == ModelBench.DenseArm ? Tone.Stone : Tone.Leaf, Shown: Number.Text(metric.Mean), Error: metric.HalfWidth)],
    };

    // A metric of an arm: the mean, with the deviation over seeds where there is one.
    private static string Cell(ArmSummary arm, string metric) =>
        arm.Metrics.TryGetValue(metric, out MetricSummary? m) ? Number.Text(m.Mean, m.StandardDeviation) : "";

    private static string Better(Experiment experiment) => experiment.LowerIsBetter is { } lower ? $"{(lower ? "lower" : "higher")} is better; " : "";

    private static string Runs(ReproductionReport report) => report.Seeds.Count == 1 ? "one run, which depends on no seed" : $"{report.Seeds.Count} seeds";

    private static string Seeds(ReproductionReport report) => $"seed{(report.Seeds.Count == 1 ? "" : "s")} {string.Join(", ", report.Seeds)}";

    private static string Sentence(string words) => char.ToUpperInvariant(words[0]) + words[1..];
}
