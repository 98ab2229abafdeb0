using System.Net.Http.Json;
using Microsoft.Playwright;

namespace Espalier.Studio.Tests;

/// <summary>Every page in a real browser: light and dark, wide and narrow, with names for those who cannot see it.</summary>
public sealed class PagesTests(StudioHouse house)
{
    // What has no name for a screen reader: controls without text, label or aria-label; pictures without words.
    private const string Nameless = """
        () => [...document.querySelectorAll('a[href],button,input:not([type=hidden]),select,textarea,svg[role=img],canvas,[role=progressbar]')]
          .filter(e => e.checkVisibility() && !(e.getAttribute('aria-label') || (e.getAttribute('aria-labelledby')) || [...(e.labels ?? [])].some(l => l.textContent.trim()) || e.textContent.trim() || e.querySelector('title') || e.title))
          .map(e => e.outerHTML.slice(0, 120))
        """;

    public static TheoryData<string, string> Pages => new()
    {
        { "runs", "/" }, { "run", "/runs/{run}" }, { "compare", "/compare" }, { "new", "/new" }, { "new-train", "/new/train" }, { "new-adapt", "/new/adapt" }, { "new-eval", "/new/eval" }, { "new-compare", "/new/compare" }, { "new-reproduce", "/new/reproduce" }, { "new-nothing", "/new/nothing" }, { "models", "/models" }, { "model", "/models/{model}" },
        { "systems", "/systems" }, { "system", "/systems/wanda" }, { "system-later", "/systems/ssd" }, { "doctor", "/doctor" }, { "digest", "/digest" }, { "missing", "/nowhere" },
        { "missing-run", "/runs/0123456789abcdef0123456789abcdef" }, { "missing-system", "/systems/nothing" }, { "missing-model", "/models/nothing" },
    };

    [Theory]
    [MemberData(nameof(Pages))]
    public async Task A_page_shows_well_in_light_and_dark_wide_and_narrow(string name, string path)
    {
        string model = Espalier.Studio.Models.ModelShelf.KeyOf(Espalier.Runtime.Assets.DefaultModel);
        path = path.Replace("{run}", house.Seeded[0], StringComparison.Ordinal).Replace("{model}", model, StringComparison.Ordinal);
        foreach ((int width, bool dark) in new[] { (1280, false), (390, true) })
        {
            IPage page = await house.OpenAsync("about:blank", width, dark: dark);
            var faults = new List<string>();
            page.Console += (_, message) =>
            {
                if (message.Type is "error" && !((name.StartsWith("missing", StringComparison.Ordinal) || name is "new-nothing") && message.Text.Contains("404", StringComparison.Ordinal)))
                {
                    faults.Add(message.Text);
                }
            };
            page.PageError += (_, fault) => faults.Add(fault);
            await page.GotoAsync(house.Address + path.TrimStart('/'));
            await page.WaitForTimeoutAsync(600);
            (await page.Locator("h1").CountAsync()).ShouldBe(1);
            (await page.TitleAsync()).ShouldEndWith("Espalier");
            (await page.EvaluateAsync<string[]>(Nameless)).ShouldBeEmpty($"{path}: every control has a name");
            (await page.EvaluateAsync<int>("() => document.documentElement.scrollWidth - innerWidth")).ShouldBeLessThanOrEqualTo(0, $"{path} at {width}: nothing sticks out");
            (await page.EvaluateAsync<int>("() => new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size - document.querySelectorAll('[id]').length")).ShouldBe(0, "ids are unique");
            await page.ScreenshotAsync(new PageScreenshotOptions { Path = Path.Combine(StudioHouse.Pictures, $"{name}-{(dark ? "narrow-dark" : "wide-light")}.png"), FullPage = true });
            faults.ShouldBeEmpty();
            await page.Context.CloseAsync();
        }
    }

    [Fact]
    public async Task The_keyboard_reaches_the_content_first_and_the_colours_can_be_changed()
    {
        IPage page = await house.OpenAsync("/systems");
        await page.Keyboard.PressAsync("Tab");
        (await page.EvaluateAsync<string>("() => document.activeElement.textContent")).ShouldBe("Skip to content");
        await page.Keyboard.PressAsync("Enter");
        (await page.EvaluateAsync<string>("() => document.activeElement.id")).ShouldBe("main");
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Colours: as the system" }).ClickAsync();
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Colours: light" }).ClickAsync();
        (await page.EvaluateAsync<string>("() => document.documentElement.dataset.theme")).ShouldBe("dark");
        await page.ReloadAsync();
        (await page.EvaluateAsync<string>("() => document.documentElement.dataset.theme")).ShouldBe("dark");
        await page.Context.CloseAsync();
    }

    [Fact]
    public async Task Systems_are_found_as_one_types()
    {
        IPage page = await house.OpenAsync("/systems");
        await page.GetByLabel("Search by what it does").FillAsync("swap pruned weights without gradients");
        await page.WaitForURLAsync("**q=swap**");
        await page.GetByText("the nearest first").WaitForAsync();
        (await page.Locator(".tile h2").AllTextContentsAsync()).Take(3).ShouldContain("dsnot");
        await page.GetByRole(AriaRole.Link, new PageGetByRoleOptions { NameString = "dsnot", Exact = true }).ClickAsync();
        await page.GetByRole(AriaRole.Heading, new PageGetByRoleOptions { NameString = "Systems like this one" }).WaitForAsync();
        await page.Context.CloseAsync();
    }

    [Fact]
    public async Task Chosen_runs_are_compared_with_a_front()
    {
        IPage page = await house.OpenAsync("/?tag=seeded");
        foreach (IElementHandle box in await page.QuerySelectorAllAsync("input[type=checkbox]"))
        {
            await box.CheckAsync();
        }

        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Compare the chosen" }).ClickAsync();
        await page.GetByRole(AriaRole.Heading, new PageGetByRoleOptions { NameString = "Where they differ" }).WaitForAsync();
        (await page.Locator("table").First.Locator("tbody tr").CountAsync()).ShouldBe(3);
        await page.GetByLabel("Across").SelectOptionAsync("speed");
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Draw" }).ClickAsync();
        await page.GetByText("Perplexity against tokens per second").WaitForAsync();
        await page.Context.CloseAsync();
    }

    [Fact]
    public async Task A_run_is_made_watched_looked_at_and_tried()
    {
        IPage page = await house.OpenAsync("/new");
        await page.GetByLabel("Name", new PageGetByLabelOptions { Exact = true }).FillAsync("first of all");
        await page.Locator("[data-word='prune.sparsity']").FillAsync("1.5");
        await page.Locator(".verdict.bad").WaitForAsync();
        await page.Locator("[data-word='prune.sparsity']").FillAsync("0.6");
        await page.Locator("[data-word='prune.criterion']").SelectOptionAsync("magnitude");
        await page.Locator("[data-word='retrain.method']").SelectOptionAsync("");
        await page.GetByLabel("Windows to measure").FillAsync("4");
        await page.Locator("[data-verdict]:not([aria-busy])", new PageLocatorOptions { HasTextString = "This can be started." }).WaitForAsync();
        (await page.Locator("[data-yaml]").TextContentAsync())!.ShouldContain("sparsity: 0.6");
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Start", Exact = true }).ClickAsync();
        await page.WaitForURLAsync("**/runs/*");
        await page.GetByText("finished", new PageGetByTextOptions { Exact = true }).WaitForAsync(new LocatorWaitForOptions { Timeout = 240_000 });
        await page.GetByRole(AriaRole.Heading, new PageGetByRoleOptions { NameString = "Before and after" }).WaitForAsync();
        (await page.Locator(".files li").CountAsync()).ShouldBeGreaterThan(3);
        await page.ScreenshotAsync(new PageScreenshotOptions { Path = Path.Combine(StudioHouse.Pictures, "run-finished.png"), FullPage = true });

        await page.GetByLabel("Add a tag").FillAsync("kept");
        await page.Keyboard.PressAsync("Enter");
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Take the tag kept away" }).WaitForAsync();

        await page.GetByRole(AriaRole.Link, new PageGetByRoleOptions { NameString = "Open the model" }).ClickAsync();
        ILocator picture = page.Locator("canvas");
        await page.GetByText("of what is shown is zero").WaitForAsync();
        string whole = (await picture.GetAttributeAsync("aria-label"))!;
        await picture.FocusAsync();
        await page.Keyboard.PressAsync("+");
        await page.WaitForFunctionAsync("whole => document.querySelector('canvas').getAttribute('aria-label') !== whole", whole);
        await page.GetByLabel("Beside").SelectOptionAsync(Espalier.Studio.Models.ModelShelf.KeyOf(Espalier.Runtime.Assets.DefaultModel));
        await page.GetByLabel("Tokens", new PageGetByLabelOptions { Exact = true }).FillAsync("12");
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Write" }).ClickAsync();
        await page.WaitForFunctionAsync("() => [...document.querySelectorAll('[data-voices] h3 span')].filter(s => s.textContent.includes('a second')).length === 2");
        await page.ScreenshotAsync(new PageScreenshotOptions { Path = Path.Combine(StudioHouse.Pictures, "model-pruned.png"), FullPage = true });

        await page.GotoAsync("/");
        await page.GetByRole(AriaRole.Link, new PageGetByRoleOptions { NameString = "first of all" }).ClickAsync();
        await page.GetByRole(AriaRole.Link, new PageGetByRoleOptions { NameString = "Clone" }).ClickAsync();
        (await page.Locator("[data-word='prune.sparsity']").InputValueAsync()).ShouldBe("0.6");
        (await page.Locator("[data-word='prune.criterion']").InputValueAsync()).ShouldBe("magnitude");
        await page.Context.CloseAsync();
    }

    [Fact]
    public async Task A_run_is_stopped_where_nothing_is_lost_and_gone_on_with()
    {
        HttpResponseMessage started = await house.Api.PostAsJsonAsync("/api/v1/runs", new
        {
            model = Espalier.Studio.Models.ModelShelf.KeyOf(Espalier.Runtime.Assets.DefaultModel),
            calibration = "austen-train",
            title = "long",
            words = new Dictionary<string, string> { ["prune.sparsity"] = "0.5", ["data.samples"] = "2", ["retrain.method"] = "perp", ["retrain.subset"] = "norms", ["retrain.steps"] = "100000", ["retrain.batch"] = "1", ["retrain.length"] = "16" },
        });
        string id = (await started.Content.ReadFromJsonAsync<System.Text.Json.JsonElement>()).GetProperty("id").GetString()!;
        IPage page = await house.OpenAsync($"/runs/{id}");
        await page.Locator("[data-charts] h3", new PageLocatorOptions { HasTextString = "loss" }).WaitForAsync(new LocatorWaitForOptions { Timeout = 240_000 });
        await page.WaitForTimeoutAsync(3_000);
        await page.ScreenshotAsync(new PageScreenshotOptions { Path = Path.Combine(StudioHouse.Pictures, "run-live.png") });
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Stop" }).ClickAsync();
        await page.GetByText("interrupted", new PageGetByTextOptions { Exact = true }).WaitForAsync(new LocatorWaitForOptions { Timeout = 120_000 });
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Go on" }).ClickAsync();
        await page.WaitForURLAsync(url => url.Contains("/runs/", StringComparison.Ordinal) && !url.EndsWith(id, StringComparison.Ordinal));
        await page.GetByText("running", new PageGetByTextOptions { Exact = true }).WaitForAsync(new LocatorWaitForOptions { Timeout = 120_000 });
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Stop" }).ClickAsync();
        await page.GetByText("interrupted", new PageGetByTextOptions { Exact = true }).WaitForAsync(new LocatorWaitForOptions { Timeout = 120_000 });
        await page.Context.CloseAsync();
    }
}
