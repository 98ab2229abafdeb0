using System.Text.Json;
using Espalier.Methods.Pruning.Searching;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Pruning.Comparing;
using Espalier.Reporting;
using Espalier.Runtime;
using Espalier.Tests.Models;
using Espalier.Tests.Pruning;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Tests.Methods.Pruning.Searching;

public sealed class ArchitectureSearchTests
{
    [Fact]
    public async Task The_search_finds_the_architecture_that_keeps_all_that_matters_and_leaves_no_tensor_behind()
    {
        using var folder = new TemporaryFolder();
        WithoutHalfItsNeurons(folder["model"]);
        var request = new SearchRequest
        {
            // About as many parameters each: half of the neurons, which do nothing, or channels, or layers.
            Model = folder["model"], Out = folder["out"],
            Search = new() { Parameters = "1.94M", Tolerance = 0.05, Layers = [6, 4], KeyValueHeads = [3], Neurons = [512, 256], Hidden = [192, 136], LightSteps = 1 },
            Data = new() { Calibration = Assets.HeldOutText, Evaluation = Assets.HeldOutText, Samples = 4, Length = 32, Windows = 4, Context = 64 },
            Retrain = new Dictionary<string, object?> { ["method"] = "minitron", ["steps"] = 2, ["batch"] = 1, ["length"] = 16, ["learning_rate"] = 1e-5 },
        };
        long live = Parameters.LiveTensors;
        SearchReport report = await ArchitectureSearch.RunAsync(request, CPU, SilentProgress.Instance);
        Parameters.LiveTensors.ShouldBeLessThanOrEqualTo(live);
        report.Failures.ShouldBeEmpty();
        report.Candidates.Select(c => c.Name).ShouldBe(["L6 H6 F256 E192", "L6 H6 F512 E136", "L4 H6 F512 E192"], ignoreOrder: true);
        report.Best.Name.ShouldBe("L6 H6 F256 E192");
        report.Best.RankBefore.ShouldBe(1);
        report.Best.Figures!.BeforeRetraining!.Value.ShouldBe(report.Dense.Perplexity, report.Dense.Perplexity * 1e-4);
        report.Candidates.Skip(1).ShouldAllBe(c => c.Figures!.BeforeRetraining > 1.2 * report.Dense.Perplexity);
        report.Chosen.Parameters.ShouldBe(report.Best.Parameters);
        ModelConfig.Load(folder["out"]).IntermediateSize.ShouldBe(256);

        // Measured once for all: six blocks, in one place.
        Directory.GetFiles(folder["out"], "units-*", SearchOption.AllDirectories).Length.ShouldBe(6);
    }

    [Fact]
    public async Task The_chosen_model_is_that_of_an_ordinary_plan_and_everything_is_reported()
    {
        using var files = new ComparisonFiles();
        SearchReport report = await ArchitectureSearch.RunAsync(Request(files), CPU, SilentProgress.Instance);
        report.Candidates.Count.ShouldBe(4);
        report.Candidates.Select(c => c.Rank).ShouldBe([1, 2, 3, 4]);
        report.Candidates.Select(c => c.RankBefore).ShouldBe([1, 2, 3, 4], ignoreOrder: true);
        report.RankCorrelation!.Value.ShouldBeInRange(-1, 1);
        report.Candidates.ShouldAllBe(c => c.Figures!.Parameters == c.Parameters);
        report.Candidates.ShouldAllBe(c => File.Exists(Path.Combine(files.Out, c.Folder, "report.html")) && !File.Exists(Path.Combine(files.Out, c.Folder, "model.safetensors")));
        PruningReport own = ReportJson.Load<PruningReport>(Path.Combine(files.Out, "report.json"));
        own.Quality.Select(q => q.Stage).ShouldBe(["dense", "pruned", "retrained"]);
        own.Quality[^1].Perplexity.ShouldBe(report.Chosen.Perplexity);
        own.Quality[0].Perplexity.ShouldBe(report.Dense.Perplexity);
        own.Losses.Count.ShouldBe(report.Steps);
        using (JsonDocument json = JsonDocument.Parse(File.ReadAllText(Path.Combine(files.Out, "search.json"))))
        {
            json.RootElement.EnumerateObject().Select(p => p.Name).ShouldBe(
                ["model", "evaluation", "seed", "parameters", "target", "tolerance", "fitting", "dense", "lightSteps", "steps", "candidates", "rankCorrelation", "chosen", "machine"]);
            json.RootElement.GetProperty("candidates")[0].GetProperty("figures").GetProperty("beforeRetraining").GetDouble().ShouldBe(report.Best.Figures!.BeforeRetraining!.Value);
        }

        string page = File.ReadAllText(Path.Combine(files.Out, "search.html"));
        page.ShouldContain("Perplexity against parameters");
        page.ShouldContain("Perplexity against speed");
        page.ShouldContain("Before and after light retraining");

        // By itself the plan measures importance for what it cuts alone.
        PruneRequest alone = PlanFile.Read(Path.Combine(files.Out, "plan.yaml")).With("out", files["alone"]).Bind<PruneRequest>();
        await Pruner.RunAsync(PruneJobs.Make(alone, CPU, fresh: false, SilentProgress.Instance), SilentProgress.Instance);
        File.ReadAllBytes(Path.Combine(files["alone"], "model.safetensors")).ShouldBe(File.ReadAllBytes(Path.Combine(files.Out, "model.safetensors")));
    }

    [Fact]
    public async Task A_stopped_search_goes_on_and_a_finished_one_is_not_repeated()
    {
        using var files = new ComparisonFiles();
        using var stop = new CancellationTokenSource();
        var heard = new Heard(s => Stop(s, "L1 H2 F40 E16, seed 0:"));
        await Should.ThrowAsync<OperationCanceledException>(() => ArchitectureSearch.RunAsync(Request(files), CPU, heard, stop.Token));
        File.Exists(Path.Combine(files.Out, "model.safetensors")).ShouldBeFalse();
        int finished = heard.Said.Count(s => s.EndsWith(", seed 0:", StringComparison.Ordinal)) - 1;
        finished.ShouldBeGreaterThan(0);

        heard = new Heard();
        SearchReport report = await ArchitectureSearch.RunAsync(Request(files), CPU, heard);
        heard.Said.Count(s => s.Contains("was run before", StringComparison.Ordinal)).ShouldBe(finished);
        heard = new Heard();
        SearchReport again = await ArchitectureSearch.RunAsync(Request(files), CPU, heard);
        heard.Said.Count(s => s.Contains("was run before", StringComparison.Ordinal)).ShouldBe(5);
        again.Chosen.ShouldBe(report.Chosen);

        // More steps for the chosen one are no reason to run the candidates again.
        heard = new Heard();
        again = await ArchitectureSearch.RunAsync(Request(files, steps: 5), CPU, heard);
        heard.Said.Count(s => s.Contains("was run before", StringComparison.Ordinal)).ShouldBe(4);
        again.Steps.ShouldBe(5);

        void Stop(string said, string at)
        {
            if (said == at)
            {
                stop.Cancel();
            }
        }
    }

    [Fact]
    public async Task A_candidate_that_fails_does_not_lose_the_others()
    {
        using var files = new ComparisonFiles();
        Directory.CreateDirectory(Path.Combine(files.Out, "search", "runs"));
        File.WriteAllText(Path.Combine(files.Out, "search", "runs", "L1-H2-F40-E16-seed0"), "in the way");
        SearchReport report = await ArchitectureSearch.RunAsync(Request(files), CPU, SilentProgress.Instance);
        report.Failures.ShouldHaveSingleItem().ShouldStartWith("L1 H2 F40 E16 failed:");
        report.Candidates[^1].ShouldSatisfyAllConditions(c => c.Rank.ShouldBeNull(), c => c.Figures.ShouldBeNull());
        SearchPage.Rows(report).ShouldContain(r => r[0] == "L1 H2 F40 E16" && r[4] == "failed");
        SearchPage.Make(report).ToHtml().ShouldContain("L1 H2 F40 E16 failed");
    }

    [Fact]
    public void What_light_retraining_did_to_the_ranking_is_a_sentence()
    {
        SearchPage.Ranking(Reported(100, ("a", 10, 5), ("b", 8, 6), ("c", 12, 7))).ShouldBe(
            "2 of 3 candidates changed their rank in light retraining (rank correlation 0.50); b was first before and is second now. Rankings may change until about 300 steps; these are after 100 steps.");
        SearchPage.Ranking(Reported(300, ("a", 8, 5), ("b", 10, 6))).ShouldBe("0 of 2 candidates changed their rank in light retraining.");
        SearchPage.Ranking(Reported(100, ("a", 8, 5))).ShouldBe("Only one candidate was finished, so nothing was ranked.");
    }

    private static SearchRequest Request(ComparisonFiles files, int steps = 3) => new()
    {
        Model = files["model"], Out = files.Out,
        Search = new() { Parameters = "100K", Tolerance = 0.5, Layers = [2, 1], Heads = [4, 2], Neurons = [40], Hidden = [24, 16], Candidates = 4, LightSteps = 2 },
        Data = new() { Calibration = files["text.jsonl"], Evaluation = files["text.jsonl"], Samples = 4, Length = 16, Windows = 4, Context = 16 },
        Retrain = new Dictionary<string, object?> { ["method"] = "minitron", ["steps"] = steps, ["batch"] = 1, ["length"] = 16 },
    };

    // By perplexity as cut and after light retraining, in the order of the second.
    private static SearchReport Reported(int steps, params (string Name, double Before, double After)[] candidates)
    {
        var plan = new SearchPlan(100, 50, candidates.Length, [.. candidates.Select(c => new SearchedArchitecture(c.Name, default, 1, Plan(c.Name), Plan(c.Name)))]);
        var compared = new ComparisonReport
        {
            Model = "m", Evaluation = "text", Seeds = [0], Dense = new StageQuality("dense", 4, 0), Machine = new Dictionary<string, string>(),
            Plans = [.. candidates.Select(c => PlanResult.Of(Plan(c.Name), 0, [new SeedRun(0, "f", Figures(c.Before, c.After), null)]))],
        };
        var request = new SearchRequest { Model = "m", Out = "out", Search = new() { Parameters = "50", LightSteps = steps } };
        return SearchReport.Of(request, plan, compared, Figures(1, 1));

        static NamedPlan Plan(string name) => new(name, new PruneRequest { Model = "m", Out = "-", Prune = new PruneSection { Criterion = "magnitude", Sparsity = 0.5 }, Retrain = "minitron" });
    }

    private static PlanFigures Figures(double before, double after) => new()
    {
        Perplexity = after, BeforeRetraining = before, LogRise = 0, Sparsity = 0.5, Parameters = 50, Nonzero = 50, DiskBytes = 200, PackedBytes = 200, Trained = 50,
    };

    // The shipped model; in every block each second neuron writes nothing and is never active.
    private static void WithoutHalfItsNeurons(string folder)
    {
        Directory.CreateDirectory(folder);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using LanguageModel model = LanguageModel.Load(Assets.DefaultModel);
        foreach ((string name, Parameter value) in model.Tensors.Where(t => t.Name.Contains(".mlp.", StringComparison.Ordinal)))
        {
            int axis = name.EndsWith("down_proj.weight", StringComparison.Ordinal) ? 1 : 0;
            value.index_fill_(axis, arange(0, value.shape[axis], 2), 0);
        }

        TinyModels.Write(folder, ModelConfig.Load(Assets.DefaultModel), model.Tensors.Select(t => (t.Name, (Tensor)t.Value)));
        CompanionFiles.Copy(CompanionFiles.Tokenizer, Assets.DefaultModel, folder);
    }
}
