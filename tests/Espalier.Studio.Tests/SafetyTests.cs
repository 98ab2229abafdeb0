using System.Net;
using System.Net.Http.Json;
using System.Text;
using Espalier.Runs;
using Espalier.Runtime;

namespace Espalier.Studio.Tests;

/// <summary>What must not be possible.</summary>
public sealed class SafetyTests(StudioHouse house)
{
    [Theory]
    [InlineData("0.0.0.0", null, "token")]
    [InlineData("0.0.0.0", "0123456789abcdef", "HTTPS")]
    [InlineData("127.0.0.1", "short", "16 characters")]
    [InlineData("nowhere", null, "address")]
    public void Beyond_this_machine_a_token_and_https_are_demanded(string host, string? token, string word) =>
        Should.Throw<EspalierException>(() => new StudioOptions { Host = host, Token = token }.Validate()).Message.ShouldContain(word);

    [Fact]
    public async Task A_name_that_is_not_this_machine_is_not_answered()
    {
        using var request = new HttpRequestMessage(HttpMethod.Get, "/") { Headers = { Host = "evil.example" } };
        (await house.Api.SendAsync(request)).StatusCode.ShouldBe(HttpStatusCode.MisdirectedRequest);
    }

    [Fact]
    public async Task A_foreign_page_changes_nothing()
    {
        using var request = new HttpRequestMessage(HttpMethod.Post, $"/api/v1/runs/{house.Seeded[0]}/tags") { Content = JsonContent.Create(new { add = new[] { "evil" } }) };
        request.Headers.Add("Origin", "https://evil.example");
        (await house.Api.SendAsync(request)).StatusCode.ShouldBe(HttpStatusCode.Forbidden);
        using var plain = new StringContent("{\"add\":[\"evil\"]}", Encoding.UTF8, "text/plain");
        (await house.Api.PostAsync($"/api/v1/runs/{house.Seeded[0]}/tags", plain)).StatusCode.ShouldBe(HttpStatusCode.UnsupportedMediaType);
    }

    [Theory]
    [InlineData("..%2F..%2Fetc%2Fpasswd")]
    [InlineData("%2Fetc%2Fpasswd")]
    [InlineData("runs.db")]
    public async Task No_file_leaves_but_those_of_a_run(string name) =>
        (await house.Api.GetAsync($"/api/v1/runs/{house.Seeded[0]}/files/{name}")).StatusCode.ShouldBeOneOf(HttpStatusCode.BadRequest, HttpStatusCode.NotFound);

    [Fact]
    public async Task A_file_outside_its_runs_folder_is_not_given_out_even_when_the_store_names_it()
    {
        await using RunStore store = await house.StoreAsync();
        string folder = Directory.CreateDirectory(Path.Combine(house.Home, "outputs")).FullName, secret = Path.Combine(house.Home, "secret.txt");
        await File.WriteAllTextAsync(secret, "secret");
        File.CreateSymbolicLink(Path.Combine(folder, "link.txt"), secret);
        Run run = await store.BeginAsync(new NewRun { Command = "prune", Title = "outside", Folder = folder });
        await store.AddArtefactsAsync(run.Id, [new Artefact { Path = secret, Name = "secret.txt" }, new Artefact { Path = Path.Combine(folder, "link.txt"), Name = "link.txt" }]);
        await store.FinishAsync(run.Id, new RunEnd(RunState.Finished));
        foreach (string name in new[] { "secret.txt", "link.txt" })
        {
            HttpResponseMessage answer = await house.Api.GetAsync($"/api/v1/runs/{run.Id}/files/{name}");
            answer.StatusCode.ShouldBe(HttpStatusCode.BadRequest);
            (await answer.Content.ReadAsStringAsync()).ShouldContain("outside the run's folder");
        }
    }

    [Fact]
    public async Task A_plan_names_no_path()
    {
        foreach (string model in new[] { "/etc", "../..", "./models", "C:\\models", "a/../../b" })
        {
            HttpResponseMessage answer = await house.Api.PostAsJsonAsync("/api/v1/runs", new { model, words = new Dictionary<string, string> { ["prune.sparsity"] = "0.5" } });
            answer.StatusCode.ShouldBe(HttpStatusCode.BadRequest, model);
        }

        foreach (string value in new[] { "/etc", "../model", "~/model", "a\\b" })
        {
            HttpResponseMessage teacher = await house.Api.PostAsJsonAsync("/api/v1/runs", new { model = Models.ModelShelf.KeyOf(Assets.DefaultModel), calibration = "austen-train", words = new Dictionary<string, string> { ["retrain.method"] = "minitron", ["retrain.teacher_model"] = value } });
            teacher.StatusCode.ShouldBe(HttpStatusCode.BadRequest, value);
            (await teacher.Content.ReadAsStringAsync()).ShouldContain("takes no path here");
        }

        HttpResponseMessage outside = await house.Api.PostAsJsonAsync("/api/v1/runs", new { model = Models.ModelShelf.KeyOf(Assets.DefaultModel), words = new Dictionary<string, string> { ["out"] = "/tmp/x" } });
        outside.StatusCode.ShouldBe(HttpStatusCode.BadRequest);
    }

    [Fact]
    public async Task Text_of_users_is_shown_as_text()
    {
        await using RunStore store = await house.StoreAsync();
        Run run = await store.BeginAsync(new NewRun { Command = "prune", Title = "<script>alert(1)</script>", Plan = "</code><img src=x onerror=alert(1)>" });
        await store.FinishAsync(run.Id, new RunEnd(RunState.Failed) { Error = "<b>no</b>" });
        string page = await house.Api.GetStringAsync($"/runs/{run.Id}");
        page.ShouldNotContain("<script>alert");
        page.ShouldNotContain("<img src=x");
        page.ShouldContain("&lt;b&gt;no&lt;/b&gt;");
        await store.DeleteAsync([run.Id]);
    }

    [Fact]
    public async Task Requests_have_limits_and_answers_have_guards()
    {
        using var large = new StringContent(new string('x', 300 * 1024), Encoding.UTF8, "application/json");
        (await house.Api.PostAsync("/api/v1/plans/check", large)).StatusCode.ShouldBe(HttpStatusCode.RequestEntityTooLarge);
        HttpResponseMessage page = await house.Api.GetAsync("/");
        page.Headers.GetValues("Content-Security-Policy").Single().ShouldContain("script-src 'self'");
        page.Headers.GetValues("X-Content-Type-Options").Single().ShouldBe("nosniff");
        HttpResponseMessage nothing = await house.Api.GetAsync("/api/v1/nothing");
        nothing.StatusCode.ShouldBe(HttpStatusCode.NotFound);
        (await nothing.Content.ReadAsStringAsync()).ShouldContain("no such address");
        (await house.Api.GetStringAsync("/openapi/v1.json")).ShouldContain("StartRun");
    }

    [Fact]
    public async Task A_studio_with_a_token_asks_for_it_and_limits_tries()
    {
        const string Token = "correct-horse-battery";
        await using StudioServer studio = await StudioServer.StartAsync(new StudioOptions { Port = 0, Token = Token, Home = Path.Combine(house.Home, "other"), Runs = Path.Combine(house.Home, "other.db"), WorkPerMinute = 2 });
        using var client = new HttpClient(new HttpClientHandler { AllowAutoRedirect = false }) { BaseAddress = studio.Address };
        (await client.GetAsync("/api/v1/runs")).StatusCode.ShouldBe(HttpStatusCode.Unauthorized);
        HttpResponseMessage home = await client.GetAsync("/");
        home.Headers.Location!.ToString().ShouldBe("/sign-in");
        using var request = new HttpRequestMessage(HttpMethod.Get, "/api/v1/runs") { Headers = { Authorization = new("Bearer", Token) } };
        (await client.SendAsync(request)).StatusCode.ShouldBe(HttpStatusCode.OK);
        HttpStatusCode last = HttpStatusCode.OK;
        for (int i = 0; i < 4; i++)
        {
            using var sign = new FormUrlEncodedContent([new("token", "guess")]);
            last = (await client.PostAsync("/sign-in/token", sign)).StatusCode;
        }

        last.ShouldBe(HttpStatusCode.TooManyRequests);
    }

    [Fact]
    public async Task Beyond_this_machine_it_serves_https_to_those_who_have_the_token_and_nothing_else()
    {
        const string Token = "correct-horse-battery", Password = "staple";
        string file = Path.Combine(house.Home, "studio.p12");
        await File.WriteAllBytesAsync(file, Certificate(Password));
        var options = new StudioOptions { Host = "0.0.0.0", Port = 0, Token = Token, Certificate = file, CertificatePassword = Password, Home = Path.Combine(house.Home, "secure"), Runs = Path.Combine(house.Home, "secure.db") };

        // What is missing is said in one sentence, and nothing is opened.
        foreach ((StudioOptions bare, string word) in new[]
        {
            (options with { Token = null }, "demands a token"),
            (options with { Certificate = null }, "demands HTTPS"),
            (options with { Certificate = file + ".none" }, "no certificate"),
            (options with { CertificatePassword = "wrong" }, "cannot be opened"),
        })
        {
            string sentence = (await Should.ThrowAsync<EspalierException>(() => StudioServer.StartAsync(bare))).Message;
            sentence.ShouldContain(word);
            sentence.ShouldNotContain("\n");
            sentence.ShouldNotContain(Password);
        }

        await using StudioServer studio = await StudioServer.StartAsync(options);
        studio.Address.Scheme.ShouldBe("https");
        var address = new Uri($"https://localhost:{studio.Address.Port}");
        using (var strict = new HttpClient { BaseAddress = address })
        {
            await Should.ThrowAsync<HttpRequestException>(() => strict.GetAsync("/"), "a certificate of one's own is no secret agreement: clients that do not know it refuse it");
        }

        using var trusting = new HttpClientHandler { AllowAutoRedirect = false, UseCookies = false, ServerCertificateCustomValidationCallback = (_, shown, _, _) => shown!.Subject == "CN=localhost" };
        using var client = new HttpClient(trusting) { BaseAddress = address };
        (await client.GetAsync("/api/v1/runs")).StatusCode.ShouldBe(HttpStatusCode.Unauthorized);
        (await client.GetAsync("/")).Headers.Location!.ToString().ShouldBe("/sign-in");
        HttpResponseMessage sign = await client.GetAsync("/sign-in");
        sign.StatusCode.ShouldBe(HttpStatusCode.OK);
        using (var request = new HttpRequestMessage(HttpMethod.Get, "/api/v1/runs") { Headers = { Authorization = new("Bearer", Token) } })
        {
            HttpResponseMessage answer = await client.SendAsync(request);
            answer.StatusCode.ShouldBe(HttpStatusCode.OK);
            (await answer.Content.ReadAsStringAsync()).ShouldContain("\"total\":0");
        }

        // Signed in with the page's form, a browser holds a cookie that goes over HTTPS alone.
        string form = System.Text.RegularExpressions.Regex.Match(await sign.Content.ReadAsStringAsync(), "name=\"__RequestVerificationToken\" value=\"([^\"]+)\"").Groups[1].Value;
        using var post = new HttpRequestMessage(HttpMethod.Post, "/sign-in/token") { Content = new FormUrlEncodedContent([new("token", Token), new("__RequestVerificationToken", form)]) };
        post.Headers.Add("Cookie", sign.Headers.GetValues("Set-Cookie").Select(c => c.Split(';')[0]));
        HttpResponseMessage signed = await client.SendAsync(post);
        string cookie = signed.Headers.GetValues("Set-Cookie").Single(c => c.StartsWith("espalier-session", StringComparison.Ordinal));
        cookie.ShouldContain("secure", Case.Insensitive);
        cookie.ShouldContain("httponly", Case.Insensitive);
        cookie.ShouldNotContain(Token);
        using var home = new HttpRequestMessage(HttpMethod.Get, "/") { Headers = { { "Cookie", cookie.Split(';')[0] } } };
        (await client.SendAsync(home)).StatusCode.ShouldBe(HttpStatusCode.OK);

        // Whoever speaks plain HTTP to it gets no page.
        using var plain = new HttpClient { BaseAddress = new Uri($"http://localhost:{studio.Address.Port}") };
        await Should.ThrowAsync<HttpRequestException>(() => plain.GetAsync("/"));
    }

    [Fact]
    public async Task The_command_refuses_plain_http_beyond_this_machine_in_one_sentence()
    {
        Environment.SetEnvironmentVariable("ESPALIER_STUDIO_TOKEN", "correct-horse-battery");
        try
        {
            using var output = new StringWriter();
            using var error = new StringWriter();
            int code = await Espalier.Cli.EspalierCommandLine.RunAsync(["studio", "--host", "0.0.0.0", "--port", "0", "--no-browser", "--home", house.Home], output, error);
            code.ShouldBe(Espalier.Cli.ExitCode.UserError);
            error.ToString().Trim().Split('\n').ShouldHaveSingleItem().ShouldContain("demands HTTPS; name a PKCS #12 file with --certificate");
        }
        finally
        {
            Environment.SetEnvironmentVariable("ESPALIER_STUDIO_TOKEN", null);
        }
    }

    private static byte[] Certificate(string password)
    {
        using var key = System.Security.Cryptography.ECDsa.Create(System.Security.Cryptography.ECCurve.NamedCurves.nistP256);
        var request = new System.Security.Cryptography.X509Certificates.CertificateRequest("CN=localhost", key, System.Security.Cryptography.HashAlgorithmName.SHA256);
        var names = new System.Security.Cryptography.X509Certificates.SubjectAlternativeNameBuilder();
        names.AddDnsName("localhost");
        request.CertificateExtensions.Add(names.Build());
        using var certificate = request.CreateSelfSigned(DateTimeOffset.UtcNow.AddMinutes(-5), DateTimeOffset.UtcNow.AddHours(1));
        return certificate.Export(System.Security.Cryptography.X509Certificates.X509ContentType.Pkcs12, password);
    }
}
