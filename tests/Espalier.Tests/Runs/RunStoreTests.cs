using Espalier.Runs;
using Espalier.Runtime;
using Microsoft.EntityFrameworkCore;
using Microsoft.EntityFrameworkCore.Infrastructure;
using Microsoft.EntityFrameworkCore.Metadata;

namespace Espalier.Tests.Runs;

/// <summary>What the store promises, on both databases.</summary>
public abstract class RunStoreTests
{
    private static readonly DateTime Noon = new(2026, 3, 4, 12, 0, 0, DateTimeKind.Utc);

    private protected abstract Task<RunStore> OpenAsync();

    [Fact]
    public async Task A_run_comes_back_as_it_was_begun_and_ended()
    {
        await using RunStore store = await OpenAsync();
        Run begun = await store.BeginAsync(new NewRun
        {
            Command = "prune", Title = "half", Model = "./llama", Plan = "prune:\n  sparsity: 0.5\n", Words = ["prune", "plan.yaml"], Seed = 3, Version = "0.1.0",
            Folder = "/out", Tags = ["paper", "first"], Machine = new Dictionary<string, string> { ["cores"] = "2" },
        });
        begun.State.ShouldBe(RunState.Running);
        await store.AppendAsync(begun.Id, [Point("loss", 1, 3.5), Point("loss", 2, double.NaN), Point("loss", 3, 2.25), Point("lr", 1, 0.1)], [new LogLine { Text = "a\0b", Time = Noon }]);
        await store.AddArtefactsAsync(begun.Id, [new Artefact { Path = "/out/report.html", Name = "report.html", Kind = "report", Bytes = 5 }]);
        await store.AddArtefactsAsync(begun.Id, [new Artefact { Path = "/out/report.html", Name = "report.html", Kind = "report", Bytes = 7 }]);
        await store.FinishAsync(begun.Id, new RunEnd(RunState.Finished) { ExitCode = 0, Outcome = """{"perplexity":7.5}""" });

        RunDetails found = (await store.GetAsync(begun.Id)).ShouldNotBeNull();
        found.Run.State.ShouldBe(RunState.Finished);
        found.Run.ExitCode.ShouldBe(0);
        found.Run.Words.ShouldBe("""["prune","plan.yaml"]""");
        found.Run.Tags.Select(t => t.Tag).ShouldBe(["first", "paper"]);
        found.Run.Ended.ShouldNotBeNull().Kind.ShouldBe(DateTimeKind.Utc);
        found.Artefacts.Single().Bytes.ShouldBe(7);
        found.Metrics.ShouldBe([new MetricSummary("loss", 3, 2.25, 3, 2.25, 3.5), new MetricSummary("lr", 1, 0.1, 1, 0.1, 0.1)]);
        IReadOnlyList<MetricPoint> loss = await store.MetricsAsync(begun.Id, new MetricQuery { Names = ["loss"], SinceStep = 2 });
        loss.Select(p => p.Value).ShouldBe([null, 2.25]);
        (await store.MetricsAsync(begun.Id, new MetricQuery { AfterId = loss[0].Id })).Count.ShouldBe(2);
        (await store.LogAsync(begun.Id)).Single().Text.ShouldBe("ab");
        loss[0].Time.ShouldBe(Noon);
    }

    [Fact]
    public async Task Lists_are_filtered_sorted_and_paged()
    {
        await using RunStore store = await OpenAsync();
        var ids = new List<string>();
        for (int i = 0; i < 5; i++)
        {
            ids.Add((await store.BeginAsync(new NewRun { Command = i % 2 == 0 ? "prune" : "train", Model = $"Model-{4 - i}", Tags = i == 3 ? ["kept"] : [] })).Id);
            await store.FinishAsync(ids[i], new RunEnd(i == 4 ? RunState.Failed : RunState.Finished));
        }

        (await store.ListAsync(new RunFilter())).Runs.Select(r => r.Id).ShouldBe(Enumerable.Reverse(ids));
        RunPage page = await store.ListAsync(new RunFilter { Commands = ["prune"], Sort = RunSort.Model, Descending = false, Skip = 1, Take = 1 });
        page.Total.ShouldBe(3);
        page.Runs.Single().Id.ShouldBe(ids[2]);
        (await store.ListAsync(new RunFilter { States = [RunState.Failed] })).Runs.Single().Id.ShouldBe(ids[4]);
        (await store.ListAsync(new RunFilter { Tags = ["kept"] })).Runs.Single().Id.ShouldBe(ids[3]);
        (await store.ListAsync(new RunFilter { Text = "MODEL-1" })).Runs.Single().Id.ShouldBe(ids[3]);
        (await store.ListAsync(new RunFilter { Since = DateTime.UtcNow.AddMinutes(1) })).Total.ShouldBe(0);
        foreach (RunSort sort in Enum.GetValues<RunSort>())
        {
            (await store.ListAsync(new RunFilter { Sort = sort })).Runs.Count.ShouldBe(5);
        }
    }

    [Fact]
    public async Task Words_name_runs()
    {
        await using RunStore store = await OpenAsync();
        (await Should.ThrowAsync<EspalierException>(() => store.ResolveAsync("last"))).Message.ShouldContain("empty");
        Run first = await store.BeginAsync(new NewRun { Command = "eval" }), second = await store.BeginAsync(new NewRun { Command = "eval" });
        (await store.ResolveAsync("last")).ShouldBe(second.Id);
        (await store.ResolveAsync(first.Id)).ShouldBe(first.Id);
        (await store.ResolveAsync(first.ShortId.ToUpperInvariant())).ShouldBe(first.Id);
        (await Should.ThrowAsync<EspalierException>(() => store.ResolveAsync(first.Id[..4]))).Message.ShouldContain("may be any of");
        (await Should.ThrowAsync<EspalierException>(() => store.ResolveAsync("xyz"))).Message.ShouldContain("is no run");
    }

    [Fact]
    public async Task Tags_come_and_go_and_deleted_runs_leave_nothing()
    {
        await using RunStore store = await OpenAsync();
        Run run = await store.BeginAsync(new NewRun { Command = "train" }), other = await store.BeginAsync(new NewRun { Command = "train" });
        await store.TagAsync(run.Id, ["a", "b", "a"], []);
        await store.TagAsync(run.Id, ["b", "c"], ["a"]);
        (await store.TagsAsync()).ShouldBe(new Dictionary<string, int> { ["b"] = 1, ["c"] = 1 }, ignoreOrder: true);
        await store.AppendAsync(run.Id, [Point("loss", 1, 1)], []);
        (await store.DeleteAsync([run.Id, "0000"])).ShouldBe(1);
        (await store.GetAsync(run.Id)).ShouldBeNull();
        (await store.MetricsAsync(run.Id, new MetricQuery())).ShouldBeEmpty();
        (await store.TagsAsync()).ShouldBeEmpty();
        (await store.ListAsync(new RunFilter())).Runs.Single().Id.ShouldBe(other.Id);
        await Should.ThrowAsync<EspalierException>(() => store.AppendAsync(run.Id, [Point("loss", 1, 1)], []));
    }

    [Fact]
    public async Task Comparing_shows_what_differs()
    {
        await using RunStore store = await OpenAsync();
        Run a = await store.BeginAsync(new NewRun { Command = "prune", Model = "m", Seed = 0, Plan = "prune: { criterion: wanda, sparsity: 0.5 }" });
        Run b = await store.BeginAsync(new NewRun { Command = "prune", Model = "m", Seed = 1, Plan = "prune: { criterion: magnitude, sparsity: 0.5 }" });
        await store.AppendAsync(a.Id, [Point("loss", 1, 3)], []);
        RunComparison seen = await store.CompareAsync([b.Id, a.Id]);
        seen.Settings.Where(s => s.Differs).Select(s => s.Name).ShouldBe(["seed", "plan.prune.criterion"]);
        seen.Settings.Single(s => s.Name == "plan.prune.criterion").Values.ShouldBe(["magnitude", "wanda"]);
        seen.Metrics.Single().Values.Select(v => v?.Last).ShouldBe([null, 3]);
    }

    [Fact]
    public async Task A_queued_run_is_taken_up_under_its_id()
    {
        await using RunStore store = await OpenAsync();
        Run queued = await store.BeginAsync(new NewRun { Command = "train", Title = "mine", Queued = true, Tags = ["studio"] });
        queued.State.ShouldBe(RunState.Queued);
        await store.MarkInterruptedAsync();
        Run begun = await store.BeginAsync(new NewRun { Id = queued.Id, Command = "train", Model = "m" });
        begun.Id.ShouldBe(queued.Id);
        begun.State.ShouldBe(RunState.Running);
        begun.Title.ShouldBe("mine");
        begun.Tags.Single().Tag.ShouldBe("studio");
    }

    [Fact]
    public async Task A_run_whose_process_is_gone_is_interrupted_and_one_that_beats_is_not()
    {
        await using RunStore store = await OpenAsync();
        Run gone = await store.BeginAsync(new NewRun { Command = "train" }), far = await store.BeginAsync(new NewRun { Command = "train" }), here = await store.BeginAsync(new NewRun { Command = "train" });
        await store.UpdateAsync(gone.Id, r => r.ProcessMark += "0");
        await store.UpdateAsync(far.Id, r => (r.ProcessMark, r.Heartbeat) = ("elsewhere|boot|space|1", DateTime.UtcNow - RunStore.Patience / 2));
        await store.UpdateAsync(here.Id, r => r.Heartbeat = DateTime.UtcNow.AddDays(-1));
        (await store.MarkInterruptedAsync()).ShouldBe([gone.Id]);
        await store.UpdateAsync(far.Id, r => r.Heartbeat = DateTime.UtcNow - RunStore.Patience * 2);
        RunPage page = await store.ListAsync(new RunFilter { States = [RunState.Interrupted] });
        page.Runs.Select(r => r.Id).ShouldBe([far.Id, gone.Id]);
        page.Runs[0].Ended.ShouldNotBeNull().ShouldBeLessThan(DateTime.UtcNow - RunStore.Patience);

        // The network was away and is back: the run was alive all the time.
        await store.BeatAsync(far.Id, 0.5, "steps");
        Run back = (await store.GetAsync(far.Id)).ShouldNotBeNull().Run;
        back.State.ShouldBe(RunState.Running);
        back.Ended.ShouldBeNull();
        back.Progress.ShouldBe(0.5);
    }

    [Fact]
    public async Task Many_writers_at_once_lose_nothing()
    {
        await using RunStore one = await OpenAsync(), two = await OpenAsync();
        RunStore[] stores = [one, two];
        Run shared = await one.BeginAsync(new NewRun { Command = "train" });
        string[] ids = await Task.WhenAll(Enumerable.Range(0, 8).Select(async w =>
        {
            RunStore store = stores[w % 2];
            Run run = await store.BeginAsync(new NewRun { Command = "train", Title = $"{w}" });
            for (int batch = 0; batch < 10; batch++)
            {
                await store.AppendAsync(run.Id, [.. Enumerable.Range(0, 50).Select(i => Point("loss", 50 * batch + i, i))], [new LogLine { Text = $"{batch}", Time = Noon }]);
                await store.AppendAsync(shared.Id, [Point($"of {w}", batch, w)], []);
                await store.TagAsync(shared.Id, ["all", $"{w}"], []);
                await store.BeatAsync(run.Id, batch / 10.0);
            }

            await store.FinishAsync(run.Id, new RunEnd(RunState.Finished));
            return run.Id;
        }));
        foreach (string id in ids)
        {
            (await one.MetricsAsync(id, new MetricQuery())).Select(p => p.Step).ShouldBe(Enumerable.Range(0, 500).Select(i => (long)i));
            (await one.LogAsync(id)).Select(l => l.Text).ShouldBe(Enumerable.Range(0, 10).Select(i => $"{i}"));
        }

        RunDetails all = (await two.GetAsync(shared.Id)).ShouldNotBeNull();
        all.Metrics.Select(m => m.Count).ShouldBe(Enumerable.Repeat(10, 8));
        all.Run.Tags.Count.ShouldBe(9);
    }

    private protected static MetricPoint Point(string name, long step, double value) => new() { Name = name, Step = step, Value = value, Time = Noon };
}

public sealed class SqliteRunStoreTests : RunStoreTests, IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private protected override Task<RunStore> OpenAsync() => RunStore.OpenAsync(RunLocation.Parse(_folder["deep/er/runs.db"]));

    [Fact]
    public async Task A_store_of_an_older_version_is_brought_up_to_date_and_a_newer_one_is_left_alone()
    {
        string file = _folder["old.db"];
        await using (RunStore store = await RunStore.OpenAsync(RunLocation.Parse(file)))
        {
            await store.BeginAsync(new NewRun { Command = "train" });
        }

        // One that says nothing of its migrations looks like none of ours until EF Core has been asked; one from the future is taken as it is.
        Execute(file, "INSERT INTO \"__EFMigrationsHistory\" VALUES ('99990101000000_Later', '99.0')");
        await using (RunStore newer = await RunStore.OpenAsync(RunLocation.Parse(file)))
        {
            (await newer.ListAsync(new RunFilter())).Total.ShouldBe(1);
        }

        Execute(file, "DELETE FROM \"__EFMigrationsHistory\"; DROP TABLE log; DROP TABLE metrics; DROP TABLE artefacts; DROP TABLE tags; DROP TABLE runs");
        await using RunStore empty = await RunStore.OpenAsync(RunLocation.Parse(file));
        (await empty.ListAsync(new RunFilter())).Total.ShouldBe(0);
    }

    [Fact]
    public void The_last_migrations_are_named_and_the_compiled_models_are_those_of_the_code()
    {
        using RunDatabase sqlite = RunStore.OpenSqlite("design.db");
        using RunDatabase postgres = RunStore.OpenPostgres("Host=localhost;Database=design");
        foreach ((RunDatabase db, string last) in new[] { (sqlite, StoreMigration.LastOfSqlite), (postgres, StoreMigration.LastOfPostgres) })
        {
            db.Database.GetMigrations().Last().ShouldBe(last, "a new migration is named in StoreMigration");
            db.Database.HasPendingModelChanges().ShouldBeFalse("who changes an entity adds a migration (docs/runs.md)");
            IModel design = db.GetService<IDesignTimeModel>().Model;
            db.Model.GetType().Namespace.ShouldBe("Espalier.Runs.Compiled." + (db == sqlite ? "Sqlite" : "Postgres"));
            Shape(db.Model).ShouldBe(Shape(design), "who changes an entity has the model compiled anew (docs/runs.md)");
        }

        static string[] Shape(IModel model) =>
        [
            .. model.GetEntityTypes().OrderBy(e => e.Name, StringComparer.Ordinal).SelectMany(e => (string[])
            [
                $"{e.Name} {e.GetTableName()}",
                .. e.GetProperties().Select(p => $"{e.Name}.{p.Name} {p.GetColumnName()} {p.GetColumnType()} {p.IsNullable} {p.GetMaxLength()} {p.ValueGenerated}"),
                .. e.GetKeys().Select(k => $"{e.Name} key {string.Join(",", k.Properties.Select(p => p.Name))}"),
                .. e.GetForeignKeys().Select(f => $"{e.Name} to {f.PrincipalEntityType.Name} {f.DeleteBehavior}"),
                .. e.GetIndexes().Select(i => $"{e.Name} index {string.Join(",", i.Properties.Select(p => p.Name))}"),
            ]),
        ];
    }

    private static void Execute(string file, string sql)
    {
        using var connection = new Microsoft.Data.Sqlite.SqliteConnection($"Data Source={file};Foreign Keys=False");
        connection.Open();
        using Microsoft.Data.Sqlite.SqliteCommand command = connection.CreateCommand();
        command.CommandText = sql;
        command.ExecuteNonQuery();
    }
}
