using System.Text.Json;
using Espalier.Cli;
using Espalier.Runs;

namespace Espalier.Tests.Cli;

/// <summary>Recording of commands, and <c>espalier runs</c>, on a store of their own.</summary>
public sealed class RunsCommandTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public RunsCommandTests() => Environment.SetEnvironmentVariable(RunLocation.Variable, Store);

    private string Store => _folder["runs.db"];

    public void Dispose()
    {
        Environment.SetEnvironmentVariable(RunLocation.Variable, "none");
        _folder.Dispose();
    }

    [Fact]
    public async Task A_training_is_kept_with_figures_files_and_outcome_and_shown_compared_exported_deleted()
    {
        string[] words = await RunProcess.TrainingAsync(_folder, "net", 30);
        Tool trained = await Tool.RunAsync([.. words, "--seed", "5", "--title", "the first", "--tag", "paper", "--tag", "small"]);
        trained.Code.ShouldBe(ExitCode.Success, trained.Error);
        trained.Error.ShouldNotContain("not recorded");
        (await Tool.RunAsync([.. await RunProcess.TrainingAsync(_folder, "other", 20)])).Code.ShouldBe(ExitCode.Success);

        JsonElement listed = (await Tool.RunAsync("runs", "list", "--json")).Result;
        listed.GetProperty("total").GetInt32().ShouldBe(2, "the tokeniser's training works on no model");
        JsonElement first = listed.GetProperty("runs")[1];
        first.GetProperty("title").GetString().ShouldBe("the first");
        first.GetProperty("state").GetString().ShouldBe("finished");
        first.GetProperty("seed").GetInt64().ShouldBe(5);
        first.GetProperty("headline").GetString()!.ShouldStartWith("loss ");
        string id = first.GetProperty("shortId").GetString()!;

        JsonElement shown = (await Tool.RunAsync("runs", "show", id, "--json")).Result;
        shown.GetProperty("metrics").EnumerateArray().Select(m => m.GetProperty("name").GetString()).ShouldBe(["gradient norm", "learning rate", "loss"]);
        shown.GetProperty("outcome").GetProperty("steps").GetInt32().ShouldBe(30);
        shown.GetProperty("artefacts").EnumerateArray().Select(a => a.GetProperty("kind").GetString()).ShouldContain("checkpoint");
        shown.GetProperty("artefacts").EnumerateArray().Select(a => a.GetProperty("name").GetString()).ShouldContain("training-log/training.jsonl");
        shown.GetProperty("machine").GetProperty("espalier").GetString().ShouldNotBeNullOrEmpty();
        shown.GetProperty("plan").GetString()!.ShouldContain("steps: \"30\"");
        (await Tool.RunAsync("runs", "show", id)).Output.ShouldContain("the first");

        (await Tool.RunAsync("runs", "list", "--tag", "paper", "--tag", "small", "--find", "FIRST", "--since", "1h", "--json")).Result.GetProperty("total").GetInt32().ShouldBe(1);
        (await Tool.RunAsync("runs", "list", "--command", "prune")).Output.ShouldBe("No runs.\n");
        JsonElement compared = (await Tool.RunAsync("runs", "compare", id, "last", "--json")).Result;
        compared.GetProperty("settings").EnumerateArray().Select(s => s.GetProperty("name").GetString()).ShouldBe(["seed", "plan.steps"], ignoreOrder: true);
        (await Tool.RunAsync("runs", "compare", id, "last")).Output.ShouldContain("last loss");
        (await Tool.RunAsync("runs", "compare", id, id)).Error.ShouldContain("two different runs");

        Tool csv = await Tool.RunAsync("runs", "export", id, "--format", "csv");
        csv.Output.Split('\n')[0].ShouldBe("run,name,step,time,value");
        csv.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Length.ShouldBe(1 + 3 * 4, "steps 0, 10, 20 and the last have a line each");
        (await Tool.RunAsync("runs", "export", "--tag", "paper", "--out", _folder["run.json"])).Code.ShouldBe(ExitCode.Success);
        using (JsonDocument exported = JsonDocument.Parse(File.ReadAllText(_folder["run.json"])))
        {
            exported.RootElement.GetProperty("runs")[0].GetProperty("metrics").GetProperty("loss").GetArrayLength().ShouldBe(4);
        }

        (await Tool.RunAsync("runs", "delete", "--tag", "paper")).Error.ShouldContain("add --yes");
        (await Tool.RunAsync("runs", "delete")).Error.ShouldContain("one of the two");
        (await Tool.RunAsync("runs", "delete", "--tag", "paper", "--yes")).Output.ShouldStartWith("1 run deleted");
        (await Tool.RunAsync("runs", "list", "--json")).Result.GetProperty("total").GetInt32().ShouldBe(1);
        Directory.Exists(_folder["net"]).ShouldBeTrue();
    }

    [Fact]
    public async Task Runs_are_tagged_and_untagged_and_listed_by_tag()
    {
        await using (RunStore store = await RunStore.OpenAsync(RunLocation.Parse(Store)))
        {
            foreach (string title in new[] { "one", "two" })
            {
                Run run = await store.BeginAsync(new NewRun { Command = "train", Title = title, Tags = ["begun"] });
                await store.FinishAsync(run.Id, new RunEnd(RunState.Finished));
            }
        }

        Tool tagged = await Tool.RunAsync("runs", "tag", "last", "paper", "figure 2", "paper", "--json");
        tagged.Result.GetProperty("tags").EnumerateArray().Select(t => t.GetString()).ShouldBe(["begun", "figure 2", "paper"]);
        JsonElement listed = (await Tool.RunAsync("runs", "list", "--tag", "paper", "--tag", "figure 2", "--json")).Result;
        listed.GetProperty("runs").EnumerateArray().Single().GetProperty("title").GetString().ShouldBe("two");
        string id = listed.GetProperty("runs")[0].GetProperty("shortId").GetString()!;
        (await Tool.RunAsync("runs", "tag", id, "paper")).Output.ShouldBe($"{id}: begun, figure 2, paper\n", "a tag is given once");

        (await Tool.RunAsync("runs", "untag", id, "paper", "begun")).Output.ShouldBe($"{id}: figure 2\n");
        (await Tool.RunAsync("runs", "list", "--tag", "paper")).Output.ShouldBe("No runs.\n");
        (await Tool.RunAsync("runs", "list", "--tag", "begun", "--json")).Result.GetProperty("total").GetInt32().ShouldBe(1);
        (await Tool.RunAsync("runs", "untag", id, "paper")).Error.ShouldContain("has none of these tags; it has figure 2");
        (await Tool.RunAsync("runs", "untag", id, "figure 2")).Output.ShouldBe($"{id} has no tags.\n");
        (await Tool.RunAsync("runs", "tag", "last", new string('x', 41))).Error.ShouldContain("is no tag");
        (await Tool.RunAsync("runs", "tag", "ffffffff", "paper")).Error.ShouldContain("There is no run");
        (await Tool.RunAsync("runs", "tag", "last")).Code.ShouldBe(ExitCode.UserError);
    }

    [Fact]
    public async Task Failures_and_stops_end_in_their_states_and_dry_runs_leave_none()
    {
        Tool failed = await Tool.RunAsync("eval", _folder["nothing"], "--data", _folder["nothing.txt"]);
        failed.Code.ShouldBe(ExitCode.UserError);
        using var stop = new CancellationTokenSource();
        await stop.CancelAsync();
        string[] words = await RunProcess.TrainingAsync(_folder, "net", 30);
        (await Tool.RunAsync(words, stop.Token)).Code.ShouldBe(ExitCode.Interrupted);
        await Tool.RunAsync("prune", _folder["nothing"], "--out", _folder["out"], "--dry-run");

        JsonElement runs = (await Tool.RunAsync("runs", "list", "--json")).Result.GetProperty("runs");
        runs.EnumerateArray().Select(r => r.GetProperty("state").GetString()).ShouldBe(["interrupted", "failed"]);
        failed.Error.ShouldContain(runs[1].GetProperty("error").GetString()!);
        (await Tool.RunAsync("runs", "list")).Output.ShouldContain("interrupted");
    }

    [Fact]
    public async Task A_store_out_of_reach_costs_one_warning_and_not_the_run()
    {
        string[] words = await RunProcess.TrainingAsync(_folder, "net", 10);
        File.WriteAllText(_folder["file"], "");
        Environment.SetEnvironmentVariable(RunLocation.Variable, Path.Combine(_folder["file"], "runs.db"));
        Tool trained = await Tool.RunAsync(words);
        trained.Code.ShouldBe(ExitCode.Success, trained.Error);
        trained.Error.Split("not recorded").Length.ShouldBe(2, trained.Error);
        (await Tool.RunAsync("runs", "list")).Error.ShouldContain("cannot be opened");
    }

    [Fact]
    public async Task A_killed_run_is_interrupted_and_goes_on_where_it_was()
    {
        string[] words = await RunProcess.TrainingAsync(_folder, "net", 8000);
        using (RunProcess process = RunProcess.Start(Store, words))
        {
            await using RunStore store = await RunStore.OpenAsync(RunLocation.Parse(Store));
            while (!process.HasExited && (await store.ListAsync(new RunFilter())).Runs is not [{ State: RunState.Running, Progress: > 0.01 }])
            {
                await Task.Delay(100);
            }

            process.HasExited.ShouldBeFalse("the training was too short to be killed");
            process.Kill();
            await process.EndAsync();
        }

        JsonElement killed = (await Tool.RunAsync("runs", "list", "--json")).Result.GetProperty("runs")[0];
        killed.GetProperty("state").GetString().ShouldBe("interrupted");
        Tool printed = await Tool.RunAsync("runs", "resume", "last", "--print");
        printed.Output.ShouldStartWith("espalier train --config ");
        printed.Output.TrimEnd().ShouldEndWith(" --resume");

        Tool resumed = await Tool.RunAsync("runs", "resume", "last");
        resumed.Code.ShouldBe(ExitCode.Success, resumed.Error);
        JsonElement runs = (await Tool.RunAsync("runs", "list", "--json")).Result.GetProperty("runs");
        runs[0].GetProperty("state").GetString().ShouldBe("finished");
        runs[0].GetProperty("resumedFrom").GetString().ShouldBe(killed.GetProperty("id").GetString());
        await using RunStore after = await RunStore.OpenAsync(RunLocation.Parse(Store));
        IReadOnlyList<MetricPoint> loss = await after.MetricsAsync(runs[0].GetProperty("id").GetString()!, new MetricQuery { Names = ["loss"] });
        loss[0].Step.ShouldBeGreaterThan(0, "it began where the killed one had saved");
        loss[^1].Step.ShouldBe(7999);
    }

    [Fact]
    public async Task Two_processes_that_record_at_once_lose_nothing() => await CheckTwoProcessesAsync(_folder, Store);

    [Fact]
    public async Task There_may_be_no_store()
    {
        Environment.SetEnvironmentVariable(RunLocation.Variable, "none");
        (await Tool.RunAsync("runs", "list")).Error.ShouldContain("There is no run store");
        (await Tool.RunAsync("runs")).Code.ShouldBe(ExitCode.UserError);
    }

    /// <summary>Two processes open a new store at the same moment and record a training each; every point of both is there.</summary>
    internal static async Task CheckTwoProcessesAsync(TemporaryFolder folder, string store)
    {
        const int steps = 300;
        string[] first = await RunProcess.TrainingAsync(folder, "one", steps), second = await RunProcess.TrainingAsync(folder, "two", steps);
        using RunProcess one = RunProcess.Start(store, first), two = RunProcess.Start(store, second);
        foreach (RunProcess process in new[] { one, two })
        {
            Tool ended = await process.EndAsync();
            ended.Code.ShouldBe(ExitCode.Success, ended.Error);
            ended.Error.ShouldNotContain("recorded");
        }

        await using RunStore seen = await RunStore.OpenAsync(RunLocation.Parse(store));
        RunPage page = await seen.ListAsync(new RunFilter());
        page.Runs.Count.ShouldBe(2);
        page.Runs.ShouldAllBe(r => r.State == RunState.Finished);
        foreach (Run run in page.Runs)
        {
            IReadOnlyList<MetricPoint> loss = await seen.MetricsAsync(run.Id, new MetricQuery { Names = ["loss"] });
            loss.Select(p => p.Step).ShouldBe([.. Enumerable.Range(0, steps / 10).Select(i => 10L * i), steps - 1]);
        }
    }
}
