using Espalier.Runs;
using Microsoft.Playwright;

[assembly: AssemblyFixture(typeof(Espalier.Studio.Tests.StudioHouse))]
[assembly: Xunit.v3.Parallelization(Mode = Xunit.Sdk.ParallelMode.None)]

namespace Espalier.Studio.Tests;

/// <summary>One studio with a store and a home of its own, and one browser, for all tests.</summary>
public sealed class StudioHouse : IAsyncLifetime
{
    private readonly string _folder = Path.Combine(Path.GetTempPath(), $"espalier-studio-{Guid.NewGuid():N}");
    private IPlaywright? _playwright;
    private IBrowser? _browser;

    internal StudioServer Studio { get; private set; } = default!;

    internal SmtpServer Smtp { get; } = new();

    internal Uri Address => Studio.Address;

    internal StudioOptions Options { get; private set; } = default!;

    internal string Home => _folder;

    internal HttpClient Api { get; private set; } = default!;

    /// <summary>Ids of the runs that the store begins with.</summary>
    internal IReadOnlyList<string> Seeded { get; private set; } = [];

    /// <summary>The folder that screenshots are kept in.</summary>
    internal static string Pictures { get; } = Directory.CreateDirectory(Path.Combine(Repository(), "artifacts", "studio")).FullName;

    public async ValueTask InitializeAsync()
    {
        Directory.CreateDirectory(_folder);
        Environment.SetEnvironmentVariable("HF_HUB_CACHE", Path.Combine(_folder, "hub"));
        Options = new StudioOptions
        {
            Port = 0,
            Home = _folder,
            Runs = Path.Combine(_folder, "runs.db"),
            WorkPerMinute = 500,
            Tool = ["dotnet", Path.Combine(AppContext.BaseDirectory, "Espalier.Cli.dll")],
            Commands = new Espalier.Cli.Commands.CommandForms(),
            Mail = new MailOptions { Host = "127.0.0.1", Port = Smtp.Port, Tls = false, From = "espalier@example.org" },
        };
        Studio = await StudioServer.StartAsync(Options, message => TestContext.Current.SendDiagnosticMessage(message));
        Api = new HttpClient(new HttpClientHandler { UseCookies = false }) { BaseAddress = Address };
        Seeded = await SeedAsync();
    }

    internal async Task<IPage> OpenAsync(string path, int width = 1280, int height = 900, bool dark = false)
    {
        const string Chromium = "/usr/bin/chromium";
        if (!File.Exists(Chromium))
        {
            Assert.SkipUnless(Environment.GetEnvironmentVariable("CI") == "true", "Chromium is missing; build/chromium.sh installs it.");
            throw new InvalidOperationException("Chromium is missing; build/chromium.sh installs it.");
        }

        _playwright ??= await Playwright.CreateAsync();
        _browser ??= await _playwright.Chromium.LaunchAsync(new BrowserTypeLaunchOptions { ExecutablePath = Chromium, Args = ["--no-sandbox", "--disable-gpu"] });
        IBrowserContext context = await _browser.NewContextAsync(new BrowserNewContextOptions
        {
            ViewportSize = new ViewportSize { Width = width, Height = height },
            ColorScheme = dark ? ColorScheme.Dark : ColorScheme.Light,
            BaseURL = Address.ToString(),
        });
        context.SetDefaultTimeout(60_000);
        IPage page = await context.NewPageAsync();
        await page.GotoAsync(path);
        return page;
    }

    public async ValueTask DisposeAsync()
    {
        if (_browser is not null)
        {
            await _browser.DisposeAsync();
        }

        _playwright?.Dispose();
        Api?.Dispose();
        await Studio.DisposeAsync();
        Smtp.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    internal async Task<RunStore> StoreAsync() => await RunStore.OpenAsync(RunLocation.Parse(Options.Runs!));

    private async Task<IReadOnlyList<string>> SeedAsync()
    {
        await using RunStore store = await StoreAsync();
        var ids = new List<string>();
        foreach ((string title, double perplexity, double sparsity, long bytes, double speed) in new[] { ("wanda 50 %", 32.9, 0.5, 1_610_000L, 2100.0), ("sparsegpt 50 %", 32.1, 0.5, 1_620_000L, 2080.0), ("magnitude 70 %", 61.4, 0.7, 1_190_000L, 2700.0) })
        {
            Run run = await store.BeginAsync(new NewRun { Command = "prune", Title = title, Model = "assets/default-model", Plan = $"prune:\n  criterion: {title.Split(' ')[0]}\n  sparsity: {sparsity.ToString(System.Globalization.CultureInfo.InvariantCulture)}\n", Tags = ["seeded"] });
            var points = Enumerable.Range(0, 80).Select(i => new MetricPoint { Name = "loss", Step = i, Time = DateTime.UtcNow, Value = 2.9 + (1.4 * Math.Exp(-i / 20.0)) + (0.08 * Math.Sin(i * 1.7)) }).ToArray();
            await store.AppendAsync(run.Id, points, [new LogLine { Time = DateTime.UtcNow, Text = $"{title} begins." }, new LogLine { Time = DateTime.UtcNow, Level = "warn", Text = "One block is more sparse than asked." }]);
            string[] kinds = ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"];
            var blocks = Enumerable.Range(0, 6).Select(b => new
            {
                index = b,
                outputError = 0.02 + (0.01 * b),
                layers = kinds.Select((k, i) => new { name = $"model.layers.{b}.{k}.weight", achieved = sparsity + (0.02 * (i - b)), repairedError = 0.02 + (0.01 * i) + (0.004 * b) }).ToArray(),
            }).ToArray();
            await store.FinishAsync(run.Id, new RunEnd(RunState.Finished)
            {
                ExitCode = 0,
                Outcome = System.Text.Json.JsonSerializer.Serialize(new
                {
                    plan = new { criterion = $"{title.Split(' ')[0]}()" },
                    quality = new[] { new { stage = "dense", perplexity = 30.13 }, new { stage = "pruned", perplexity = perplexity + 6 }, new { stage = "retrained", perplexity } },
                    wonBack = 0.62,
                    parameters = 2828736,
                    prunable = 2433024,
                    pruned = (long)(2433024 * sparsity),
                    trained = 334272,
                    blocks,
                    speed = new { rows = new[] { new { model = "pruned", bytes, tokensPerSecond = speed } } },
                    seconds = new { pruning = 12.5 },
                    samples = new[] { new { prompt = "Elizabeth could not help", continuations = new { dense = " thinking of all that could be done for.", pruned = " her to feel that, in the same time", retrained = " smiling at the ease with which he spoke." } } },
                }),
            });
            ids.Add(run.Id);
        }

        return ids;
    }

    private static string Repository()
    {
        string? folder = AppContext.BaseDirectory;
        while (folder is not null && !File.Exists(Path.Combine(folder, "Espalier.slnx")))
        {
            folder = Path.GetDirectoryName(folder);
        }

        return folder ?? AppContext.BaseDirectory;
    }
}
