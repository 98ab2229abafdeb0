using System.Text.Json;
using Espalier.Cli;

namespace Espalier.Tests.Cli;

public sealed class KernelAdapterCommandTests
{
    private static readonly string Model = Path.Combine(TestPaths.Repository, "assets", "default-model");

    private static readonly string Text = Path.Combine(TestPaths.Repository, "assets", "austen", "heldout.jsonl");

    private static readonly string[] Short = ["--data", Text, "--batch", "2", "--length", "32", "--steps", "3", "--lr", "1e-2"];

    [Fact]
    public async Task A_kernel_adapter_is_measured_beside_the_model_and_not_folded()
    {
        using var folder = new TemporaryFolder();
        Tool adapted = await Tool.RunAsync(["adapt", Model, "--method", "snnk", "--targets", "o_proj,down_proj", "--set", "train=norms", "--eval-data", Text, "--eval-windows", "4", "--out", folder["s"], "--json", .. Short]);
        adapted.Code.ShouldBe(ExitCode.Success, adapted.Error);
        JsonElement measured = adapted.Result.GetProperty("measured")[0];
        double before = measured.GetProperty("before").GetDouble(), after = measured.GetProperty("after").GetDouble();
        string[] eval = ["eval", Model, "--data", Text, "--windows", "4", "--context", "32", "--json"];
        Tool beside = await Tool.RunAsync([.. eval, "--adapter", folder["s"]]);
        beside.Code.ShouldBe(ExitCode.Success, beside.Error);
        Math.Abs(before - after).ShouldBeGreaterThan(0.1);
        beside.Result.GetProperty("perplexity").GetDouble().ShouldBe(after, 1e-5 * after);
        (await Tool.RunAsync(eval)).Result.GetProperty("perplexity").GetDouble().ShouldBe(before, 1e-5 * before);

        string[] generate = ["generate", Model, "-p", "It is", "--max-tokens", "12", "--json"];
        string Continued(Tool tool) => tool.Result.GetProperty("text").GetString()!;
        string plain = Continued(await Tool.RunAsync(generate)), changed = Continued(await Tool.RunAsync([.. generate, "--adapter", folder["s"]]));
        changed.ShouldNotBe(plain);

        (await Tool.RunAsync(["adapt", Model, "--method", "dora", "--rank", "2", "--out", folder["d"], .. Short])).Code.ShouldBe(ExitCode.Success);
        await Refused("used alone and whole", [.. eval, "--adapter", folder["s"] + "=0.5"]);
        await Refused("used alone and whole", [.. eval, "--adapter", folder["d"], "--adapter", folder["s"]]);
        await Refused("cannot be folded into weights", "merge-adapter", Model, "--adapter", folder["d"], "--adapter", folder["s"], "--out", folder["m"]);
        await Refused("in fewer bits", "merge-adapter", Model, "--adapter", folder["s"], "--compact", "--out", folder["c"]);
        (await Tool.RunAsync("merge-adapter", Model, "--adapter", folder["d"], "--out", folder["m"])).Code.ShouldBe(ExitCode.Success);
    }

    [Fact]
    public async Task Tasks_are_scored_with_a_kernel_adapter_beside_the_model()
    {
        using var folder = new TemporaryFolder();
        Tool adapted = await Tool.RunAsync(["adapt", Model, "--method", "snnk", "--targets", "o_proj,down_proj", "--set", "train=norms", "--out", folder["s"], .. Short]);
        adapted.Code.ShouldBe(ExitCode.Success, adapted.Error);
        string[] sentences = [.. File.ReadAllText(Text).Split(". ").Where(t => t.Length is > 40 and < 120).Take(61)];
        File.WriteAllLines(folder["piqa.jsonl"], Enumerable.Range(0, 60).Select(i => JsonSerializer.Serialize(new { goal = sentences[i][..20], sol1 = sentences[i][20..], sol2 = sentences[i + 1][20..], label = 0 })));
        string[] eval = ["eval", Model, "--tasks", "piqa", "--task-data", $"piqa={folder["piqa.jsonl"]}", "--json"];
        double plain = Accuracy(await Tool.RunAsync(eval)), beside = Accuracy(await Tool.RunAsync([.. eval, "--adapter", folder["s"]]));
        beside.ShouldNotBe(plain);

        static double Accuracy(Tool tool)
        {
            tool.Code.ShouldBe(ExitCode.Success, tool.Error);
            return tool.Result.GetProperty("results").GetProperty("piqa").GetProperty("acc,none").GetDouble();
        }
    }

    [Fact]
    public async Task A_vision_net_is_measured_with_a_kernel_adapter_beside_it()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["config.json"], """{"model_type": "mlp", "hidden": [12, 12], "num_channels": 1, "image_size": 8, "num_classes": 2}""");
        VisionCommandTests.WriteImages(folder, 48);
        string images = $"{folder.Path}:train", net = folder["net"];
        (await Tool.RunAsync("train", "--config", folder["config.json"], "--data", images, "--batch", "8", "--steps", "2", "--lr", "1e-4", "--out", net)).Code.ShouldBe(ExitCode.Success);
        Tool adapted = await Tool.RunAsync("adapt", net, "--method", "snnk", "--set", "train=head", "--data", images, "--eval-data", images, "--batch", "8", "--steps", "30", "--lr", "0.02", "--out", folder["s"], "--json");
        adapted.Code.ShouldBe(ExitCode.Success, adapted.Error);
        JsonElement measured = adapted.Result.GetProperty("measured")[0];
        measured.GetProperty("after").GetDouble().ShouldBeGreaterThan(measured.GetProperty("before").GetDouble());
        Tool beside = await Tool.RunAsync("eval", net, "--data", images, "--adapter", folder["s"], "--json");
        beside.Code.ShouldBe(ExitCode.Success, beside.Error);
        beside.Result.GetProperty("accuracy").GetDouble().ShouldBe(measured.GetProperty("after").GetDouble());
        await Refused("used alone and whole", "eval", net, "--data", images, "--adapter", folder["s"] + "=2");
        await Refused("cannot be folded into weights", "merge-adapter", net, "--adapter", folder["s"], "--out", folder["m"]);
    }

    private static async Task Refused(string says, params string[] words)
    {
        Tool tool = await Tool.RunAsync(words);
        tool.Code.ShouldBe(ExitCode.UserError);
        tool.Error.ShouldContain(says);
    }
}
