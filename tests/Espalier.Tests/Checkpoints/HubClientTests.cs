using System.Collections.Concurrent;
using Espalier.Checkpoints;
using Espalier.Runtime;

namespace Espalier.Tests.Checkpoints;

public sealed partial class HubClientTests : IDisposable
{
    private const string Weights = "model.safetensors";
    private static readonly RepositoryId Model = RepositoryId.Parse("org/name", RepositoryKind.Model);

    private readonly FakeHub hub = new();
    private readonly TemporaryFolder folder = new();
    private readonly ConcurrentQueue<TimeSpan> pauses = new();
    private readonly RecordingProgress progress = new();

    public HubClientTests()
    {
        hub.Files[Weights] = Noise(300_000);
        hub.Files["config.json"] = "{}"u8.ToArray();
        hub.Files["tokenizer.json"] = Noise(5000);
        hub.Files["empty.txt"] = [];
        hub.Files["pytorch_model.bin"] = Noise(10);
        hub.Files["modeling_name.py"] = Noise(10);
        hub.Files[".gitattributes"] = Noise(10);
    }

    private string Blobs => Path.Combine(folder.Path, "models--org--name", "blobs");

    private string Snapshot => Path.Combine(folder.Path, "models--org--name", "snapshots", FakeHub.Commit);

    private IEnumerable<SeenRequest> Gets(string file) => hub.Seen.Where(r => r.Method == "GET" && r.Path.EndsWith('/' + file));

    public void Dispose()
    {
        hub.Dispose();
        folder.Dispose();
    }

    [Fact]
    public async Task A_model_is_downloaded_into_the_layout_of_the_ecosystem()
    {
        string found = await ResolveAsync(Model);
        found.ShouldBe(Snapshot);
        Directory.GetFiles(found).Select(Path.GetFileName).Order(StringComparer.Ordinal).ShouldBe(["config.json", "empty.txt", Weights, "tokenizer.json"]);
        File.ReadAllBytes(Path.Combine(found, Weights)).ShouldBe(hub.Files[Weights]);
        File.ReadAllText(Path.Combine(folder.Path, "models--org--name", "refs", "main")).ShouldBe(FakeHub.Commit);
        File.ResolveLinkTarget(Path.Combine(found, Weights), false)!.FullName.ShouldBe(Path.Combine(Blobs, FakeHub.Sha256(hub.Files[Weights])));
        new FileInfo(Path.Combine(found, "config.json")).LinkTarget.ShouldBe(Path.Combine("..", "..", "blobs", FakeHub.GitSha1(hub.Files["config.json"])));
        Directory.GetFiles(Blobs, "*incomplete").ShouldBeEmpty();
        hub.Seen.ShouldNotContain(r => r.Path.Contains(".bin") || r.Path.Contains(".py"));
        progress.Bytes.ShouldBe(305_002);
        progress.Total.ShouldBe(305_002);
    }

    [Fact]
    public async Task What_is_in_the_cache_is_not_asked_for_again()
    {
        await ResolveAsync(Model);
        hub.Seen.Clear();
        await ResolveAsync(Model);
        hub.Seen.ShouldHaveSingleItem().Path.ShouldBe("/api/models/org/name/revision/main");
    }

    [Fact]
    public async Task A_data_set_has_its_own_addresses_and_folder_and_only_wanted_files_come()
    {
        hub.Files["plain/train-00000.parquet"] = Noise(100);
        hub.Files["other/train-00000.parquet"] = Noise(100);
        string found = await ResolveAsync(RepositoryId.Parse("org/set@v1.0", RepositoryKind.Dataset), wanted: f => f.StartsWith("plain/", StringComparison.Ordinal));
        found.ShouldBe(Path.Combine(folder.Path, "datasets--org--set", "snapshots", FakeHub.Commit));
        Directory.GetFiles(found, "*", SearchOption.AllDirectories).ShouldHaveSingleItem().ShouldEndWith("train-00000.parquet");
        File.ReadAllBytes(Path.Combine(found, "plain", "train-00000.parquet")).ShouldBe(hub.Files["plain/train-00000.parquet"]);
        File.Exists(Path.Combine(folder.Path, "datasets--org--set", "refs", "v1.0")).ShouldBeTrue();
        hub.Seen.ShouldContain(r => r.Path == "/api/datasets/org/set/revision/v1.0");
        hub.Seen.ShouldContain(r => r.Path == $"/datasets/org/set/resolve/{FakeHub.Commit}/plain/train-00000.parquet");
    }

    [Theory]
    [InlineData("../evil.json")]
    [InlineData("a/../../evil.json")]
    [InlineData("/etc/evil.json")]
    [InlineData("a\\evil.json")]
    [InlineData("C:evil.json")]
    [InlineData("a//evil.json")]
    [InlineData("./evil.json")]
    public async Task A_file_name_that_leaves_the_folder_is_refused_before_anything_is_fetched(string name)
    {
        hub.Files[name] = [1];
        (await SentenceAsync(Model)).ShouldContain(name);
        hub.Seen.Count.ShouldBe(1);
    }

    [Fact]
    public async Task A_hash_or_commit_that_is_no_file_name_is_refused()
    {
        hub.HashOf = _ => "../../evil";
        (await SentenceAsync(Model)).ShouldContain("../../evil");
        hub.Mischief = (request, response) =>
        {
            response.OutputStream.Write("""{"sha":"../../evil","siblings":[]}"""u8);
            response.Close();
            return true;
        };
        (await SentenceAsync(Model)).ShouldContain("does not answer like a hub");
    }

    [Theory]
    [InlineData(401, null, null, "HF_TOKEN")]
    [InlineData(401, null, "secret", "refused the token")]
    [InlineData(401, "GatedRepo", null, "accept its terms")]
    [InlineData(403, "GatedRepo", "secret", "accept its terms")]
    [InlineData(403, null, "secret", "may not read")]
    [InlineData(404, "RevisionNotFound", null, "no revision 'main'")]
    [InlineData(404, "RepoNotFound", null, "no model org/name")]
    [InlineData(418, null, null, "418")]
    public async Task Refusals_get_a_sentence_and_are_not_tried_again(int status, string? code, string? token, string says)
    {
        hub.Mischief = (_, response) => FakeHub.Answer(response, status, code is null ? null : "X-Error-Code", code);
        string message = await SentenceAsync(Model, options => options with { Token = token });
        message.ShouldContain(says);
        message.ShouldNotContain("secret");
        hub.Seen.Count.ShouldBe(1);
    }

    [Theory]
    [InlineData(429)]
    [InlineData(500)]
    [InlineData(503)]
    public async Task A_busy_hub_is_asked_again_and_its_wish_for_a_pause_is_heeded(int status)
    {
        int failures = 0;
        hub.Mischief = (_, response) => failures++ < 2 && FakeHub.Answer(response, status, failures == 1 ? "Retry-After" : null, "17");
        await ResolveAsync(Model);
        pauses.Select(p => p.TotalSeconds).ShouldBe([17, 2]);
    }

    [Fact]
    public async Task The_token_goes_to_the_hub_and_to_nobody_else()
    {
        await ResolveAsync(Model, options => options with { Token = "secret" });
        hub.Seen.Where(r => r.Server == "hub").ShouldAllBe(r => r.Authorization == "Bearer secret");
        hub.Seen.Where(r => r.Server == "cdn").ShouldNotBeEmpty();
        hub.Seen.Where(r => r.Server == "cdn").ShouldAllBe(r => r.Authorization == null);
    }

    [Fact]
    public async Task A_circle_of_redirects_and_a_redirect_to_another_scheme_get_sentences()
    {
        hub.Mischief = (request, response) => FakeHub.Answer(response, 302, "Location", request.Path);
        (await SentenceAsync(Model)).ShouldContain("circle");
        hub.Mischief = (_, response) => FakeHub.Answer(response, 302, "Location", "file:///etc/passwd");
        (await SentenceAsync(Model)).ShouldContain("refused");
    }

    [Fact]
    public async Task A_disk_without_room_is_noticed_before_the_download()
    {
        string message = await SentenceAsync(Model, options => options with { FreeSpace = _ => 300_000 });
        message.ShouldContain("305 kB");
        message.ShouldContain("HF_HUB_CACHE");
        Gets(Weights).ShouldBeEmpty();
    }

    [Fact]
    public async Task Where_links_cannot_be_made_files_are_copied()
    {
        string found = await ResolveAsync(Model, options => options with { SymbolicLinks = false });
        new FileInfo(Path.Combine(found, Weights)).LinkTarget.ShouldBeNull();
        File.ReadAllBytes(Path.Combine(found, Weights)).ShouldBe(hub.Files[Weights]);
        hub.Seen.Clear();
        await ResolveAsync(Model, options => options with { SymbolicLinks = false });
        hub.Seen.Count.ShouldBe(1);
    }

    [Fact]
    public async Task Without_network_the_cached_snapshot_is_taken_with_a_warning()
    {
        await ResolveAsync(Model);
        hub.Dispose();
        (await ResolveAsync(Model)).ShouldBe(Snapshot);
        progress.Warnings.ShouldHaveSingleItem().ShouldContain("cache");
        (await SentenceAsync(RepositoryId.Parse("org/other", RepositoryKind.Model))).ShouldContain("cannot be reached");
    }

    [Fact]
    public async Task Offline_nothing_is_sent()
    {
        (await SentenceAsync(Model, options => options with { Offline = true })).ShouldContain("HF_HUB_OFFLINE");
        hub.Seen.ShouldBeEmpty();
        await ResolveAsync(Model);
        hub.Seen.Clear();
        (await ResolveAsync(Model, options => options with { Offline = true })).ShouldBe(Snapshot);
        (await ResolveAsync(RepositoryId.Parse($"org/name@{FakeHub.Commit}", RepositoryKind.Model), options => options with { Offline = true })).ShouldBe(Snapshot);
        hub.Seen.ShouldBeEmpty();
    }

    [Fact]
    public async Task A_model_of_pickles_only_is_refused_with_the_reason()
    {
        hub.Files.Remove(Weights);
        (await SentenceAsync(Model)).ShouldContain("pickle");
    }

    [Fact]
    public async Task Weights_in_their_makers_own_layout_are_not_fetched_a_second_time()
    {
        hub.Files["consolidated.safetensors"] = Noise(100);
        hub.Files["original/params.json"] = Noise(10);
        string found = await ResolveAsync(Model);
        File.Exists(Path.Combine(found, "consolidated.safetensors")).ShouldBeFalse();
        Directory.Exists(Path.Combine(found, "original")).ShouldBeFalse();
    }

    private static byte[] Noise(int count)
    {
        byte[] bytes = new byte[count];
        new Random(count).NextBytes(bytes);
        return bytes;
    }

    private async Task<string> ResolveAsync(
        RepositoryId id, Func<HubOptions, HubOptions>? change = null, Func<string, bool>? wanted = null, CancellationToken cancellation = default)
    {
        var options = new HubOptions
        {
            Endpoint = hub.Endpoint,
            CacheFolder = folder.Path,
            Wait = (pause, _) =>
            {
                pauses.Enqueue(pause);
                return Task.CompletedTask;
            },
        };
        using var client = new HubClient(change?.Invoke(options) ?? options);
        return await client.ResolveAsync(id, progress, wanted, cancellation);
    }

    private async Task<string> SentenceAsync(RepositoryId id, Func<HubOptions, HubOptions>? change = null) =>
        (await Should.ThrowAsync<EspalierException>(() => ResolveAsync(id, change))).Message;

    private sealed class RecordingProgress : IProgressSink, IProgressTask
    {
        private long bytes;

        public long Bytes => Interlocked.Read(ref bytes);

        public long Total { get; private set; }

        public ConcurrentQueue<string> Warnings { get; } = new();

        public IProgressTask Begin(string name, long total, string unit)
        {
            Total = total;
            return this;
        }

        public void Say(string message)
        {
        }

        public void Warn(string message) => Warnings.Enqueue(message);

        public void Report(string metric, long step, double value)
        {
        }

        public void Advance(long units = 1) => Interlocked.Add(ref bytes, units);

        public void Describe(string detail)
        {
        }

        public void Dispose()
        {
        }
    }
}
