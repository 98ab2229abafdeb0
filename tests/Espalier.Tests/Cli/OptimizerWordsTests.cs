using Espalier.Cli;

namespace Espalier.Tests.Cli;

public sealed class OptimizerWordsTests
{
    private const string Config = """{"model_type": "mlp", "hidden": [12, 12], "num_channels": 1, "image_size": 8, "num_classes": 2}""";

    [Fact]
    public async Task A_published_optimiser_trains_by_name_or_file()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["config.json"], Config);
        File.WriteAllText(folder["lorp.yaml"], "method: gradnormlorp\nrank: 4\nmode: official\n");
        VisionCommandTests.WriteImages(folder, 48);
        string[] common = ["train", "--config", folder["config.json"], "--data", $"{folder.Path}:train", "--batch", "8", "--steps", "12", "--lr", "0.01", "--state-bits", "8", "--state-bits-from", "16"];
        string[] galore = [.. common, "--optimizer", "galore", "--optimizer-set", "rank=4", "--optimizer-set", "scale=1"];
        (await Tool.RunAsync([.. galore, "--out", folder["whole"]])).Code.ShouldBe(ExitCode.Success);
        (await Tool.RunAsync([.. common, "--optimizer", folder["lorp.yaml"], "--out", folder["lorp"]])).Code.ShouldBe(ExitCode.Success);
        File.ReadAllBytes(Path.Combine(folder["whole"], "model.safetensors")).ShouldNotBe(File.ReadAllBytes(Path.Combine(folder["lorp"], "model.safetensors")));
    }

    [Fact]
    public async Task Wrong_optimisers_are_refused()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["config.json"], Config);
        string[] common = ["train", "--config", folder["config.json"], "--data", $"{folder.Path}:train", "--out", folder["net"]];
        (await Tool.RunAsync([.. common, "--optimizer", "galor"])).Error.ShouldContain("galore");
        (await Tool.RunAsync([.. common, "--optimizer", "adamw", "--optimizer-set", "rank=4"])).Error.ShouldContain("--optimizer-set gives options of a system");
        (await Tool.RunAsync([.. common, "--optimizer", "galore", "--optimizer-set", "ranks=4"])).Error.ShouldContain("rank");
        (await Tool.RunAsync([.. common, "--optimizer", "galore", "--optimizer-set", "layers=attn"])).Error.ShouldContain("would project nothing");
        (await Tool.RunAsync([.. common, "--optimizer", "mfac", "--state-bits", "8"])).Error.ShouldContain("no state in 8 bits");
    }

    [Fact]
    public async Task Methods_lists_optimisers()
    {
        Tool listed = await Tool.RunAsync("methods", "optimizer", "--json");
        listed.Result.EnumerateArray().Select(e => e.GetProperty("slug").GetString()).Intersect(["galore", "gradnormlorp"]).Count().ShouldBe(2);
    }
}
