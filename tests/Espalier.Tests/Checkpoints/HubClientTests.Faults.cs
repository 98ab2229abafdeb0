using Espalier.Tests.Cli;

namespace Espalier.Tests.Checkpoints;

/// <summary>Hubs in trouble, and several at work on one file.</summary>
public sealed partial class HubClientTests
{
    [Theory]
    [InlineData("hub")]
    [InlineData("cdn")]
    public async Task A_storm_of_refusals_ends_in_a_sentence_and_leaves_no_file_with_a_name(string server)
    {
        hub.Mischief = (request, response) => request.Server == server && FakeHub.Answer(response, 503);
        string message = await SentenceAsync(Model);
        message.ShouldContain("503");
        message.ShouldEndWith(".");
        hub.Seen.Count.ShouldBeLessThan(40);
        File.Exists(Path.Combine(Snapshot, Weights)).ShouldBeFalse();
        hub.Mischief = (_, _) => false;
        await ResolveAsync(Model);
        File.ReadAllBytes(Path.Combine(Snapshot, Weights)).ShouldBe(hub.Files[Weights]);
    }

    [Fact]
    public async Task A_hub_that_asks_for_a_pause_of_years_gets_five_minutes()
    {
        int failures = 0;
        hub.Mischief = (_, response) => failures++ < 1 && FakeHub.Answer(response, 503, "Retry-After", "1000000000");
        await ResolveAsync(Model);
        pauses.ShouldHaveSingleItem().ShouldBe(TimeSpan.FromMinutes(5));
    }

    [Fact]
    public async Task The_token_does_not_follow_a_redirect_to_another_host_and_comes_back_with_one_to_the_hub()
    {
        hub.Mischief = (request, response) => request.Path.StartsWith("/api/", StringComparison.Ordinal) && request switch
        {
            { Server: "hub" } when !request.Path.EndsWith("back", StringComparison.Ordinal) => FakeHub.Answer(response, 307, "Location", $"{hub.CdnEndpoint}/api/away"),
            { Server: "cdn" } => FakeHub.Answer(response, 307, "Location", $"{hub.Endpoint}/api/models/org/name/back"),
            _ => false,
        };
        await ResolveAsync(Model, options => options with { Token = "secret" });
        hub.Seen.Where(r => r.Server == "cdn").ShouldAllBe(r => r.Authorization == null);
        hub.Seen.Where(r => r.Server == "hub").ShouldAllBe(r => r.Authorization == "Bearer secret");
        hub.Seen.ShouldContain(r => r.Path == "/api/away");
    }

    [Fact]
    public async Task A_body_without_a_length_that_goes_on_and_on_is_broken_off_at_the_promised_size()
    {
        hub.Mischief = (request, response) =>
        {
            if (request.Server != "cdn")
            {
                return false;
            }

            response.SendChunked = true;
            for (int i = 0; i < 1000; i++)
            {
                response.OutputStream.Write(new byte[100_000]);
            }

            response.Close();
            return true;
        };
        (await SentenceAsync(Model)).ShouldContain("more than the 300000 bytes");
        Directory.GetFiles(Blobs).ShouldAllBe(f => new FileInfo(f).Length <= 300_000);
        File.Exists(Path.Combine(Snapshot, Weights)).ShouldBeFalse();
    }

    [Fact]
    public async Task Several_that_download_one_file_at_a_time_over_a_bad_line_all_get_it_whole()
    {
        int drops = 0;
        hub.Mischief = (request, response) => request.Server == "cdn" && request.Method == "GET" && Interlocked.Increment(ref drops) <= 6
            && FakeHub.Drop(response, hub.Files[Weights], Start(request), Math.Min(50_000, hub.Files[Weights].Length - Start(request)));
        await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Task.Run(() => ResolveAsync(Model))));
        File.ReadAllBytes(Path.Combine(Snapshot, Weights)).ShouldBe(hub.Files[Weights]);
        await ResolveAsync(Model);
        Directory.GetFiles(Blobs).Where(f => !f.EndsWith("incomplete", StringComparison.Ordinal)).ShouldAllBe(f => Path.GetFileName(f) == FakeHub.Sha256(File.ReadAllBytes(f)) || Path.GetFileName(f) == FakeHub.GitSha1(File.ReadAllBytes(f)));
    }

    [Fact]
    public async Task Two_processes_that_download_one_model_at_the_same_moment_both_end_with_the_right_bytes()
    {
        var environment = new Dictionary<string, string> { ["HF_ENDPOINT"] = hub.Endpoint, ["HF_HUB_CACHE"] = folder.Path, ["HF_TOKEN"] = "" };
        using var both = new Barrier(2);
        int began = 0, drops = 0;
        hub.Mischief = (request, response) =>
        {
            if (request.Path.StartsWith("/api/", StringComparison.Ordinal) && Interlocked.Increment(ref began) <= 2)
            {
                both.SignalAndWait(TimeSpan.FromSeconds(60)).ShouldBeTrue("only one process came");
            }

            // The line is slow and drops, so that the one is still at it when the other begins.
            return request.Server == "cdn" && request.Method == "GET" && Interlocked.Increment(ref drops) <= 3
                && FakeHub.Drop(response, hub.Files[Weights], Start(request), Math.Min(80_000, hub.Files[Weights].Length - Start(request)));
        };
        using RunProcess first = RunProcess.Start(environment, "download", "org/name"), second = RunProcess.Start(environment, "download", "org/name");
        foreach (Tool tool in await Task.WhenAll(first.EndAsync(), second.EndAsync()))
        {
            tool.Code.ShouldBe(Espalier.Cli.ExitCode.Success, tool.Error);
            tool.Output.Trim().ShouldBe(Snapshot);
        }

        began.ShouldBeGreaterThanOrEqualTo(2);
        foreach (string file in (string[])[Weights, "config.json", "tokenizer.json"])
        {
            File.ReadAllBytes(Path.Combine(Snapshot, file)).ShouldBe(hub.Files[file]);
        }

        Directory.GetFiles(Blobs).ShouldAllBe(f => !f.EndsWith("incomplete", StringComparison.Ordinal));
    }
}
