using System.Globalization;
using Espalier.Evaluation;
using Espalier.Reporting;
using Espalier.Runtime;

namespace Espalier.SizeCurve;

/// <summary>One point of the curve.</summary>
/// <param name="Name">What it is.</param>
/// <param name="Sparsity">The share of weights that is gone.</param>
/// <param name="Type">How the others are stored.</param>
/// <param name="How">rtn, joint, or nothing.</param>
/// <param name="Bytes">Of all tensors, mean over seeds.</param>
/// <param name="Perplexity">Over the seeds of calibration.</param>
internal sealed record Measured(string Name, double Sparsity, string Type, string How, long Bytes, MeanEstimate Perplexity);

/// <summary>What <c>report.json</c> holds.</summary>
internal sealed record CurveReport(string Model, double DensePerplexity, int Windows, int Seeds, IReadOnlyList<Measured> Points, IReadOnlyDictionary<string, string> Machine);

/// <summary>The curve as a page and as a table.</summary>
internal static class CurvePage
{
    /// <summary>Writes <c>report.html</c> and <c>report.json</c>.</summary>
    public static void Save(string folder, string model, double dense, int windows, int seeds, IReadOnlyList<Measured> points)
    {
        Directory.CreateDirectory(folder);
        IReadOnlyDictionary<string, string> machine = Machine.Describe();
        ReportJson.Save(Path.Combine(folder, "report.json"), new CurveReport(model, dense, windows, seeds, points, machine));
        new ReportPage($"Perplexity against bytes: {model}", $"The dense model has perplexity {Number(dense)} on {windows} held-out windows.")
        {
            Kicker = "Espalier size curve",
            Footer = string.Join(" · ", machine.Select(m => $"{m.Key} {m.Value}")),
        }
            .Section("The curve", "Less of both is better; bars are 95 % intervals over seeds of calibration.",
                new ScatterChart
                {
                    Title = "Perplexity against stored bytes",
                    XLabel = "bytes of all tensors",
                    YLabel = "perplexity",
                    Front = Goal.Lower,
                    Logarithmic = true,
                    Reference = ("dense", dense),
                    Points = [.. points.Select(p => new ScatterPoint(p.Name, p.Bytes, p.Perplexity.Mean, null, double.IsFinite(p.Perplexity.HalfWidth) ? p.Perplexity.HalfWidth : null))],
                },
                new LineChart
                {
                    Title = "Bits at each sparsity",
                    XLabel = "bytes of all tensors",
                    YLabel = "perplexity",
                    Logarithmic = true,
                    Smoothing = 0,
                    Lines =
                    [
                        .. points.Where(p => p.How != "rtn" && !p.Name.StartsWith("wanda", StringComparison.Ordinal))
                            .GroupBy(p => p.Sparsity).Select((g, i) => new Series(g.Key == 0 ? "dense" : FormattableString.Invariant($"{100 * g.Key:0} % sparse"),
                                [.. g.OrderBy(p => p.Bytes).Select(p => ((double)p.Bytes, p.Perplexity.Mean))], (Tone)i)),
                    ],
                })
            .Section("The figures", null, new DataTable([new Column("model"), new Column("bytes", Numeric: true), new Column("perplexity", Numeric: true)], [.. points.Select(Row)]))
            .Save(Path.Combine(folder, "report.html"));
    }

    /// <summary>The table as Markdown.</summary>
    public static string Markdown(IReadOnlyList<Measured> points) => string.Join('\n',
        ["| model | bytes | perplexity |", "|---|---:|---:|", .. points.Select(p => $"| {string.Join(" | ", Row(p))} |")]);

    private static string[] Row(Measured point) =>
        [point.Name, point.Bytes.ToString("N0", CultureInfo.InvariantCulture), point.Perplexity.Count > 1 ? $"{Number(point.Perplexity.Mean)} ± {Number(point.Perplexity.StandardDeviation)}" : Number(point.Perplexity.Mean)];

    private static string Number(double value) => value.ToString("0.00", CultureInfo.InvariantCulture);
}
