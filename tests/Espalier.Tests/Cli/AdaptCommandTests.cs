using System.Text.Json;
using Espalier.Cli;

namespace Espalier.Tests.Cli;

public sealed class AdaptCommandTests
{
    private static readonly string Model = Path.Combine(TestPaths.Repository, "assets", "default-model");

    private static readonly string Text = Path.Combine(TestPaths.Repository, "assets", "austen", "heldout.jsonl");

    private static readonly string[] Short = ["--data", Text, "--batch", "2", "--length", "32", "--steps", "4", "--lr", "5e-3", "--seed", "3"];

    [Fact]
    public async Task A_model_is_adapted_merged_and_measured()
    {
        using var folder = new TemporaryFolder();
        Tool adapted = await Tool.RunAsync(["adapt", Model, "--rank", "4", "--eval-data", Text, "--eval-windows", "4", "--out", folder["a"], "--json", .. Short]);
        adapted.Code.ShouldBe(ExitCode.Success, adapted.Error);
        JsonElement report = adapted.Result;
        report.GetProperty("method").GetString().ShouldBe("lora");
        report.GetProperty("reopenedDifference").GetDouble().ShouldBeLessThan(1e-3);
        report.GetProperty("optimizerBytes").GetInt64().ShouldBeGreaterThanOrEqualTo(8 * report.GetProperty("trainedParameters").GetInt64());
        JsonElement measured = report.GetProperty("measured")[0];
        measured.GetProperty("after").GetDouble().ShouldBeLessThan(measured.GetProperty("before").GetDouble());
        File.Exists(folder["a/adapt.json"]).ShouldBeTrue();

        Tool merged = await Tool.RunAsync("merge-adapter", Model, "--adapter", folder["a"], "--out", folder["m"], "--json");
        merged.Code.ShouldBe(ExitCode.Success, merged.Error);
        merged.Result.GetProperty("adapters")[0].GetProperty("largestDifference").GetDouble().ShouldBeLessThan(1e-3);
        merged.Result.GetProperty("readers").GetArrayLength().ShouldBeGreaterThan(2);

        double Perplexity(Tool tool) => tool.Result.GetProperty("perplexity").GetDouble();
        string[] eval = ["--data", Text, "--windows", "4", "--context", "32", "--json"];
        double beside = Perplexity(await Tool.RunAsync(["eval", Model, "--adapter", folder["a"], .. eval]));
        beside.ShouldBe(measured.GetProperty("after").GetDouble(), 1e-3);
        Perplexity(await Tool.RunAsync(["eval", folder["m"], .. eval])).ShouldBe(beside, 0.05);
        Perplexity(await Tool.RunAsync(["eval", Model, "--adapter", folder["a"] + "=0", .. eval])).ShouldBe(measured.GetProperty("before").GetDouble(), 1e-3);
        (await Tool.RunAsync("generate", Model, "-p", "The", "--max-tokens", "4", "--adapter", folder["a"] + "=0.5")).Code.ShouldBe(ExitCode.Success);
    }

    [Fact]
    public async Task A_stopped_adaptation_goes_on_to_the_same_bytes()
    {
        using var folder = new TemporaryFolder();
        (await Tool.RunAsync(["adapt", Model, "--rank", "2", "--targets", "q_proj,v_proj", "--out", folder["whole"], .. Short])).Code.ShouldBe(ExitCode.Success);
        using var stop = new CancellationTokenSource();
        await stop.CancelAsync();
        string[] words = ["adapt", Model, "--rank", "2", "--targets", "q_proj,v_proj", "--out", folder["parts"], .. Short];
        (await Tool.RunAsync(words, stop.Token)).Code.ShouldNotBe(ExitCode.Success);
        if (Directory.Exists(folder["parts/training-state"]))
        {
            (await Tool.RunAsync(words)).Error.ShouldContain("--resume");
            words = [.. words, "--resume"];
        }

        (await Tool.RunAsync(words)).Code.ShouldBe(ExitCode.Success);
        File.ReadAllBytes(folder["parts/adapter_model.safetensors"]).ShouldBe(File.ReadAllBytes(folder["whole/adapter_model.safetensors"]));
    }

    [Fact]
    public async Task A_pruned_model_stays_pruned()
    {
        using var folder = new TemporaryFolder();
        (await Tool.RunAsync("prune", Model, "--sparsity", "0.5", "--criterion", "magnitude", "--out", folder["p"])).Code.ShouldBe(ExitCode.Success);
        (await Tool.RunAsync(["adapt", folder["p"], "--rank", "2", "--out", folder["a"], .. Short])).Code.ShouldBe(ExitCode.Success);
        Tool merged = await Tool.RunAsync("merge-adapter", folder["p"], "--adapter", folder["a"], "--out", folder["m"], "--json");
        merged.Code.ShouldBe(ExitCode.Success, merged.Error);
        merged.Result.GetProperty("zerosKept").GetBoolean().ShouldBeTrue();
        Espalier.Sparsity.SparsityMasks.Load(folder["m"]).Count.ShouldBe(Espalier.Sparsity.SparsityMasks.Load(folder["p"]).Count);

        (await Tool.RunAsync(["adapt", Model, "--rank", "2", "--out", folder["dense"], .. Short])).Code.ShouldBe(ExitCode.Success);
        Tool refused = await Tool.RunAsync("merge-adapter", folder["p"], "--adapter", folder["dense"], "--out", folder["no"]);
        refused.Code.ShouldBe(ExitCode.UserError);
        refused.Error.ShouldContain("pruned weights");
        Directory.Exists(folder["no"]).ShouldBeFalse();
        (await Tool.RunAsync("merge-adapter", folder["p"], "--adapter", folder["dense"], "--fill-zeros", "--out", folder["full"])).Code.ShouldBe(ExitCode.Success);
        File.Exists(folder["full/sparsity.safetensors"]).ShouldBeFalse();
    }

    [Theory]
    [InlineData("is no adaptation", "adapt", "MODEL", "--method", "wanda", "--data", "TEXT", "--out", "OUT")]
    [InlineData("named by 'nowhere'", "adapt", "MODEL", "--targets", "nowhere", "--data", "TEXT", "--out", "OUT")]
    [InlineData("A rank of 9999", "adapt", "MODEL", "--rank", "9999", "--data", "TEXT", "--out", "OUT")]
    [InlineData("holds a model", "adapt", "MODEL", "--data", "TEXT", "--out", "MODEL")]
    [InlineData("no unfinished training", "adapt", "MODEL", "--data", "TEXT", "--out", "OUT", "--resume")]
    [InlineData("holds no adapter", "merge-adapter", "MODEL", "--adapter", "MODEL", "--out", "OUT")]
    [InlineData("no weight that is a number", "eval", "MODEL", "--data", "TEXT", "--adapter", "OUT=much")]
    [InlineData("holds no adapter", "generate", "MODEL", "-p", "x", "--adapter", "OUT")]
    public async Task Bad_words_are_answered_with_a_sentence(string says, params string[] words)
    {
        using var folder = new TemporaryFolder();
        Tool tool = await Tool.RunAsync([.. words.Select(w => w.Replace("MODEL", Model).Replace("TEXT", Text).Replace("OUT", folder["out"]))]);
        tool.Code.ShouldBe(ExitCode.UserError);
        tool.Error.ShouldContain(says);
    }
}
