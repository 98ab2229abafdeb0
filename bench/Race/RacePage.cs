using System.Globalization;
using Espalier.Reporting;

namespace Espalier.Race;

/// <summary>Draws race.json as a page: the targets, per model and number of threads the roofline and a table, and the prompts.</summary>
internal static class RacePage
{
    private const int CurvePoints = 20;

    public static ReportPage Make(string json)
    {
        RaceResult race = ReportJson.Load<RaceResult>(json);
        var page = new ReportPage("The race", Headline(race))
        {
            Kicker = race.Quick ? "bench/race.sh --quick · a try-out, not a result" : "bench/race.sh",
            Footer = $"{race.Machine} · {race.Versions} · medians of {race.Rounds} rounds, all contenders in turns",
        };
        page.Add(new Figures([.. race.Bandwidth.Select(b => new Figure($"read bandwidth, {Threads(int.Parse(b.Key, CultureInfo.InvariantCulture))}", $"{b.Value:0.0} GB/s"))]));
        if (race.Targets.Count > 0)
        {
            page.Section("Targets", "With two threads on the large model.", new DataTable([new("target"), new("at least", true), new("reached", true), new("")],
                [.. race.Targets.Select(t => (IReadOnlyList<string>)[t.Name, Number(t.Goal), Number(t.Reached), t.Reached >= t.Goal ? "met" : "missed"])]));
        }

        foreach (var group in race.Rows.GroupBy(r => (r.Model, r.Threads)))
        {
            RaceRow[] rows = [.. group];
            page.Section($"{group.Key.Model}, {Threads(group.Key.Threads)}", null, Roofline(race, rows), Table(rows));
        }

        if (race.Prompts.Count > 0)
        {
            page.Section("Reading a prompt", "Packed weights are expanded tile by tile and multiplied by libtorch, which the dense model does without expanding.",
                new DataTable([new("model"), new("contender"), new("threads", true), new("tokens", true), new("tokens/s", true), new("against dense", true)],
                    [.. race.Prompts.Select(p => (IReadOnlyList<string>)[p.Model, p.Contender, $"{p.Threads}", $"{p.Tokens}", Number(p.TokensPerSecond), Number(p.AgainstDense)])]));
        }

        return page;
    }

    private static string Headline(RaceResult race) => race.Targets.Count == 0
        ? "Decoding speed of packed and dense models and of llama.cpp on the same weights."
        : $"{race.Targets.Count(t => t.Reached >= t.Goal)} of {race.Targets.Count} targets are met.";

    // Nobody decodes faster than memory gives the weights: tokens/s ≤ bandwidth ÷ bytes per token.
    private static ScatterChart Roofline(RaceResult race, RaceRow[] rows)
    {
        double least = rows.Min(r => r.BytesPerToken) / 1e9 * 0.8, most = rows.Max(r => r.BytesPerToken) / 1e9 * 1.1;
        return new ScatterChart
        {
            Title = "Tokens per second against bytes per token",
            XLabel = "GB that a token reads",
            YLabel = "tokens/s",
            Logarithmic = true,
            LogarithmicX = true,
            Points = [.. rows.Select(r => new ScatterPoint(r.Side == "llama.cpp" ? $"llama.cpp {r.Contender}" : r.Contender, r.BytesPerToken / 1e9, r.TokensPerSecond))],
            Curves = [.. race.Bandwidth.Where(b => b.Key == rows[0].Threads.ToString(CultureInfo.InvariantCulture)).Select(b => new Series($"{b.Value:0.0} GB/s, {Threads(int.Parse(b.Key, CultureInfo.InvariantCulture))}",
                [.. Enumerable.Range(0, CurvePoints).Select(i => least * Math.Pow(most / least, i / (CurvePoints - 1.0))).Select(x => (x, b.Value / x))], Tone.Slate))],
            Note = "The dashed line is what memory allows: the measured read bandwidth divided by the bytes of a token.",
        };
    }

    private static DataTable Table(RaceRow[] rows) => new(
        [new("contender"), new(""), new("tokens/s", true), new("slowest to fastest", true), new("MB per token", true), new("of the bandwidth", true), new("perplexity of the small model", true), new("against"), new("speed-up", true)],
        [.. rows.Select(r => (IReadOnlyList<string>)[r.Contender, r.Side, Number(r.TokensPerSecond), $"{Number(r.Least)} to {Number(r.Most)}",
            (r.BytesPerToken / 1e6).ToString("0.0", CultureInfo.InvariantCulture), (r.BandwidthShare * 100).ToString("0", CultureInfo.InvariantCulture) + " %", r.Perplexity is { } p ? p.ToString("0.00", CultureInfo.InvariantCulture) : "", r.Rival ?? "", r.SpeedUp is { } by ? Number(by) : ""])]);

    private static string Number(double value) => value.ToString(value >= 100 ? "0" : value >= 10 ? "0.0" : "0.00", CultureInfo.InvariantCulture);

    private static string Threads(int count) => count == 1 ? "1 thread" : $"{count} threads";
}
