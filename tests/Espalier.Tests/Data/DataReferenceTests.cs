using Espalier.Data;
using Espalier.Runtime;

namespace Espalier.Tests.Data;

public sealed class DataReferenceTests
{
    [Theory]
    [InlineData("Salesforce/wikitext:wikitext-2-v1:test", "Salesforce/wikitext", false, "wikitext-2-v1", "test", null)]
    [InlineData("stanfordnlp/imdb:train", "stanfordnlp/imdb", false, null, "train", null)]
    [InlineData("stanfordnlp/imdb", "stanfordnlp/imdb", false, null, null, null)]
    [InlineData("imdb#review", "imdb", false, null, null, "review")]
    [InlineData("./corpus:heldout", "./corpus", true, null, "heldout", null)]
    [InlineData("texts.jsonl", "texts.jsonl", true, null, null, null)]
    [InlineData("corpus/texts.csv#body", "corpus/texts.csv", true, null, null, "body")]
    [InlineData(@"C:\texts\a.csv", @"C:\texts\a.csv", true, null, null, null)]
    [InlineData(@"C:\texts:test", @"C:\texts", true, null, "test", null)]
    [InlineData("D:/data/wiki:en:train", "D:/data/wiki", true, "en", "train", null)]
    [InlineData("/a/b/c:train", "/a/b/c", true, null, "train", null)]
    public void References_are_read_and_written_back(string text, string source, bool isPath, string? config, string? split, string? column)
    {
        DataReference reference = DataReference.Parse(text);
        (reference.Source, reference.IsPath, reference.Config, reference.Split, reference.Column).ShouldBe((source, isPath, config, split, column));
        reference.ToString().ShouldBe(text);
    }

    [Theory]
    [InlineData("")]
    [InlineData("a/b:c:d:e")]
    [InlineData("a/b::train")]
    [InlineData("a/b#")]
    public void Malformed_references_are_refused(string text) => Should.Throw<EspalierException>(() => DataReference.Parse(text));

    [Fact]
    public void A_folder_that_exists_is_a_path_even_where_its_name_looks_like_a_hub_id()
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["a:b"]);
        DataReference.Parse(folder["a:b"]).Source.ShouldBe(folder["a:b"]);
    }

    [Fact]
    public void An_option_of_its_own_wins_over_the_column_in_the_reference() => DataReference.Parse("a/b#x", "y").Column.ShouldBe("y");
}
