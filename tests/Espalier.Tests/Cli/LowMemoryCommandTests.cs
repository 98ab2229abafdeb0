using System.Text.Json;
using Espalier.Cli;

namespace Espalier.Tests.Cli;

public sealed class LowMemoryCommandTests
{
    private static readonly string Model = Path.Combine(TestPaths.Repository, "assets", "default-model");

    private static readonly string Text = Path.Combine(TestPaths.Repository, "assets", "austen", "heldout.jsonl");

    private static readonly string[] Short = ["--data", Text, "--batch", "2", "--length", "32", "--steps", "3", "--lr", "1e-3"];

    [Fact]
    public async Task A_model_is_quantised_tuned_written_compact_and_measured_at_its_real_size()
    {
        using var folder = new TemporaryFolder();
        Tool adapted = await Tool.RunAsync(["adapt", Model, "--method", "lqlora", "--rank", "4", "--set", "bits=3", "--set", "block=32", "--set", "super_block=64", "--set", "iterations=1", "--optimizer", "gradnormlorp",
            "--optimizer-set", "rank=2", "--eval-data", Text, "--eval-windows", "4", "--out", folder["a"], "--json", .. Short]);
        adapted.Code.ShouldBe(ExitCode.Success, adapted.Error);
        double after = adapted.Result.GetProperty("measured")[0].GetProperty("after").GetDouble();

        Tool written = await Tool.RunAsync("merge-adapter", Model, "--adapter", folder["a"], "--compact", "--out", folder["m"], "--json");
        written.Code.ShouldBe(ExitCode.Success, written.Error);
        written.Result.GetProperty("bitsPerWeight").GetDouble().ShouldBe(3 + (8.0 / 32) + (16.0 / (32 * 64)), 1e-9);
        new FileInfo(folder["m/model.safetensors"]).Length.ShouldBeLessThan(new FileInfo(Path.Combine(Model, "model.safetensors")).Length);

        Tool measured = await Tool.RunAsync("eval", folder["m"], "--data", Text, "--windows", "4", "--context", "32", "--json");
        measured.Code.ShouldBe(ExitCode.Success, measured.Error);
        measured.Result.GetProperty("perplexity").GetDouble().ShouldBe(after, 0.02 * after);
        (await Tool.RunAsync("generate", folder["m"], "-p", "The", "--max-tokens", "4")).Code.ShouldBe(ExitCode.Success);
    }

    [Fact]
    public async Task A_packed_model_is_measured()
    {
        using var folder = new TemporaryFolder();
        (await Tool.RunAsync("pack", Model, "--type", "bf16", "--out", folder["p"])).Code.ShouldBe(ExitCode.Success);
        JsonElement[] both = [.. new[] { Model, folder["p"] }.Select(m => Tool.RunAsync("eval", m, "--data", Text, "--windows", "4", "--context", "32", "--json").GetAwaiter().GetResult().Result)];
        both[1].GetProperty("perplexity").GetDouble().ShouldBe(both[0].GetProperty("perplexity").GetDouble(), 1e-3);
    }
}
