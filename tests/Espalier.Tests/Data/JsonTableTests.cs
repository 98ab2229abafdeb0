using Espalier.Data;
using Espalier.Runtime;

namespace Espalier.Tests.Data;

public sealed class JsonTableTests
{
    [Fact]
    public void Members_of_objects_are_columns_with_a_path()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["a.jsonl"], """
            {"q":"one","choices":{"text":["a","b"],"more":{"n":1}},"dot.ted":"x"}
            {"q":"two","choices":{"text":[]}}
            {"q":"three","choices":null}
            """);
        JsonTable table = JsonTable.Open(folder["a.jsonl"]);
        table.Columns.ShouldBe([
            new TableColumn("q", ColumnKind.Text), new TableColumn("choices.text", ColumnKind.Text, IsList: true), new TableColumn("choices.more.n", ColumnKind.Integer), new TableColumn("dot.ted", ColumnKind.Text)]);
        table.TextLists("choices.text").ShouldBe([["a", "b"], [], []]);
        table.Integers("choices.more.n").ShouldBe([1, null, null]);
        table.Texts("dot.ted").ShouldBe(["x", null, null]);
        table.TextColumn("q").ShouldBe("q");
    }

    [Fact]
    public void The_text_is_found_beside_an_object_with_texts_in_it()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["a.jsonl"], """{"body":"one","meta":{"source":"web"}}""");
        JsonTable.Open(folder["a.jsonl"]).TextColumn().ShouldBe("body");
    }

    [Fact]
    public void Lists_of_other_things_and_lists_in_csv_are_refused()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder["a.jsonl"], "{\"a\":[\"x\"]}\n{\"a\":[\"x\",3]}");
        Should.Throw<EspalierException>(() => JsonTable.Open(folder["a.jsonl"]).TextLists("a").Count()).Message.ShouldContain("line 2: column \"a\"");
        File.WriteAllText(folder["a.csv"], "a\nx\n");
        Should.Throw<EspalierException>(() => Table.Open(folder["a.csv"]).TextLists("a")).Message.ShouldContain("parquet or JSON lines");
    }
}
