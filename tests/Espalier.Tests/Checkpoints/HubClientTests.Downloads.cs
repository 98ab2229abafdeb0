namespace Espalier.Tests.Checkpoints;

/// <summary>Downloads over connections that drop, fall silent or lie.</summary>
public sealed partial class HubClientTests
{
    [Fact]
    public async Task Connections_that_drop_are_taken_up_where_they_broke()
    {
        int drops = 0;
        hub.Mischief = (request, response) => request.Server == "cdn" && request.Method == "GET" && drops++ < 3
            && FakeHub.Drop(response, hub.Files[Weights], Start(request), 60_000);
        await ResolveAsync(Model);
        File.ReadAllBytes(Path.Combine(Snapshot, Weights)).ShouldBe(hub.Files[Weights]);
        string?[] ranges = hub.Seen.Where(r => r.Server == "cdn").Select(r => r.Range).ToArray();
        ranges.Length.ShouldBe(4);
        ranges[0].ShouldBeNull();
        ranges[1..].ShouldAllBe(range => range != null && range.StartsWith("bytes="));
        pauses.Count.ShouldBe(3);
        progress.Bytes.ShouldBe(progress.Total);
    }

    [Fact]
    public async Task A_run_that_was_broken_off_goes_on_with_what_had_arrived()
    {
        Directory.CreateDirectory(Blobs);
        File.WriteAllBytes(Path.Combine(Blobs, FakeHub.Sha256(hub.Files[Weights]) + ".1234.incomplete"), hub.Files[Weights][..100_000]);
        await ResolveAsync(Model);
        hub.Seen.Single(r => r.Server == "cdn").Range.ShouldBe("bytes=100000-");
        File.ReadAllBytes(Path.Combine(Snapshot, Weights)).ShouldBe(hub.Files[Weights]);
        Directory.GetFiles(Blobs, "*incomplete").ShouldBeEmpty();
    }

    [Fact]
    public async Task A_part_that_another_process_is_writing_is_left_to_it()
    {
        Directory.CreateDirectory(Blobs);
        string theirs = Path.Combine(Blobs, FakeHub.Sha256(hub.Files[Weights]) + ".1234.incomplete");
        using (var living = new FileStream(theirs, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None))
        {
            living.Write(hub.Files[Weights], 0, 1000);
            living.Flush();
            await ResolveAsync(Model);
            hub.Seen.Single(r => r.Server == "cdn").Range.ShouldBeNull();
            File.Exists(theirs).ShouldBeTrue();
        }

        File.ReadAllBytes(Path.Combine(Snapshot, Weights)).ShouldBe(hub.Files[Weights]);
    }

    [Fact]
    public async Task A_part_that_was_damaged_is_thrown_away_and_fetched_anew()
    {
        Directory.CreateDirectory(Blobs);
        File.WriteAllBytes(Path.Combine(Blobs, FakeHub.Sha256(hub.Files[Weights]) + ".incomplete"), new byte[100_000]);
        await ResolveAsync(Model);
        File.ReadAllBytes(Path.Combine(Snapshot, Weights)).ShouldBe(hub.Files[Weights]);
        hub.Seen.Where(r => r.Server == "cdn").Select(r => r.Range).ShouldBe(["bytes=100000-", null]);
    }

    [Fact]
    public async Task A_server_that_cannot_go_on_from_the_middle_sends_the_whole()
    {
        Directory.CreateDirectory(Blobs);
        File.WriteAllBytes(Path.Combine(Blobs, FakeHub.Sha256(hub.Files[Weights]) + ".x.incomplete"), hub.Files[Weights][..100_000]);
        hub.Mischief = (request, response) =>
        {
            if (request.Server != "cdn")
            {
                return false;
            }

            response.ContentLength64 = hub.Files[Weights].Length;
            response.OutputStream.Write(hub.Files[Weights]);
            response.Close();
            return true;
        };
        await ResolveAsync(Model);
        File.ReadAllBytes(Path.Combine(Snapshot, Weights)).ShouldBe(hub.Files[Weights]);
    }

    [Fact]
    public async Task A_connection_that_always_drops_gets_a_sentence_and_what_arrived_is_kept()
    {
        hub.Mischief = (request, response) => request.Server == "cdn" && FakeHub.Drop(response, hub.Files[Weights], Start(request), 1000);
        string message = await SentenceAsync(Model);
        message.ShouldContain("broke off 5 times");
        message.ShouldContain("run it again");
        new FileInfo(Directory.GetFiles(Blobs, "*incomplete").ShouldHaveSingleItem()).Length.ShouldBeGreaterThan(0);
        File.Exists(Path.Combine(Snapshot, Weights)).ShouldBeFalse();
        File.Exists(Path.Combine(folder.Path, "models--org--name", "refs", "main")).ShouldBeFalse();
        pauses.Select(p => p.TotalSeconds).ShouldBe([1, 2, 4, 8]);
    }

    [Fact]
    public async Task A_server_that_falls_silent_counts_as_dropped()
    {
        int silences = 0;
        using var end = new ManualResetEventSlim();
        hub.Mischief = (request, response) =>
        {
            if (request.Server != "cdn" || silences++ > 0)
            {
                return false;
            }

            response.ContentLength64 = hub.Files[Weights].Length;
            response.OutputStream.Write(hub.Files[Weights], 0, 1000);
            response.OutputStream.Flush();
            end.Wait(TimeSpan.FromSeconds(20));
            response.Abort();
            return true;
        };
        await ResolveAsync(Model, options => options with { Silence = TimeSpan.FromSeconds(1) });
        end.Set();
        File.ReadAllBytes(Path.Combine(Snapshot, Weights)).ShouldBe(hub.Files[Weights]);
    }

    [Theory]
    [InlineData(Weights, 64)]
    [InlineData("tokenizer.json", 40)]
    public async Task A_file_without_the_promised_hash_never_gets_its_name(string file, int digits)
    {
        string lie = new('a', digits);
        hub.HashOf = name => name == file ? lie : string.Empty;
        string message = await SentenceAsync(Model);
        message.ShouldContain(file);
        message.ShouldContain("hash");
        File.Exists(Path.Combine(Blobs, lie)).ShouldBeFalse();
        File.Exists(Path.Combine(Snapshot, file)).ShouldBeFalse();
        Directory.GetFiles(Blobs, "*incomplete").ShouldBeEmpty();
    }

    [Theory]
    [InlineData(200_000)]
    [InlineData(400_000)]
    public async Task A_file_without_the_promised_size_never_gets_its_name(long lie)
    {
        hub.SizeOf = _ => lie;
        string message = await SentenceAsync(Model);
        message.ShouldContain($"{lie}");
        message.ShouldContain(Weights);
        File.Exists(Path.Combine(Snapshot, Weights)).ShouldBeFalse();
    }

    [Fact]
    public async Task Cancelling_ends_a_download_and_keeps_what_arrived()
    {
        using var source = new CancellationTokenSource();
        using var end = new ManualResetEventSlim();
        hub.Mischief = (request, response) =>
        {
            if (request.Server != "cdn")
            {
                return false;
            }

            response.ContentLength64 = hub.Files[Weights].Length;
            response.OutputStream.Write(hub.Files[Weights], 0, 100_000);
            response.OutputStream.Flush();
            Thread.Sleep(200);
            source.Cancel();
            end.Wait(TimeSpan.FromSeconds(20));
            response.Abort();
            return true;
        };
        await Should.ThrowAsync<OperationCanceledException>(() => ResolveAsync(Model, cancellation: source.Token));
        end.Set();
        new FileInfo(Directory.GetFiles(Blobs, "*incomplete").ShouldHaveSingleItem()).Length.ShouldBeGreaterThan(0);
    }

    private static int Start(SeenRequest request) =>
        request.Range is null ? 0 : int.Parse(request.Range["bytes=".Length..^1], System.Globalization.CultureInfo.InvariantCulture);
}
