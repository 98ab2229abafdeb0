using System.Text.RegularExpressions;
using Espalier.Tests.Pruning;

namespace Espalier.Tests.Cli;

public sealed partial class CompareCommandTests
{
    [Fact]
    public async Task The_table_has_the_best_first_and_failures_at_the_end_with_a_code()
    {
        using var files = new ComparisonFiles();
        string study = files.Study(
            "{ name: half, prune: { criterion: magnitude, sparsity: 0.5 } }", "{ name: odd, prune: { criterion: magnitude, pattern: '5:7' } }", "{ name: most, prune: { criterion: magnitude, sparsity: 0.8 } }");
        Tool tool = await Tool.RunAsync("compare", study, "--quiet");
        tool.Code.ShouldBe(1, tool.Error);
        tool.Error.ShouldContain("warning: odd, seed 0 failed: The pattern 5:7");
        Golden.Check("compare", Bars().Replace(Figure().Replace(Space().Replace(Line().Replace(tool.Output.Replace(files.Out, "OUT", StringComparison.Ordinal), "-"), " "), "#"), ""));
    }

    [Fact]
    public async Task Seeds_and_shared_words_come_from_the_command_line_and_the_result_is_json()
    {
        using var files = new ComparisonFiles();
        Tool tool = await Tool.RunAsync(
            "compare", files.Plan("a", "{ criterion: magnitude, sparsity: 0.5 }"), files.Plan("b", "{ criterion: magnitude, sparsity: 0.6 }"), "--windows", "2", "--seeds", "3", "--out", files.Out, "--json");
        tool.Code.ShouldBe(0, tool.Error);
        tool.Result.GetProperty("seeds")[0].GetInt64().ShouldBe(3);
        tool.Result.GetProperty("evaluation").GetString()!.ShouldContain("2 windows");
        Directory.GetDirectories(Path.Combine(files.Out, "runs")).Select(Path.GetFileName).ShouldBe(["a-seed3", "b-seed3"], ignoreOrder: true);
    }

    [Theory]
    [InlineData("'x' is no seed", "--seeds", "0,x")]
    [InlineData("each once", "--seeds", "1,1")]
    [InlineData("There is no folder or file ./nowhere", "--model", "./nowhere")]
    public async Task Bad_words_get_a_sentence_and_nothing_is_written(string sentence, params string[] words)
    {
        using var files = new ComparisonFiles();
        Tool tool = await Tool.RunAsync(["compare", files.Plan("a", "{ criterion: magnitude, sparsity: 0.5 }"), files.Plan("b", "{ criterion: magnitude, sparsity: 0.6 }"), "--out", files.Out, .. words], CancellationToken.None);
        tool.Code.ShouldBe(2);
        tool.Error.ShouldContain(sentence);
        Directory.Exists(files.Out).ShouldBeFalse();
    }

    // Figures differ between machines, and the table's width with them.
    [GeneratedRegex(@"\d+([.,]\d+)*")]
    private static partial Regex Figure();

    // An interval of nothing is not shown, and whether it is nothing is chance.
    [GeneratedRegex(" ± #×?")]
    private static partial Regex Bars();

    [GeneratedRegex("─+")]
    private static partial Regex Line();

    [GeneratedRegex(" +")]
    private static partial Regex Space();
}
