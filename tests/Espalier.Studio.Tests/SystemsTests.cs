using Espalier.Studio.Runs;
using Espalier.Studio.Systems;
using Markdig;
using Markdig.Extensions.Tables;

namespace Espalier.Studio.Tests;

/// <summary>The catalogue as the studio has it: found by what it does, its tables drawn.</summary>
public sealed class SystemsTests
{
    private static readonly SystemLibrary Library = new();

    [Theory]
    [InlineData("prune without retraining", "flap", "sparsegpt", "wanda", "dsnot")]
    [InlineData("swap pruned weights without gradients", "dsnot")]
    [InlineData("train with less memory", "galore")]
    [InlineData("forget a concept", "ssd", "dmm")]
    [InlineData("several models into one", "sms", "opcm")]
    [InlineData("learn new classes without forgetting", "mambafscil")]
    [InlineData("quantise weights to few bits", "lqlora", "ofq")]
    [InlineData("MRI reconstruction", "recurrentvarnet")]
    [InlineData("second order optimizer", "mfac", "mkor")]
    [InlineData("image generation in one step", "nitrofusion", "yonos")]
    [InlineData("elastic inference, nested sizes", "matformer", "bignas")]
    [InlineData("rerank answers", "selftrainrerank")]
    [InlineData("long sequences with state spaces", "s4", "chimera")]
    [InlineData("smaller adapters", "lora", "svfit", "snnk", "dora")]
    [InlineData("N:M sparsity", "pgfnm")]
    [InlineData("distillation from a teacher", "minitron", "selfdistill")]
    [InlineData("radiance fields", "neurbf", "s3im")]
    public void A_question_in_words_of_ones_own_finds_the_system(string question, params string[] expected) =>
        Library.Find(question).Take(3).Select(c => c.Slug).Intersect(expected).ShouldNotBeEmpty(string.Join(", ", Library.Find(question).Take(6).Select(c => c.Slug)));

    [Theory]
    [InlineData("wanda", "sparsegpt", "dsnot", "gblm")]
    [InlineData("lora", "dora", "lqlora", "svfit")]
    [InlineData("mfac", "mkor", "oracle", "sparsegpt")]
    [InlineData("ssd", "dmm")]
    [InlineData("matformer", "bignas", "moellava", "minitron")]
    [InlineData("nitrofusion", "yonos", "ilf", "rfpp")]
    [InlineData("granet", "issp", "pgfnm", "ap")]
    public void Systems_like_one_are_its_kin(string slug, params string[] expected) =>
        Library.Like(slug).Select(c => c.Slug).Intersect(expected).ShouldNotBeEmpty(string.Join(", ", Library.Like(slug).Select(c => c.Slug)));

    [Fact]
    public void Every_page_is_rendered_and_those_with_measured_arms_have_plots()
    {
        int drawn = 0;
        foreach (SystemCard card in Library.Cards)
        {
            string? page = Library.Page(card.Slug);
            if (page is not null)
            {
                page.ShouldNotContain("<script");
                page.ShouldNotContain("NaN");
                page.Split("<table").Length.ShouldBe(page.Split("<div class=\"table\"><table").Length, $"{card.Slug}: wide tables scroll by themselves");
                drawn += page.Contains("<figure class=\"chart\">", StringComparison.Ordinal) ? 1 : 0;
            }
        }

        drawn.ShouldBeGreaterThan(20);
    }

    [Theory]
    [InlineData("98.42 ± 0.199", 98.42, 0.199)]
    [InlineData("1,234.5", 1234.5, null)]
    [InlineData("61 %", 61.0, null)]
    [InlineData("1.2 M", 1.2e6, null)]
    [InlineData("2.53e-07 ± 1.2e-08", 2.53e-07, 1.2e-08)]
    public void A_figure_is_read_as_tables_write_it(string cell, double mean, double? deviation)
    {
        var read = MeasuredFigures.Number(cell).ShouldNotBeNull();
        (read.Mean, read.Deviation, read.Shown).ShouldBe((mean, deviation, cell));
    }

    [Theory]
    [InlineData("wanda")]
    [InlineData("")]
    [InlineData("0.0355 to 0.0409")]
    [InlineData("-3")]
    public void What_is_no_figure_is_not_drawn(string cell) => MeasuredFigures.Number(cell).ShouldBeNull();

    [Fact]
    public void Arms_are_drawn_at_each_setting_and_other_tables_are_left_as_they_are()
    {
        MeasuredFigures.Of(TableOf("| at | arm | error |\n|---|---|---:|\n| 50 % | wanda | 1 |\n| 50 % | dense | 2 |\n| 60 % | wanda | 3 |\n| 60 % | dense | 2 |\n| 70 % | wanda | 4 |\n"), "wanda").Count.ShouldBe(2, "two side by side and one alone");
        MeasuredFigures.Of(TableOf("| effect | measured |\n|---|---:|\n| a | 1 |\n| b | 2 |\n"), "wanda").ShouldBeEmpty();
        MeasuredFigures.Of(TableOf("| arm | error |\n|---|---:|\n| a | -1 |\n| b | 2 |\n"), "wanda").ShouldBeEmpty();
    }

    [Theory]
    [InlineData("finalLoss", "final loss")]
    [InlineData("models.dense.tokensPerSecond", "models, dense: tokens per second")]
    public void A_result_is_named_in_words(string path, string words) => Facts.Words(path).ShouldBe(words);

    [Theory]
    [InlineData("2828736", "2,828,736")]
    [InlineData("3.7468607425689697", "3.747")]
    [InlineData("true", "yes")]
    [InlineData("12345.6", "12,346")]
    [InlineData("loads", "loads")]
    public void A_figure_has_as_many_digits_as_one_reads(string value, string shown) => Facts.Value(value).ShouldBe(shown);

    private static Table TableOf(string markdown) => Markdown.Parse(markdown, new MarkdownPipelineBuilder().UsePipeTables().Build()).OfType<Table>().Single();
}
