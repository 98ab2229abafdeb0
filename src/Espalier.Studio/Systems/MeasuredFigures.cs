using System.Globalization;
using System.Text.RegularExpressions;
using Espalier.Reporting;
using Markdig.Extensions.Tables;
using Markdig.Syntax;
using Markdig.Syntax.Inlines;

namespace Espalier.Studio.Systems;

/// <summary>Draws the tables that a system's page holds: arms side by side at each setting, by the first figure that all of them have.</summary>
internal static partial class MeasuredFigures
{
    // More are read better in the table.
    private const int MostArms = 12, MostSettings = 8;

    private static readonly Tone[] Tones = [Tone.Leaf, Tone.Clay, Tone.Slate, Tone.Ochre];

    /// <summary>The pictures of a table; none where it compares no arms.</summary>
    /// <param name="table">The table, as Markdown has it.</param>
    /// <param name="system">The system whose page it stands on; its own arms stand out.</param>
    public static IReadOnlyList<IReportBlock> Of(Table table, string system)
    {
        string[][] rows = [.. table.OfType<TableRow>().Select(r => (string[])[.. r.OfType<TableCell>().Select(Plain)])];
        if (rows.Length < 3)
        {
            return [];
        }

        string[] head = rows[0];
        rows = [.. rows.Skip(1).Where(r => r.Length == head.Length)];
        int arm = Array.FindIndex(head, h => h is "arm"), at = Array.FindIndex(head, h => h is "at");
        int figure = arm < 0 ? -1 : Enumerable.Range(arm + 1, head.Length - arm - 1).FirstOrDefault(c => rows.Count(r => Number(r[c]) is not null) > rows.Length / 2, -1);
        if (figure < 0)
        {
            return [];
        }

        var measured = rows.Select(r => (At: at < 0 ? "" : r[at], Arm: r[arm], Value: Number(r[figure]))).Where(r => r.Value is not null).ToArray();
        string[] arms = [.. measured.Select(m => m.Arm).Distinct()], settings = [.. measured.Select(m => m.At).Distinct()];
        if (arms.Length is < 2 or > MostArms || settings.Length > MostSettings || measured.Any(m => m.Value!.Value.Mean < 0))
        {
            return [];
        }

        BarChart[] charts = [.. settings.Select(s => new BarChart
        {
            Title = s.Length > 0 ? $"{head[figure]}, {s}" : head[figure],
            Bars = [.. measured.Where(m => m.At == s).Select(m => new Bar(m.Arm, m.Value!.Value.Mean, ToneOf(m.Arm, system), Shown: m.Value.Value.Shown, Error: m.Value.Value.Deviation))],
        })];
        return [.. charts.Chunk(2).Select(pair => pair.Length == 2 ? new SideBySide(pair[0], pair[1]) : (IReportBlock)pair[0])];
    }

    /// <summary>A figure as tables write it: "98.42 ± 0.199", "1.2 M", "61 %".</summary>
    internal static (double Mean, double? Deviation, string Shown)? Number(string cell)
    {
        Match match = Written().Match(cell);
        if (!match.Success || !double.TryParse(match.Groups["mean"].Value.Replace(",", "", StringComparison.Ordinal), CultureInfo.InvariantCulture, out double mean))
        {
            return null;
        }

        double scale = match.Groups["unit"].Value switch { "k" => 1e3, "M" => 1e6, "G" => 1e9, _ => 1 };
        double? deviation = double.TryParse(match.Groups["deviation"].Value, CultureInfo.InvariantCulture, out double known) ? known * scale : null;
        return (mean * scale, deviation, cell);
    }

    // The dense model is what all are measured against; the system's own arms have its colour, the others are quiet.
    private static Tone ToneOf(string arm, string system) => arm.StartsWith("dense", StringComparison.Ordinal) ? Tone.Stone
        : Bare(arm).Contains(Bare(system), StringComparison.OrdinalIgnoreCase) ? Tones[0] : Tones[2];

    private static string Bare(string text) => string.Concat(text.Where(char.IsLetterOrDigit));

    private static string Plain(TableCell cell) => string.Concat(cell.Descendants<LeafInline>().Select(i => i switch { LiteralInline text => text.Content.ToString(), CodeInline code => code.Content, _ => "" })).Trim();

    [GeneratedRegex(@"^(?<mean>\d[\d,]*(\.\d+)?(e[-+]?\d+)?)( ?(?<unit>%|k|M|G|s|ms|MB|KB|GB))?( ± (?<deviation>[\d.]+(e[-+]?\d+)?))?( ?(%|k|M|G|s|ms))?$", RegexOptions.ExplicitCapture)]
    private static partial Regex Written();
}
