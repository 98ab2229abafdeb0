using Espalier.Data;
using Espalier.Runtime;

namespace Espalier.Tests.Data;

public sealed class TextDatasetTests
{
    [Fact]
    public void Wikitext_is_found_by_configuration_and_split()
    {
        TextDataset test = Open("Salesforce/wikitext:wikitext-2-v1:test");
        test.Documents.Count().ShouldBe(4359);
        test.Documents.ShouldContain(d => d.StartsWith(" = Robert", StringComparison.Ordinal));
    }

    [Fact]
    public void Imdb_reviews_come_with_their_labels()
    {
        LabelledText[] reviews = [.. Open("stanfordnlp/imdb:train").Labelled()];
        reviews.Length.ShouldBe(25000);
        reviews.Count(r => r.Label == 1).ShouldBe(12500);
        reviews.ShouldAllBe(r => r.Text.Length > 10);
    }

    [Theory]
    [InlineData("stanfordnlp/imdb:plain_text:dev", "test, train")]
    [InlineData("stanfordnlp/imdb:other:train", "plain_text")]
    [InlineData("stanfordnlp/imdb", "name one")]
    [InlineData("stanfordnlp/imdb:train#body", "text (Text), label (Integer)")]
    [InlineData("stanfordnlp/imdb:train#label", "holds no text")]
    [InlineData("./nowhere", "./nowhere")]
    public void What_is_missing_is_named_with_what_is_there(string reference, string says)
    {
        if (DataReference.Parse(reference) is { IsPath: false } hub)
        {
            HubFixture.Resolve(hub.Source); // skips here, not inside the assertion, where there is no shared folder
        }

        Should.Throw<EspalierException>(() => Open(reference)).Message.ShouldContain(says);
    }

    [Theory]
    [InlineData("data/train-00000-of-00002.parquet", "en/train-00000-of-00001.parquet", "train")]
    [InlineData("en/train/0000.parquet", "fr/train/0000.parquet", "en:train")]
    [InlineData("train.jsonl", "test.jsonl", "train")]
    [InlineData("en/train-00000-of-00001-0123456789abcdef.parquet", "en/test.parquet", "train")]
    [InlineData("train/a.jsonl", "test/a.jsonl", "train")]
    public void The_usual_layouts_are_known(string wanted, string other, string reference)
    {
        using var folder = new TemporaryFolder();
        foreach (string file in new[] { wanted, other })
        {
            Directory.CreateDirectory(Path.GetDirectoryName(folder[file])!);
            File.WriteAllText(folder[file], "");
        }

        DataFiles.Find(DataReference.Parse($"{folder.Path}:{reference}"), null, Table.Extensions).ShouldBe([folder[wanted]]);
    }

    [Fact]
    public void A_folder_of_texts_is_a_document_a_file()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["b.txt"], "second");
        File.WriteAllText(folder["a.txt"], "first\nline");
        Open(folder.Path).Documents.ShouldBe(["first\nline", "second"]);
        Open(folder["b.txt"]).Documents.ShouldBe(["second"]);
    }

    [Fact]
    public void Csv_keeps_quotes_and_line_breaks_within_values()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["a.csv"], "text,label\r\n\"He said \"\"no\"\",\nand left\",1\r\nplain,0\r\n");
        TextDataset dataset = Open(folder["a.csv"]);
        dataset.Documents.ShouldBe(["He said \"no\",\nand left", "plain"]);
        dataset.Labelled().Select(r => r.Label).ShouldBe([1, 0]);
        File.WriteAllText(folder["b.tsv"], "body\tn\n1\t2\na\"b\t3\n");
        Open(folder["b.tsv"] + "#body").Documents.ShouldBe(["1", "a\"b"]);
    }

    [Fact]
    public void Json_rows_are_objects_or_texts()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["a.jsonl"], "{\"text\":\"one\",\"label\":1}\n\n{\"text\":null,\"label\":0}\n");
        Open(folder["a.jsonl"]).Documents.ShouldBe(["one", ""]);
        File.WriteAllText(folder["b.json"], "[\"one\",\"two\"]");
        Open(folder["b.json"]).Documents.ShouldBe(["one", "two"]);
        File.WriteAllText(folder["c.json"], "{\"data\":[{\"review\":\"x\"}]}");
        Open(folder["c.json"]).Documents.ShouldBe(["x"]);
    }

    [Theory]
    [InlineData("a.jsonl", "{\"text\":\"a\"}\n{\"text\":", "line 2")]
    [InlineData("a.jsonl", "{\"text\":\"a\"}\n7", "line 2")]
    [InlineData("a.jsonl", "{\"text\":\"a\"}\n{\"text\":7}", "line 2")]
    [InlineData("a.jsonl", "", "empty")]
    [InlineData("a.json", "[\n{\"text\":\n]", "line 3")]
    [InlineData("a.json", "{\"a\":1}", "array")]
    [InlineData("a.jsonl", "{\"a\":\"x\",\"b\":\"y\"}", "a (Text), b (Text)")]
    [InlineData("a.csv", "text,label\n", "empty")]
    [InlineData("a.csv", "", "empty")]
    [InlineData("a.csv", "text,label\nx,1\ny\n", "well-formed")]
    [InlineData("a.csv", "text,label\n\"open,1\n", "well-formed")]
    [InlineData("a.csv", "text,text\nx,1\n", "same name")]
    [InlineData("a.parquet", "PAR1 and no more", "no whole parquet file")]
    [InlineData("a.docx", "x", ".docx")]
    public void Damaged_files_are_named_with_the_line(string name, string content, string says)
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder[name], content);
        EspalierException error = Should.Throw<EspalierException>(() => Open(folder[name]).Documents.Count());
        error.Message.ShouldContain(says);
        error.Message.ShouldContain(name);
    }

    private static TextDataset Open(string reference) => TextDataset.Open(DataReference.Parse(reference), HubFixture.Resolve);
}
