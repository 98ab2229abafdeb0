using System.Globalization;
using Espalier.Reporting;
using Espalier.Runtime;

namespace Espalier.Pruning;

/// <summary>The speed table in words, as a table and as a picture.</summary>
public static class SpeedText
{
    /// <summary>The headings of <see cref="Rows"/>.</summary>
    public static IReadOnlyList<string> Headings { get; } = ["model", "code", "weights", "tokens/s", "prompt tokens/s", "perplexity"];

    /// <summary>Way by way.</summary>
    public static IEnumerable<IReadOnlyList<string>> Rows(SpeedTable table) => table.Rows.Select(r => (IReadOnlyList<string>)
    [
        r.Name,
        r.Code.Length > 0 ? r.Code : "libtorch",
        Text.Bytes(r.Bytes),
        r.TokensPerSecond.ToString("0.0", CultureInfo.InvariantCulture),
        r.PromptTokensPerSecond.ToString("0", CultureInfo.InvariantCulture),
        r.Perplexity?.ToString("0.00", CultureInfo.InvariantCulture) ?? "",
    ]);

    internal static ReportPage AddTo(ReportPage page, SpeedTable table)
    {
        string how = $"Measured in turns on this machine with {table.Threads} {(table.Threads == 1 ? "thread" : "threads")}: one new token after the other, and a prompt at once; medians. f32 runs in libtorch, the rest on the packed kernels."
            + (table.Windows > 0 ? $" Perplexity is of {table.Windows} evaluation windows." : "");
        return page.Section("How fast it is", $"{table.Sentence} {how}",
            new ScatterChart
            {
                Title = "Speed against size",
                XLabel = "weights in memory, MB",
                YLabel = "tokens/s",
                Points = [.. table.Rows.Select(r => new ScatterPoint(r.Name, r.Bytes / 1e6, r.TokensPerSecond))],
            },
            new DataTable([.. Headings.Select((h, i) => new Column(h, i > 1))], [.. Rows(table)]));
    }
}
