using Espalier.Runs;
using Espalier.Runtime;

namespace Espalier.Tests.Runs;

public sealed class RunRecorderTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Progress_figures_lines_and_changes_reach_the_store_and_the_sink()
    {
        var sink = new Listener();
        RunRecorder recorder = RunRecorder.Start(sink, OpenAsync, new NewRun { Command = "train", Title = "first" });
        recorder.Describe(r => r.Folder = "/there");
        using (IProgressTask task = recorder.Begin("training", 10, "step"))
        {
            task.Advance(4);
            recorder.Report("loss", 3, 1.5);
            recorder.Say("hello");
            await using IRunStore store = await OpenAsync();
            Run? running = null;
            while (running is not { Progress: 0.4 })
            {
                await Task.Delay(20);
                running = (await store.GetAsync(recorder.Id))?.Run;
            }

            running.Doing.ShouldBe("training");
            running.Folder.ShouldBe("/there");
        }

        // More than one batch, at the last moment.
        for (int i = 0; i < 7000; i++)
        {
            recorder.Report("late", i, i);
        }

        await recorder.FinishAsync(new RunEnd(RunState.Failed) { ExitCode = 70, Error = "it broke" }, [new Artefact { Path = "/there/a", Name = "a" }]);
        await using IRunStore after = await OpenAsync();
        RunDetails found = (await after.GetAsync(recorder.Id)).ShouldNotBeNull();
        found.Run.State.ShouldBe(RunState.Failed);
        found.Metrics.Select(m => (m.Name, m.Count)).ShouldBe([("late", 7000), ("loss", 1)]);
        found.Artefacts.Single().Name.ShouldBe("a");
        (await after.LogAsync(recorder.Id)).Select(l => (l.Level, l.Text)).ShouldBe([("say", "hello"), ("error", "it broke")]);
        sink.Heard.Count(h => h == "late").ShouldBe(7000);
        sink.Heard.ShouldContain("hello");
    }

    [Fact]
    public async Task What_a_store_out_of_reach_missed_it_gets_when_it_is_back()
    {
        var sink = new Listener();
        int calls = 0;
        RunRecorder recorder = RunRecorder.Start(sink, () => Interlocked.Increment(ref calls) == 1 ? throw new EspalierException("away") : OpenAsync(), new NewRun { Command = "train" });
        recorder.Report("loss", 1, 2);
        while (calls == 0)
        {
            await Task.Delay(10);
        }

        await recorder.FinishAsync(new RunEnd(RunState.Finished), []);
        await using IRunStore store = await OpenAsync();
        RunDetails found = (await store.GetAsync(recorder.Id)).ShouldNotBeNull();
        found.Run.State.ShouldBe(RunState.Finished);
        found.Metrics.Single().Last.ShouldBe(2);
        sink.Heard.Count(h => h.Contains("not recorded", StringComparison.Ordinal)).ShouldBe(1);
    }

    [Fact]
    public async Task A_run_that_is_deleted_while_it_works_stays_deleted_without_a_word()
    {
        var sink = new Listener();
        RunRecorder recorder = RunRecorder.Start(sink, OpenAsync, new NewRun { Command = "train" });
        await using IRunStore store = await OpenAsync();
        while (await store.GetAsync(recorder.Id) is null)
        {
            await Task.Delay(10);
        }

        await store.DeleteAsync([recorder.Id]);
        recorder.Report("loss", 1, 2);
        await recorder.FinishAsync(new RunEnd(RunState.Finished), []);
        (await store.GetAsync(recorder.Id)).ShouldBeNull();
        sink.Heard.ShouldBe(["loss"]);
    }

    [Fact]
    public void Figures_of_a_result_are_found_by_path()
    {
        const string outcome = """{"out":"/x","quality":[{"stage":"dense","perplexity":7.25},{"stage":"pruned","perplexity":9.5}],"readers":[{"name":"gguf","verdict":"converted"}],"machine":{"cores":2},"losses":[1,2]}""";
        OutcomeFigures.Of(outcome).ShouldBe(
            new Dictionary<string, string> { ["out"] = "/x", ["quality.dense.perplexity"] = "7.25", ["quality.pruned.perplexity"] = "9.5", ["readers.gguf.verdict"] = "converted" }, ignoreOrder: true);
        OutcomeFigures.Headline(outcome).ShouldBe("perplexity 9.5");
        OutcomeFigures.Headline("""{"quality":[{"stage":"retrained","perplexity":9.5}],"speed":{"rows":[{"model":"int4","perplexity":9.9}]}}""").ShouldBe("perplexity 9.5", "a packed form is no stage");
        OutcomeFigures.Headline("""{"verdict":"holds","perplexity":3}""").ShouldBe("holds");
        OutcomeFigures.Of("{ cut").ShouldBeEmpty();
    }

    [Theory]
    [InlineData("none", null, null)]
    [InlineData("/data/r.db", "/data/r.db", null)]
    [InlineData("Host=h;Database=d", null, "Host=h;Database=d")]
    [InlineData("postgresql://me:p%40ss@db.example:5433/runs", null, "Database=runs;Host=db.example;Port=5433;Username=me;Password=p@ss")]
    [InlineData("postgres://db.example/runs?sslmode=verify-full", null, "Database=runs;Host=db.example;SSL Mode=VerifyFull")]
    public void A_word_says_where_the_store_is(string word, string? file, string? connection)
    {
        RunLocation location = RunLocation.Parse(word);
        location.File.ShouldBe(file);
        location.Connection.ShouldBe(connection);
    }

    [Fact]
    public void Without_a_word_the_store_is_the_users()
    {
        RunLocation.From(name => name == "XDG_DATA_HOME" ? "/home/me/data" : null).File.ShouldBe(Path.Combine("/home/me/data", "espalier", "runs.db"));
        RunLocation.From(name => name == RunLocation.Variable ? " none " : null).IsNone.ShouldBeTrue();
        Should.Throw<EspalierException>(() => RunLocation.Parse("postgresql://host")).Message.ShouldContain("no address of a database");
        Should.Throw<EspalierException>(() => RunLocation.Parse("postgresql://host/db?nonsense=1")).Message.ShouldContain("'nonsense'");
    }

    [Fact]
    public async Task A_lock_of_a_killed_migration_does_not_block_the_store()
    {
        string file = _folder["locked.db"];
        await using (var connection = new Microsoft.Data.Sqlite.SqliteConnection($"Data Source={file};Pooling=False"))
        {
            await connection.OpenAsync();
            await using Microsoft.Data.Sqlite.SqliteCommand command = connection.CreateCommand();
            command.CommandText = """CREATE TABLE "__EFMigrationsLock" ("Id" INTEGER NOT NULL PRIMARY KEY, "Timestamp" TEXT NOT NULL); INSERT INTO "__EFMigrationsLock" VALUES (1, '2026-01-01');""";
            await command.ExecuteNonQueryAsync();
        }

        await using RunStore store = await RunStore.OpenAsync(RunLocation.Parse(file)).WaitAsync(TimeSpan.FromSeconds(30));
        (await store.ListAsync(new RunFilter())).Total.ShouldBe(0);
    }

    private async Task<IRunStore> OpenAsync() => await RunStore.OpenAsync(RunLocation.Parse(_folder["runs.db"]));

    private sealed class Listener : IProgressSink
    {
        public List<string> Heard { get; } = [];

        public IProgressTask Begin(string name, long total, string unit) => SilentProgress.Instance;

        public void Say(string message) => Heard.Add(message);

        public void Warn(string message) => Heard.Add(message);

        public void Report(string metric, long step, double value) => Heard.Add(metric);
    }
}
