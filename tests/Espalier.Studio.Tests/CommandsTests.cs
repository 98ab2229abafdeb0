using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using Espalier.Runs;
using Espalier.Studio.Models;
using Espalier.Studio.Runs;
using Microsoft.Playwright;

namespace Espalier.Studio.Tests;

/// <summary>Commands started from forms that are made of the command line's own options.</summary>
public sealed class CommandsTests(StudioHouse house)
{
    private static string Model => ModelShelf.KeyOf(Espalier.Runtime.Assets.DefaultModel);

    [Fact]
    public void Every_command_that_keeps_runs_has_a_form_with_all_of_its_options()
    {
        var forms = new Espalier.Cli.Commands.CommandForms().Forms;
        Espalier.Cli.Commands.CommandList.All().Where(c => c.IsRecorded).Select(c => c.Name).Except(["prune"]).ShouldBe(forms.Select(f => f.Name), ignoreOrder: true);
        foreach (CommandForm form in forms)
        {
            var command = Espalier.Cli.Commands.CommandList.All().Single(c => c.Name == form.Name);
            string[] own = ["--title", "--tag", "--resume", "--fresh", "--dry-run", "--markdown", "--task-data", "--stop-after", "--tokenizer", form.Out ?? ""];
            command.Options.Select(o => o.Name).Except(own).Except(form.Fields.Select(f => f.Name)).ShouldBeEmpty($"{form.Name}: no option is left out");
            form.Fields.ShouldAllBe(f => f.Label.Length > 0 && !f.Hint.Contains('`'));
        }
    }

    [Theory]
    [InlineData("train", "--steps", "0", "cannot be 0")]
    [InlineData("train", "--steps", "many", "--steps")]
    [InlineData("train", "--optimizer", "adamm", "adamm")]
    [InlineData("train", "--set", "rank=4", "none was named")]
    [InlineData("adapt", "--set", "rank=x", "whole number")]
    [InlineData("adapt", "--method", "wanda", "wanda")]
    [InlineData("speed", "--tokens", "0", "above 0")]
    [InlineData("eval", "--tasks", "arc_easier", "arc_easier")]
    [InlineData("reproduce", "--seeds", "1,1", "each once")]
    [InlineData("reproduce", "system", "wandaa", "wandaa")]
    [InlineData("complexity", "--curve", "high", "high")]
    [InlineData("train", "--config", "/etc", "Choose a model")]
    [InlineData("train", "--data", "/etc/passwd", "Choose data")]
    [InlineData("train", "--optimizer", "../plan.yaml", "no path")]
    [InlineData("eval", "--tasks", "@/etc/passwd", "cannot begin with '@'")]
    [InlineData("eval", "--tasks", "--help", "cannot begin with '-'")]
    [InlineData("train", "--out", "/tmp/x", "no word")]
    [InlineData("doctor", "--json", "true", "no form")]
    [InlineData("merge-adapter", "--adapter", "/tmp", "no such adapter")]
    [InlineData("compare", "plans", "/tmp/a.yaml", "no such plan")]
    public async Task What_cannot_be_started_is_refused_in_a_sentence(string command, string field, string value, string sentence)
    {
        var values = new Dictionary<string, string[]>();
        foreach ((string name, string given) in command switch
        {
            "train" => new[] { ("--config", Model), ("--data", "austen-train") },
            "adapt" => [("MODEL", Model), ("--data", "austen-train")],
            "speed" or "eval" or "complexity" or "merge-adapter" => [("MODEL", Model)],
            "reproduce" => [("system", "wanda")],
            _ => [],
        })
        {
            values[name] = [given];
        }

        values[field] = [value];
        JsonElement said = await (await house.Api.PostAsJsonAsync("/api/v1/commands/check", new { command, values })).Content.ReadFromJsonAsync<JsonElement>();
        said.GetProperty("ok").GetBoolean().ShouldBeFalse();
        said.GetProperty("error").GetString()!.ShouldContain(sentence, Case.Sensitive);
        HttpResponseMessage started = await house.Api.PostAsJsonAsync("/api/v1/commands", new { command, values });
        started.StatusCode.ShouldBe(HttpStatusCode.BadRequest);
    }

    [Fact]
    public async Task A_training_is_made_in_its_form_watched_and_made_again()
    {
        IPage page = await house.OpenAsync("/new");
        await page.GetByRole(AriaRole.Navigation, new PageGetByRoleOptions { NameString = "What to do" }).GetByRole(AriaRole.Link, new LocatorGetByRoleOptions { NameString = "Train" }).ClickAsync();
        await page.GetByRole(AriaRole.Heading, new PageGetByRoleOptions { NameString = "Train", Exact = true }).WaitForAsync();
        await page.GetByLabel("Name", new PageGetByLabelOptions { Exact = true }).FillAsync("a short training");
        await page.GetByLabel("Start from", new PageGetByLabelOptions { Exact = true }).SelectOptionAsync(Model + ":random");
        await page.GetByLabel("Steps", new PageGetByLabelOptions { Exact = true }).FillAsync("0");
        await page.Locator(".verdict.bad").WaitForAsync();
        await page.Locator("[data-field='--steps']").FillAsync("3");
        await page.Locator("[data-field='--batch']").FillAsync("2");
        await page.GetByText("More options").ClickAsync();
        await page.Locator("[data-field='--length']").FillAsync("32");
        await page.Locator("[data-field='--optimizer']").SelectOptionAsync("galore");
        await page.GetByText("Options of galore").ClickAsync();
        await page.GetByLabel("rank", new PageGetByLabelOptions { Exact = true }).FillAsync("4");
        await page.Locator("[data-verdict]:not([aria-busy])", new PageLocatorOptions { HasTextString = "This can be started." }).WaitForAsync();
        string line = (await page.Locator("[data-line]").TextContentAsync())!;
        line.ShouldContain("espalier train");
        line.ShouldContain("--tokenizer");
        line.ShouldContain("--optimizer-set rank=4");
        line.ShouldContain("--steps 3");
        await page.ScreenshotAsync(new PageScreenshotOptions { Path = Path.Combine(StudioHouse.Pictures, "new-train-filled.png"), FullPage = true });
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Start", Exact = true }).ClickAsync();
        await page.WaitForURLAsync("**/runs/*");
        await page.GetByText("finished", new PageGetByTextOptions { Exact = true }).WaitForAsync(new LocatorWaitForOptions { Timeout = 240_000 });
        await page.GetByText("final loss").WaitForAsync();
        await page.GetByRole(AriaRole.Link, new PageGetByRoleOptions { NameString = "training-log/training.jsonl" }).WaitForAsync();
        string log = (await page.GetByRole(AriaRole.Link, new PageGetByRoleOptions { NameString = "training-log/training.jsonl" }).GetAttributeAsync("href"))!;
        (await house.Api.GetStringAsync(log)).ShouldContain("loss");
        await page.ScreenshotAsync(new PageScreenshotOptions { Path = Path.Combine(StudioHouse.Pictures, "run-train.png"), FullPage = true });

        await page.GetByRole(AriaRole.Link, new PageGetByRoleOptions { NameString = "Clone" }).ClickAsync();
        await page.Locator("[data-verdict]:not([aria-busy])", new PageLocatorOptions { HasTextString = "This can be started." }).WaitForAsync();
        (await page.Locator("[data-field='--steps']").InputValueAsync()).ShouldBe("3");
        (await page.GetByLabel("Start from", new PageGetByLabelOptions { Exact = true }).InputValueAsync()).ShouldBe(Model + ":random");
        (await page.Locator("[data-option='--optimizer-set:rank']").InputValueAsync()).ShouldBe("4");
        (await page.GetByLabel("Name", new PageGetByLabelOptions { Exact = true }).InputValueAsync()).ShouldBe("a short training, again");
        (await page.Locator("[data-line]").TextContentAsync()).ShouldBe(line);
        await page.Context.CloseAsync();
    }

    [Fact]
    public async Task A_training_is_stopped_and_gone_on_with_from_its_saved_state()
    {
        string id = await StartAsync("train", "long training", ("--config", Model), ("--data", "austen-train"), ("--steps", "100000"), ("--batch", "1"), ("--length", "16"));
        IPage page = await house.OpenAsync($"/runs/{id}");
        await page.Locator("[data-charts] h3", new PageLocatorOptions { HasTextString = "loss" }).WaitForAsync(new LocatorWaitForOptions { Timeout = 240_000 });
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Stop" }).ClickAsync();
        await page.GetByText("interrupted", new PageGetByTextOptions { Exact = true }).WaitForAsync(new LocatorWaitForOptions { Timeout = 120_000 });
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Go on" }).ClickAsync();
        await page.WaitForURLAsync(url => url.Contains("/runs/", StringComparison.Ordinal) && !url.EndsWith(id, StringComparison.Ordinal));
        string second = page.Url[^32..];
        await using RunStore store = await house.StoreAsync();
        (await store.GetAsync(second))!.Run.Words.ShouldContain("--resume");
        await page.GetByText("running", new PageGetByTextOptions { Exact = true }).WaitForAsync(new LocatorWaitForOptions { Timeout = 120_000 });
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Stop" }).ClickAsync();
        await page.GetByText("interrupted", new PageGetByTextOptions { Exact = true }).WaitForAsync(new LocatorWaitForOptions { Timeout = 120_000 });
        await page.Context.CloseAsync();
    }

    [Fact]
    public async Task An_adapter_is_trained_then_chosen_with_the_keyboard_alone_to_be_evaluated()
    {
        string id = await StartAsync("adapt", "tiny adapter", ("MODEL", Model), ("--data", "austen-train"), ("--steps", "2"), ("--batch", "1"), ("--length", "16"), ("--rank", "1"));
        await EndAsync(id);
        JsonElement adapters = await house.Api.GetFromJsonAsync<JsonElement>("/api/v1/commands/eval/choices/adapter");
        adapters.EnumerateArray().Select(a => a.GetProperty("name").GetString()).ShouldContain(n => n!.StartsWith("tiny adapter", StringComparison.Ordinal));

        IPage page = await house.OpenAsync("/new/eval?model=" + Model);
        await page.Locator("[data-field='--data']").First.FocusAsync();
        await page.Keyboard.TypeAsync("Jane Austen, held");
        await page.Locator("[data-field='--windows']").FocusAsync();
        await page.Keyboard.PressAsync("Control+A");
        await page.Keyboard.TypeAsync("1");
        ILocator box = page.GetByRole(AriaRole.Checkbox, new PageGetByRoleOptions { NameString = "tiny adapter" });
        await box.FocusAsync();
        await page.Keyboard.PressAsync("Space");
        (await box.IsCheckedAsync()).ShouldBeTrue();
        await page.Locator("[data-verdict]:not([aria-busy])", new PageLocatorOptions { HasTextString = "This can be started." }).WaitForAsync();
        (await page.Locator("[data-line]").TextContentAsync())!.ShouldContain("--adapter");
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { NameString = "Start", Exact = true }).FocusAsync();
        await page.Keyboard.PressAsync("Enter");
        await page.WaitForURLAsync("**/runs/*");
        await EndAsync(page.Url[^32..]);
        await page.ReloadAsync();
        await page.GetByText("perplexity", new PageGetByTextOptions { Exact = true }).First.WaitForAsync();
        await page.GetByRole(AriaRole.Link, new PageGetByRoleOptions { NameString = "result.json" }).WaitForAsync();
        await page.Context.CloseAsync();
    }

    [Fact]
    public async Task Plans_of_earlier_runs_are_compared()
    {
        await using RunStore store = await house.StoreAsync();
        string[] ids = [await PlanAsync(store, "wanda"), await PlanAsync(store, "magnitude")];
        JsonElement said = await (await house.Api.PostAsJsonAsync("/api/v1/commands/check", new { command = "compare", values = new Dictionary<string, string[]> { ["plans"] = ids, ["--seeds"] = ["0"] } })).Content.ReadFromJsonAsync<JsonElement>();
        said.TryGetProperty("error", out JsonElement error).ShouldBeFalse(error.ValueKind is JsonValueKind.String ? error.GetString() : "");
        said.GetProperty("line").GetString()!.Split(".yaml").Length.ShouldBe(3);
        said = await (await house.Api.PostAsJsonAsync("/api/v1/commands/check", new { command = "compare", values = new Dictionary<string, string[]> { ["plans"] = [ids[0]] } })).Content.ReadFromJsonAsync<JsonElement>();
        said.GetProperty("error").GetString()!.ShouldContain("at least two plans");
        await store.DeleteAsync(ids);
    }

    [Fact]
    public async Task A_reproduction_shows_its_plots_on_the_run_and_on_the_systems_page()
    {
        string id = await StartAsync("reproduce", "", ("system", "ifm"), ("--size", "smoke"), ("--seeds", "0"));
        await EndAsync(id);
        IPage page = await house.OpenAsync($"/runs/{id}");
        (await page.Locator("figure.chart").CountAsync()).ShouldBeGreaterThan(0);
        await page.GetByText("not judged (smoke size)").First.WaitForAsync();
        await page.GotoAsync("/systems/ifm");
        await page.GetByRole(AriaRole.Heading, new PageGetByRoleOptions { NameString = "Reproduced here" }).WaitForAsync();
        (await page.Locator(".here figure.chart").CountAsync()).ShouldBeGreaterThan(0);
        await page.ScreenshotAsync(new PageScreenshotOptions { Path = Path.Combine(StudioHouse.Pictures, "system-reproduced.png"), FullPage = true });
        await page.Context.CloseAsync();
    }

    private static async Task<string> PlanAsync(RunStore store, string criterion)
    {
        var plan = new Espalier.Pruning.PruneRequest
        {
            Model = Espalier.Runtime.Assets.DefaultModel,
            Out = "out",
            Data = new Espalier.Pruning.DataSection { Calibration = Espalier.Runtime.Assets.TrainingText, Evaluation = Espalier.Runtime.Assets.HeldOutText },
            Prune = new Espalier.Pruning.PruneSection { Criterion = criterion, Sparsity = 0.5 },
        };
        Run run = await store.BeginAsync(new NewRun { Command = "prune", Title = "plan of " + criterion, Plan = plan.ToYaml() });
        await store.FinishAsync(run.Id, new RunEnd(RunState.Finished) { ExitCode = 0 });
        return run.Id;
    }

    private async Task<string> StartAsync(string command, string title, params (string Name, string Value)[] values)
    {
        HttpResponseMessage started = await house.Api.PostAsJsonAsync("/api/v1/commands", new { command, title, values = values.ToDictionary(v => v.Name, v => new[] { v.Value }) });
        started.StatusCode.ShouldBe(HttpStatusCode.Created, await started.Content.ReadAsStringAsync());
        return (await started.Content.ReadFromJsonAsync<JsonElement>()).GetProperty("id").GetString()!;
    }

    private async Task EndAsync(string id)
    {
        DateTime end = DateTime.UtcNow.AddMinutes(4);
        while (true)
        {
            JsonElement run = (await house.Api.GetFromJsonAsync<JsonElement>($"/api/v1/runs/{id}")).GetProperty("run");
            string state = run.GetProperty("state").GetString()!;
            if (state is not ("queued" or "running"))
            {
                state.ShouldBe("finished", run.GetProperty("error").GetString());
                return;
            }

            (DateTime.UtcNow < end).ShouldBeTrue("the run takes too long");
            await Task.Delay(300);
        }
    }
}
