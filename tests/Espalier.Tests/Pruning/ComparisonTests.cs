using System.Text.Json;
using Espalier.Checkpoints;
using Espalier.Methods.Pruning;
using Espalier.Pruning;
using Espalier.Pruning.Comparing;
using Espalier.Reporting;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Tests.Pruning;

public sealed class ComparisonTests
{
    private static readonly Dictionary<string, string> nothing = [];

    [Fact]
    public async Task Plans_are_compared_on_the_same_windows_and_their_weights_are_removed()
    {
        using var files = new ComparisonFiles();
        ComparisonRequest request = ComparisonRequest.Read([files.Study("{ name: first, prune: { criterion: magnitude, sparsity: 0.5 } }", "{ name: second, prune: { criterion: wanda, sparsity: 0.75 } }")], nothing);
        ComparisonReport report = await Comparison.RunAsync(request, CPU, SilentProgress.Instance);

        report.Seeds.ShouldBe([0, 1]);
        report.Failures.ShouldBeEmpty();
        report.Plans.Select(p => p.Mean(Metric.Perplexity)!.Value).ShouldBeInOrder();
        report.Plans[0].AgainstBest.ShouldBeNull();
        report.Plans[1].AgainstBest!.Seeds.ShouldBe(2);
        foreach (PlanResult plan in report.Plans)
        {
            double sparsity = plan.Name == "first" ? 0.5 : 0.75;
            foreach (SeedRun run in plan.Runs)
            {
                PlanFigures figures = run.Figures!;
                figures.Sparsity.ShouldBe(sparsity, 0.02);
                figures.LogRise.ShouldBe(Math.Log(figures.Perplexity / report.Dense.Perplexity), 1e-9);
                PruningReport alone = ReportJson.Load<PruningReport>(Path.Combine(files.Out, run.Folder, "report.json"));
                figures.Nonzero.ShouldBe(alone.Parameters - alone.Pruned);
                figures.Parameters.ShouldBe(alone.Parameters);
                figures.PackedBytes.ShouldBeInRange(figures.Nonzero * 4, figures.DiskBytes);
                figures.Speed!.CutTokensPerSecond.ShouldBeGreaterThan(0);
                alone.Quality[0].Perplexity.ShouldBe(report.Dense.Perplexity);
                alone.Data["evaluation"].ShouldBe(report.Evaluation);
                Directory.GetFiles(Path.Combine(files.Out, run.Folder), "*.safetensors").ShouldBeEmpty();
            }
        }

        string[] drawn = [.. report.Plans.Single(p => p.Name == "second").Runs.Select(r => ReportJson.Load<PruningReport>(Path.Combine(files.Out, r.Folder, "report.json")).Data["calibration"])];
        drawn[0].ShouldNotBe(drawn[1]);
    }

    [Fact]
    public async Task The_json_holds_every_seed_and_what_is_said_over_them()
    {
        using var files = new ComparisonFiles();
        ComparisonRequest request = ComparisonRequest.Read([files.Study("{ name: first, prune: { criterion: magnitude, sparsity: 0.5 } }", "{ name: second, prune: { criterion: magnitude, sparsity: 0.75 } }")], nothing);
        await Comparison.RunAsync(request, CPU, SilentProgress.Instance);
        using JsonDocument json = JsonDocument.Parse(File.ReadAllText(Path.Combine(files.Out, "compare.json")));
        json.RootElement.EnumerateObject().Select(p => p.Name).ShouldBe(["model", "evaluation", "seeds", "dense", "plans", "machine"]);
        JsonElement plan = json.RootElement.GetProperty("plans")[1];
        plan.EnumerateObject().Select(p => p.Name).ShouldBe(["name", "plan", "planYaml", "runs", "metrics", "againstBest"], ignoreOrder: true);
        plan.GetProperty("runs").GetArrayLength().ShouldBe(2);
        plan.GetProperty("runs")[0].GetProperty("figures").GetProperty("perplexity").GetDouble().ShouldBeGreaterThan(1);
        plan.GetProperty("metrics").GetProperty("perplexity").GetProperty("values").GetArrayLength().ShouldBe(2);
        string[] against = ["best", "difference", "low", "high", "seeds", "verdict"];
        plan.GetProperty("againstBest").EnumerateObject().Select(p => p.Name).ShouldBe(against);
        string page = File.ReadAllText(Path.Combine(files.Out, "compare.html"));
        page.ShouldContain("Perplexity against size");
        page.ShouldContain("Perplexity against speed");
        page.ShouldNotContain("Perplexity against training"); // nothing was trained
    }

    [Fact]
    public async Task A_finished_run_is_not_repeated_and_a_changed_plan_is_run_anew()
    {
        using var files = new ComparisonFiles();
        string study = files.Study("{ name: first, prune: { criterion: magnitude, sparsity: 0.5 } }", "{ name: second, prune: { criterion: wanda, sparsity: 0.5 } }");
        ComparisonReport before = await Comparison.RunAsync(ComparisonRequest.Read([study], nothing), CPU, SilentProgress.Instance);
        var heard = new Heard();
        ComparisonReport again = await Comparison.RunAsync(ComparisonRequest.Read([study], nothing), CPU, heard);
        heard.Said.Count(s => s.Contains("was run before", StringComparison.Ordinal)).ShouldBe(4);
        again.Plans.Select(p => p.Mean(Metric.Seconds)).ShouldBe(before.Plans.Select(p => p.Mean(Metric.Seconds)));

        study = files.Study("{ name: first, prune: { criterion: magnitude, sparsity: 0.5 } }", "{ name: second, prune: { criterion: wanda, sparsity: 0.7 } }");
        heard = new Heard();
        ComparisonReport changed = await Comparison.RunAsync(ComparisonRequest.Read([study], nothing), CPU, heard);
        heard.Said.Where(s => s.Contains("was run before", StringComparison.Ordinal)).ShouldAllBe(s => s.StartsWith("first", StringComparison.Ordinal));
        changed.Plans.Single(p => p.Name == "second").Mean(Metric.Sparsity)!.Value.ShouldBe(0.7, 0.05);

        // Weights that were retrained or exchanged in place are another model.
        File.SetLastWriteTimeUtc(Path.Combine(files["model"], "model.safetensors"), DateTime.UtcNow.AddHours(-1));
        heard = new Heard();
        await Comparison.RunAsync(ComparisonRequest.Read([study], nothing), CPU, heard);
        heard.Said.ShouldNotContain(s => s.Contains("was run before", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Retraining_is_counted_drawn_and_done_anew_when_its_text_changes()
    {
        using var files = new ComparisonFiles();
        string study = files.Study("{ name: plain, prune: { criterion: magnitude, sparsity: 0.5 } }",
            "{ name: trained, prune: { criterion: magnitude, sparsity: 0.5 }, retrain: { method: perp, subset: [norms], steps: 1, batch: 1, length: 16 } }");
        ComparisonRequest request = ComparisonRequest.Read([study], nothing) with { Seeds = [0] };
        ComparisonReport report = await Comparison.RunAsync(request, CPU, SilentProgress.Instance);
        report.Plans.Single(p => p.Name == "trained").Mean(Metric.Trained)!.Value.ShouldBeGreaterThan(0);
        report.Plans.Single(p => p.Name == "plain").Mean(Metric.Trained).ShouldBe(0);
        File.ReadAllText(Path.Combine(files.Out, "compare.html")).ShouldContain("Perplexity against training");

        File.SetLastWriteTimeUtc(files["text.jsonl"], DateTime.UtcNow.AddHours(-1));
        var heard = new Heard();
        await Comparison.RunAsync(request, CPU, heard);
        heard.Said.Where(s => s.Contains("was run before", StringComparison.Ordinal)).ShouldHaveSingleItem().ShouldStartWith("plain");
    }

    [Fact]
    public async Task Kept_checkpoints_stay_and_are_made_where_they_had_been_removed()
    {
        using var files = new ComparisonFiles();
        ComparisonRequest request = ComparisonRequest.Read([files.Study("{ name: first, prune: { criterion: magnitude, sparsity: 0.5 } }", "{ name: second, prune: { criterion: magnitude, sparsity: 0.6 } }")], nothing) with { Seeds = [0] };
        await Comparison.RunAsync(request, CPU, SilentProgress.Instance);
        File.Exists(Path.Combine(files.Out, "runs", "first-seed0", "model.safetensors")).ShouldBeFalse();
        await Comparison.RunAsync(request with { Keep = true }, CPU, SilentProgress.Instance);
        using Checkpoint kept = Checkpoint.Open(Path.Combine(files.Out, "runs", "first-seed0"));
        kept.Names.ShouldNotBeEmpty();
    }

    [Fact]
    public async Task A_stopped_comparison_keeps_what_was_finished()
    {
        using var files = new ComparisonFiles();
        ComparisonRequest request = ComparisonRequest.Read([files.Study("{ name: first, prune: { criterion: magnitude, sparsity: 0.5 } }", "{ name: second, prune: { criterion: wanda, sparsity: 0.5 } }")], nothing);
        using var stop = new CancellationTokenSource();
        await Should.ThrowAsync<OperationCanceledException>(() => Comparison.RunAsync(request, CPU, new Heard(s => Stop(s, "second, seed 0:")), stop.Token));
        File.Exists(Path.Combine(files.Out, "compare.json")).ShouldBeFalse();
        var heard = new Heard();
        (await Comparison.RunAsync(request, CPU, heard)).Failures.ShouldBeEmpty();
        heard.Said.Where(s => s.Contains("was run before", StringComparison.Ordinal)).ShouldHaveSingleItem().ShouldStartWith("first, seed 0");

        void Stop(string said, string at)
        {
            if (said == at)
            {
                stop.Cancel();
            }
        }
    }

    [Fact]
    public async Task A_plan_that_fails_does_not_lose_the_others()
    {
        using var files = new ComparisonFiles();
        ComparisonRequest request = ComparisonRequest.Read([files.Study("{ name: odd, prune: { criterion: magnitude, pattern: '5:7' } }", "{ name: sound, prune: { criterion: magnitude, sparsity: 0.5 } }")], nothing);
        ComparisonReport report = await Comparison.RunAsync(request, CPU, SilentProgress.Instance);
        report.Plans.Select(p => p.Name).ShouldBe(["sound", "odd"]);
        report.Plans[0].Runs.ShouldAllBe(r => r.Figures != null);
        report.Failures.ShouldHaveSingleItem().ShouldStartWith("odd failed with seeds 0, 1: The pattern");
        ComparisonPage.Rows(report).Last().Last().ShouldBe("failed");
        ComparisonPage.Make(report).ToHtml().ShouldContain("odd failed with seeds 0, 1");
    }

    [Fact]
    public void Verdicts_come_from_the_paired_difference()
    {
        ComparisonReport report = Reported(("a", [1.0, 2.0, 3.0]), ("worse", [1.1, 2.1, 3.11]), ("like a", [1.0, 2.3, 2.9]), ("once", [2.5]), ("never", []));
        report.Plans.Select(p => p.Name).ShouldBe(["a", "like a", "worse", "once", "never"]);
        report.Plans[1].AgainstBest!.Verdict.ShouldBe("not distinguishable");
        report.Plans[2].AgainstBest!.Verdict.ShouldBe("worse");
        report.Plans[2].AgainstBest!.Difference.ShouldBe(0.31 / 3, 1e-9);
        report.Plans[3].AgainstBest!.ShouldSatisfyAllConditions(a => a.Verdict.ShouldBe("not distinguishable"), a => a.Low.ShouldBeNull());
        report.Plans[4].AgainstBest.ShouldBeNull();
        ComparisonPage.Headline(report).ShouldContain("like a, once cannot be told from it");
    }

    // The values are log-perplexities, seed by seed.
    private static ComparisonReport Reported(params (string Name, double[] Logs)[] plans)
    {
        var request = new ComparisonRequest
        {
            Plans = [.. plans.Select(p => new NamedPlan(p.Name, new PruneRequest { Model = "m", Out = "-", Prune = new PruneSection { Criterion = "magnitude", Sparsity = 0.5 } }))],
        };
        var shared = new PruningJob
        {
            Model = "m", Folder = "m", Out = "out", Data = new Dictionary<string, string> { ["evaluation"] = "text" },
            Plan = new PruningPlan { Criterion = new Magnitude(), Pattern = Pattern.Unstructured(0.5) },
        };
        return ComparisonReport.Of(request, shared, new StageQuality("dense", 1, 0), plans.ToDictionary(p => p.Name, p => Enumerable.Range(0, 3)
            .Select(i => i < p.Logs.Length ? new SeedRun(i, "f", Figures(p.Logs[i]), null) : new SeedRun(i, "f", null, "no")).ToList()));
    }

    private static PlanFigures Figures(double log) => new()
    {
        Perplexity = Math.Exp(log), LogRise = log, Sparsity = 0.5, Parameters = 10, Nonzero = 5, DiskBytes = 40, PackedBytes = 22, Trained = 0,
    };
}
