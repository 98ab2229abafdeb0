using System.Globalization;
using Espalier.Checkpoints;
using Espalier.Pruning.Structured;
using Espalier.Reporting;
using Espalier.Runtime;

namespace Espalier.Pruning;

/// <summary>A pruning run as one page to look at.</summary>
public static class PruningReportPage
{
    private static readonly Dictionary<string, Tone> Tones = new() { ["dense"] = Tone.Slate, ["pruned"] = Tone.Clay, ["repaired"] = Tone.Ochre, ["quantised"] = Tone.Ochre, ["retrained"] = Tone.Leaf, ["requantised"] = Tone.Leaf };

    /// <summary>Writes <c>report.html</c>, <c>report.json</c> and <c>plan.yaml</c> into the run's output folder.</summary>
    public static void SaveAll(PruningReport report)
    {
        ReportJson.Save(Path.Combine(report.Out, "report.json"), report);
        Make(report).Save(Path.Combine(report.Out, "report.html"));
        if (report.PlanYaml is not null)
        {
            AtomicFile.WriteText(Path.Combine(report.Out, "plan.yaml"), report.PlanYaml);
        }
    }

    /// <summary>Makes the page.</summary>
    public static ReportPage Make(PruningReport report)
    {
        ReportPage page = new ReportPage($"{ShortName(report.Model)}, {(OnlyRetrained(report) ? "retrained" : "pruned")}", $"{Headline(report)} {report.Speed?.Sentence}".TrimEnd()) { Kicker = "Espalier pruning report", Footer = string.Join(" · ", report.Machine.Select(m => $"{m.Key} {m.Value}")) }
            .Add(new Figures([.. KeyFigures(report)]));
        if (report.Warnings.Count > 0)
        {
            page = page.Add(new Callout([.. report.Warnings]));
        }

        if (report.Quality.Count > 0)
        {
            page = page.Section(OnlyRetrained(report) ? "What it cost" : "What it cost, and what came back", "Perplexity on held-out text: lower is better.", new BarChart
            {
                Title = "Perplexity by stage",
                Note = report.WonBack is > 0 and var won ? $"{Percent(won)} of the log-perplexity lost to pruning was won back." : null,
                Bars = [.. report.Quality.Select(q => new Bar(q.Stage, q.Perplexity, Tones.GetValueOrDefault(q.Stage, Tone.Leaf), Format(q.Perplexity),
                    double.IsFinite(q.StandardError) ? 1.96 * q.StandardError * q.Perplexity : null))],
            });
        }

        if (report.Samples.Count > 0)
        {
            page = page.Section("Read it", "The same prompts, continued by each stage with the same seed.", [.. report.Samples.Select(Sample)]);
        }

        page = report.Structure is { } structure ? StructureText.AddTo(page, structure, report.DiskBytes) : OnlyRetrained(report) ? page : page.Section("Where the zeros are", $"{Text.Count(report.Pruned)} of {Text.Count(report.Prunable)} prunable weights are zero; the embedding and the head are left whole.", Sparsity(report));
        if (report.Losses.Count > 0)
        {
            page = page.Section("Retraining", $"{Text.Count(report.Trained ?? 0)} parameters ({Percent((report.Trained ?? 0) / (double)report.Parameters)}) were trained: {string.Join(", ", report.TrainedGroups?.Select(g => $"{Text.Count(g.Value)} {g.Key}") ?? [])}.",
                new LineChart { Title = "Loss", XLabel = "step", YLabel = report.LossName ?? "loss", Smoothing = 0.9, Lines = [Series.Of("loss", report.Losses)] });
        }

        if (report.Quantisation is { } quantisation)
        {
            page = page.Section("Quantisation", quantisation.ToString() + RequantisingCost(report), DataTable.Of([KeyValuePair.Create("rounded", report.Plan["quantisation"])], "what", "how"));
        }

        if (report.Activations is { Count: > 0 } activations)
        {
            page = page.Section("Activations", ActivationReport.Sentence(activations), ActivationReport.Chart(activations));
        }

        if (report.Blocks.Any(b => b.OutputError is not null))
        {
            page = page.Section("Block by block", "How far each pruned block's output is from the dense block's, on the same inputs.", new ColumnChart
            {
                Title = "Relative output error",
                XLabel = "block",
                YLabel = "‖dense − pruned‖² / ‖dense‖²",
                Places = [.. report.Blocks.Select(b => b.Index.ToString(CultureInfo.InvariantCulture))],
                Columns = [new ColumnSeries("output error", [.. report.Blocks.Select(b => b.OutputError)], Tone.Clay)],
            });
        }

        if (report.Speed is { } speed)
        {
            page = SpeedText.AddTo(page, speed);
        }

        var costs = report.Seconds.Select(s => KeyValuePair.Create(s.Key, Text.Duration(TimeSpan.FromSeconds(s.Value)))).ToList();
        costs.Add(KeyValuePair.Create("peak memory", Text.Bytes(report.PeakMemory)));
        costs.Add(KeyValuePair.Create("on disk before", Text.Bytes(report.DiskBytes.Before)));
        costs.Add(KeyValuePair.Create("on disk after", $"{Text.Bytes(report.DiskBytes.After)}{(report.Structure is null ? " (zeros are stored; the shapes did not change)" : "")}"));
        if (report.ReopenedDifference is { } difference)
        {
            costs.Add(KeyValuePair.Create("re-opened cold", FormattableString.Invariant($"logits differ by at most {difference:G3}")));
        }

        if (report.Readers.Count > 0)
        {
            page = page.Section("Who loads it", "Espalier opened the output anew; transformers is a check of its rules; the others read what `espalier export` writes.",
                new DataTable([new Column("reader"), new Column("loads it"), new Column("how, or why not")], [.. report.Readers.Select(r => (IReadOnlyList<string>)[r.Name, r.Word, r.How])]));
        }

        page = page.Section("Time, memory, disk", null, DataTable.Of(costs, "what", "how much"))
            .Section("The plan", "Run it again with `espalier prune plan.yaml`.", report.PlanYaml is null ? DataTable.Of(report.Plan) : new CodeBlock("plan.yaml", report.PlanYaml));
        return page.Add(new Details("Texts and layers", DataTable.Of(report.Data, "text", "from"), Layers(report)));
    }

    /// <summary>The run in one sentence.</summary>
    public static string Headline(PruningReport report)
    {
        string what = report.Structure is { } structure ? StructureText.Sentence(structure) : OnlyRetrained(report) ? "No weight was pruned; the model was retrained."
            : report is { Pruned: 0, Quantisation: not null } ? "No weight was pruned." : $"{Percent(report.Pruned / (double)report.Prunable)} of the prunable weights are zero.";
        what += report.Quantisation is { } quantisation ? $" The kept weights are rounded to {quantisation.Type}." : "";
        StageQuality? dense = report.Quality.FirstOrDefault(q => q.Stage == "dense"), last = report.Quality.LastOrDefault();
        if (dense is null || last is null || last == dense)
        {
            return what;
        }

        StageQuality? pruned = report.Quality.FirstOrDefault(q => q.Stage == "pruned");
        return report.WonBack is { } won && pruned is not null
            ? won > 0
                ? $"{what} Perplexity went from {Format(dense.Perplexity)} to {Format(pruned.Perplexity)}, and back to {Format(last.Perplexity)}: {Percent(won)} of the loss won back."
                : $"{what} Perplexity went from {Format(dense.Perplexity)} to {Format(pruned.Perplexity)}, and on to {Format(last.Perplexity)}: nothing of the loss was won back."
            : $"{what} Perplexity went from {Format(dense.Perplexity)} to {Format(last.Perplexity)}.";
    }

    /// <summary>What rounding once more after a training cost, as a sentence; empty where that did not happen.</summary>
    public static string RequantisingCost(PruningReport report)
    {
        StageQuality? before = report.Quality.FirstOrDefault(q => q.Stage == "retrained"), after = report.Quality.FirstOrDefault(q => q.Stage == "requantised");
        return before is null || after is null ? "" : $" Rounding again after retraining took perplexity from {Format(before.Perplexity)} to {Format(after.Perplexity)}.";
    }

    private static bool OnlyRetrained(PruningReport report) => report is { Pruned: 0, Structure: null, Trained: not null };

    private static IEnumerable<Figure> KeyFigures(PruningReport report)
    {
        if (report.Structure is { } structure)
        {
            yield return new Figure("cut", Percent(structure.Achieved), "of the blocks' parameters");
            if (structure.Speed is { } speed)
            {
                yield return new Figure("speed", FormattableString.Invariant($"{speed.Gain:0.00}×"), "of the dense model's, here", Tone.Leaf);
            }
        }
        else if (report.Activations is { Count: > 0 } activations)
        {
            yield return new Figure("zero", Percent(activations.Average(a => a.Shifted)), "of the feed-forward activations");
        }

        if (report.Structure is null && !OnlyRetrained(report))
        {
            yield return new Figure("zero", Percent(report.Pruned / (double)report.Prunable), "of the prunable weights");
        }

        foreach (StageQuality stage in report.Quality)
        {
            yield return new Figure($"perplexity, {stage.Stage}", Format(stage.Perplexity), Tone: Tones.GetValueOrDefault(stage.Stage, Tone.Leaf));
        }

        if (report.WonBack is > 0 and var won)
        {
            yield return new Figure("won back", Percent(won), "of the lost log-perplexity", Tone.Leaf);
        }

        if (report.Trained is { } trained)
        {
            yield return new Figure("trained", Percent(trained / (double)report.Parameters), $"{Text.Count(trained)} of {Text.Count(report.Parameters)} parameters");
        }

        yield return new Figure("time", Text.Duration(TimeSpan.FromSeconds(report.Seconds.Values.Sum())), $"peak memory {Text.Bytes(report.PeakMemory)}");
    }

    private static HeatGrid Sparsity(PruningReport report)
    {
        string[] kinds = [.. report.Blocks.SelectMany(b => b.Layers).Select(l => Kind(l.Name)).Distinct()];
        return new HeatGrid
        {
            Title = "Sparsity per layer",
            Rows = kinds,
            Columns = [.. report.Blocks.Select(b => b.Index.ToString(CultureInfo.InvariantCulture))],
            XLabel = "block",
            Low = 0,
            High = 1,
            Values = [.. kinds.Select(k => (IReadOnlyList<double?>)[.. report.Blocks.Select(b => b.Layers.FirstOrDefault(l => Kind(l.Name) == k)?.Achieved)])],
        };
    }

    private static DataTable Layers(PruningReport report) => new(
        [new Column("weight"), new Column("shape", true), new Column("asked", true), new Column("achieved", true), new Column("error, mask alone", true), new Column("error, repaired", true)],
        [.. report.Blocks.SelectMany(b => b.Layers).Select(l => (IReadOnlyList<string>)
            [l.Name, $"{l.Rows} × {l.Columns}", Percent(l.Asked), Percent(l.Achieved), Error(l.MaskedError), Error(l.RepairedError)])],
        "Errors are relative output errors on the calibration inputs, where the plan collected them.");

    private static IReportBlock Sample(TextSample sample) => new DataTable(
        [new Column("stage"), new Column($"“{sample.Prompt}”")],
        [.. sample.Continuations.Select(c => (IReadOnlyList<string>)[c.Key, sample.Prompt + c.Value])]);

    // model.layers.0.self_attn.q_proj.weight → self_attn.q_proj
    private static string Kind(string name)
    {
        string[] parts = [.. name.Split('.').Where(p => p != "weight")];
        return string.Join('.', parts[^Math.Min(2, parts.Length)..]);
    }

    // A hub id as it is; of a path its last part.
    internal static string ShortName(string model) => Path.IsPathRooted(model) || model.StartsWith('.') ? Path.GetFileName(model.TrimEnd('/', '\\')) : model;

    private static string Error(double? value) => value is { } v ? v.ToString("G3", CultureInfo.InvariantCulture) : "";

    internal static string Percent(double share) => (100 * share).ToString("0.#", CultureInfo.InvariantCulture) + " %";

    internal static string Format(double perplexity) => perplexity.ToString(perplexity < 100 ? "0.00" : "0.0", CultureInfo.InvariantCulture);
}
