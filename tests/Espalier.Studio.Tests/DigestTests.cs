using System.Net.Http.Json;
using System.Text.Json;
using System.Text.RegularExpressions;
using Espalier.Runs;
using Espalier.Studio.Digest;
using Microsoft.Extensions.DependencyInjection;

namespace Espalier.Studio.Tests;

/// <summary>The digest, against a server that speaks SMTP.</summary>
public sealed partial class DigestTests(StudioHouse house)
{
    [Fact]
    public async Task An_address_is_asked_first_then_told_and_leaves_with_one_click()
    {
        Postman postman = house.Studio.Services.GetRequiredService<Postman>();
        (await house.Api.PostAsJsonAsync("/api/v1/digest", new { address = "reader@example.org", pace = "atOnce" })).StatusCode.ShouldBe(System.Net.HttpStatusCode.Accepted);
        (string from, string to, string text) = house.Smtp.Mails.Single(m => m.To == "reader@example.org");
        to.ShouldBe("reader@example.org");
        from.ShouldContain("espalier@example.org");
        Uri confirm = LinkIn(text, "act=confirm");

        await FinishAsync("before the answer");
        (await postman.SendDueAsync(CancellationToken.None)).ShouldBe(0, "nothing is sent before it is confirmed");

        (await house.Api.GetStringAsync(confirm)).ShouldContain("Yes, send it");
        (await house.Api.PostAsync(new Uri(confirm.ToString().Replace("/digest/answer?act=confirm&", "/digest/do/confirm?", StringComparison.Ordinal)), null)).RequestMessage!.RequestUri!.Query.ShouldContain("confirmed");
        await FinishAsync("wanda, better", 11.5);
        (await postman.SendDueAsync(CancellationToken.None)).ShouldBe(1);
        string digest = house.Smtp.Mails.Last(m => m.To == "reader@example.org").Text;
        digest.ShouldContain("wanda, better");
        digest.ShouldContain("New best results");
        digest.ShouldNotContain("before the answer");
        (await postman.SendDueAsync(CancellationToken.None)).ShouldBe(0, "nothing is told twice");

        Match header = Unsubscribe().Match(Unfold(digest));
        header.Success.ShouldBeTrue(digest);
        digest.ShouldContain("List-Unsubscribe-Post: List-Unsubscribe=One-Click");
        using var click = new FormUrlEncodedContent([new("List-Unsubscribe", "One-Click")]);
        (await house.Api.PostAsync(new Uri(header.Groups[1].Value), click)).RequestMessage!.RequestUri!.Query.ShouldContain("left");
        await FinishAsync("after it left");
        (await postman.SendDueAsync(CancellationToken.None)).ShouldBe(0);
        (await File.ReadAllTextAsync(Path.Combine(house.Home, "studio", "digest.json"))).ShouldNotContain("reader@example.org");
    }

    [Theory]
    [InlineData("nobody")]
    [InlineData("a@b")]
    [InlineData("a@example.org\r\nBcc: b@example.org")]
    [InlineData("")]
    public async Task What_is_no_address_is_refused(string address)
    {
        int before = house.Smtp.Mails.Count;
        (await house.Api.PostAsJsonAsync("/api/v1/digest", new { address })).StatusCode.ShouldBe(System.Net.HttpStatusCode.BadRequest);
        house.Smtp.Mails.Count.ShouldBe(before);
    }

    [Fact]
    public async Task A_link_that_was_made_up_does_nothing() =>
        (await house.Api.PostAsync("/digest/do/unsubscribe?id=0&token=0", null)).RequestMessage!.RequestUri!.Query.ShouldContain("wrong");

    private async Task FinishAsync(string title, double perplexity = 12.5)
    {
        await using RunStore store = await house.StoreAsync();
        Run run = await store.BeginAsync(new NewRun { Command = "prune", Title = title, Model = "digest" });
        await store.FinishAsync(run.Id, new RunEnd(RunState.Finished) { Outcome = JsonSerializer.Serialize(new { plan = new { criterion = "wanda()" }, quality = new[] { new { stage = "pruned", perplexity } }, prunable = 100, pruned = 50 }) });
        await Task.Delay(20);
    }

    // Long lines of a mail are broken with "=" at their end.
    private static string Unfold(string mail) => mail.Replace("=\n", "", StringComparison.Ordinal).Replace("=3D", "=", StringComparison.Ordinal).Replace("\n ", " ", StringComparison.Ordinal);

    private static Uri LinkIn(string mail, string part) => new(Link().Matches(Unfold(mail)).Select(m => m.Value).First(l => l.Contains(part, StringComparison.Ordinal)));

    [GeneratedRegex(@"http://[^\s""<>]+")]
    private static partial Regex Link();

    [GeneratedRegex(@"List-Unsubscribe:\s*<([^>]+)>")]
    private static partial Regex Unsubscribe();
}
