using System.Text.RegularExpressions;
using Espalier.Tests.Models;
using Espalier.Tests.Pruning;

namespace Espalier.Tests.Cli;

public sealed partial class SearchCommandTests
{
    private static readonly string[] small = ["--parameters", "100K", "--tolerance", "0.5", "--layers", "2,1", "--kv-heads", "2", "--neurons", "40,24", "--hidden", "24,16", "--candidates", "2", "--light-steps", "1", "--steps", "2", "--batch", "1", "--train-length", "16"];

    [Fact]
    public async Task A_dry_run_lists_the_candidates_and_writes_nothing()
    {
        using var files = new ComparisonFiles();
        Tool tool = await Tool.RunAsync(["search", .. Words(files), "--dry-run", "--quiet"], CancellationToken.None);
        tool.Code.ShouldBe(0, tool.Error);
        Golden.Check("search-dry-run", Estimate().Replace(tool.Output, "Estimated: #."));
        Directory.Exists(files.Out).ShouldBeFalse();
    }

    [Fact]
    public async Task The_table_has_both_rankings_and_the_chosen_model_is_written()
    {
        using var files = new ComparisonFiles();
        Tool tool = await Tool.RunAsync(["search", .. Words(files), "--quiet"], CancellationToken.None);
        tool.Code.ShouldBe(0, tool.Error);
        // Figures differ between machines, and with them the ranking and the table's width.
        Golden.Check("search", Ranking().Replace(Figure().Replace(Space().Replace(Line().Replace(tool.Output.Replace(files.Out, "OUT", StringComparison.Ordinal), "-"), " "), "#"), "RANKING\n"));
        File.Exists(Path.Combine(files.Out, "model.safetensors")).ShouldBeTrue();
        File.Exists(Path.Combine(files.Out, "report.html")).ShouldBeTrue();

        tool = await Tool.RunAsync(["search", .. Words(files), "--json"], CancellationToken.None);
        tool.Result.GetProperty("candidates").GetArrayLength().ShouldBe(2);
        tool.Result.GetProperty("chosen").GetProperty("perplexity").GetDouble().ShouldBeGreaterThan(1);
    }

    [Fact]
    public async Task A_search_may_stand_in_a_file()
    {
        using var files = new ComparisonFiles();
        File.WriteAllText(files["search.yaml"], $$"""
            model: {{files["model"]}}
            data: { calibration: {{files["text.jsonl"]}}, evaluation: {{files["text.jsonl"]}}, samples: 4, length: 16, windows: 4, context: 16 }
            search: { parameters: 100K, tolerance: 0.5, layers: [1], heads: [4], neurons: [40, 24], hidden: [24] }
            retrain: minitron
            out: {{files.Out}}
            """);
        Tool tool = await Tool.RunAsync("search", files["search.yaml"], "--steps", "150", "--dry-run", "--json");
        tool.Code.ShouldBe(0, tool.Error);
        tool.Result.GetProperty("candidates").EnumerateArray().Select(c => c.GetProperty("name").GetString()).ShouldBe(["L1 H4 F40 E24", "L1 H4 F24 E24"]);
        tool.Result.GetProperty("seconds").GetDouble().ShouldBeGreaterThan(0);

        File.AppendAllText(files["search.yaml"], "\nprune: { criterion: minitron, sparsity: 0.5 }\n");
        tool = await Tool.RunAsync("search", files["search.yaml"], "--dry-run");
        tool.Code.ShouldBe(2);
        tool.Error.ShouldContain("line 6: 'prune.sparsity' is no word of a plan");
    }

    [Theory]
    [InlineData("a search makes it smaller, so 3,000,000 cannot be reached", "--parameters", "3M")]
    [InlineData("'lots' is no number of parameters", "--parameters", "lots")]
    [InlineData("The number of parameters is missing")]
    [InlineData("No architecture of the search has 1,000 parameters within 5 %; the nearest are: ", "--parameters", "1K")]
    [InlineData("The model has 2 layers, so 3 cannot stay", "--parameters", "90K", "--layers", "1,3")]
    [InlineData("The model has 40 neurons, so 48 cannot stay", "--parameters", "90K", "--neurons", "48")]
    [InlineData("The model has 24 channels, so 32 cannot stay", "--parameters", "90K", "--hidden", "32")]
    [InlineData("The model has 2 key-value heads, so 4 cannot stay", "--parameters", "90K", "--kv-heads", "4")]
    [InlineData("3 heads do not divide into key-value groups of 2", "--parameters", "90K", "--heads", "3")]
    [InlineData("leave one of them out", "--parameters", "90K", "--heads", "2", "--kv-heads", "1")]
    [InlineData("each 1 or more", "--parameters", "90K", "--hidden", "0")]
    [InlineData("A tolerance of 1 is not possible", "--parameters", "90K", "--tolerance", "1")]
    [InlineData("'light_steps' of a search is 0", "--parameters", "90K", "--light-steps", "0")]
    [InlineData("retrained for 50 steps, fewer than the 100 of light retraining", "--parameters", "90K", "--steps", "50")]
    [InlineData("wanda cannot rank channels", "--parameters", "75K", "--criterion", "wanda", "--hidden", "16", "--tolerance", "0.4")]
    [InlineData("sparsegpt ranks single weights", "--parameters", "90K", "--criterion", "sparsegpt")]
    [InlineData("no evaluation text was named", "--parameters", "90K", "no text")]
    [InlineData("distillation compares their predictions", "--parameters", "90K", "--tolerance", "0.5", "--teacher", "other")]
    [InlineData("more than the model's context of 32", "--parameters", "90K", "--tolerance", "0.5", "--train-length", "64")]
    public async Task A_search_that_cannot_work_gets_a_sentence_and_writes_nothing(string sentence, params string[] words)
    {
        using var files = new ComparisonFiles();
        words = [.. words.Select(w => w == "other" ? files["other"] : w)];
        Directory.CreateDirectory(files["other"]);
        TinyModels.Write(files["other"], TinyModels.Config("llama"));
        string[] texts = words.Contains("no text") ? Texts(files)[..^2] : Texts(files);
        Tool tool = await Tool.RunAsync(["search", .. texts, .. words.Where(w => w != "no text")], CancellationToken.None);
        tool.Code.ShouldBe(2, tool.Output);
        tool.Error.ShouldContain(sentence);
        Directory.Exists(files.Out).ShouldBeFalse();
    }

    private static string[] Words(ComparisonFiles files) => [.. Texts(files), .. small];

    private static string[] Texts(ComparisonFiles files) =>
        [files["model"], "--out", files.Out, "--calibration", files["text.jsonl"], "--samples", "4", "--length", "16", "--windows", "4", "--context", "16", "--evaluation", files["text.jsonl"]];

    [GeneratedRegex(@"Estimated: [^.]*\.")]
    private static partial Regex Estimate();

    [GeneratedRegex(@"\d+([.,]\d+)*")]
    private static partial Regex Figure();

    [GeneratedRegex("^# of # candidates.*?(?=Chosen)", RegexOptions.Singleline | RegexOptions.Multiline)]
    private static partial Regex Ranking();

    [GeneratedRegex("─+")]
    private static partial Regex Line();

    [GeneratedRegex(" +")]
    private static partial Regex Space();
}
