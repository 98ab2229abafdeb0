using Espalier.Data;
using Espalier.Runtime;
using Parquet;
using Parquet.Schema;

namespace Espalier.Tests.Data;

public sealed class ParquetTableTests
{
    /// <summary>Parquet.Net 6.1.0 on its own packs the values to the front here, or leaves what a buffer held before.</summary>
    [Fact]
    public async Task Nulls_stay_where_they_are()
    {
        using var folder = new TemporaryFolder();
        var text = new DataField("text", typeof(string), isNullable: true);
        var number = new DataField("n", typeof(int), isNullable: true);
        string?[] texts = [null, "hat", null, "", "é"];
        int?[] numbers = [1, null, null, 4, 5];
        await using (FileStream stream = File.Create(folder["a.parquet"]))
        await using (ParquetWriter writer = await ParquetWriter.CreateAsync(new ParquetSchema(text, number), stream))
        {
            for (int i = 0; i < 2; i++)
            {
                using ParquetRowGroupWriter group = writer.CreateRowGroup();
                await group.WriteAsync(text, texts!);
                await group.WriteAsync<int>(number, numbers.AsMemory());
                group.CompleteValidate();
            }
        }

        ParquetTable table = ParquetTable.Open(folder["a.parquet"]);
        table.RowCount.ShouldBe(10);
        table.Texts("text").ShouldBe([.. texts, .. texts]);
        table.Integers("n").ShouldBe([1, null, null, 4, 5, 1, null, null, 4, 5]);
        table.Numbers("n").First().ShouldBe(1.0);
    }

    [Fact]
    public void Members_of_structs_are_columns_and_absent_values_are_null()
    {
        ParquetTable table = ParquetTable.Open(Path.Combine(HubFixture.Resolve("zalando-datasets/fashion_mnist"), "fashion_mnist/test-00000-of-00001.parquet"));
        table.Columns.Select(c => c.Name).ShouldBe(["image.bytes", "image.path", "label"]);
        table.RowCount.ShouldBe(10000);
        byte[]?[] images = [.. table.Bytes("image.bytes")];
        images.Length.ShouldBe(10000);
        images.ShouldAllBe(i => i != null && i[0] == 0x89 && i[1] == 'P');
        table.Integers("label").GroupBy(l => l).Select(g => g.Count()).ShouldAllBe(n => n == 1000);
    }

    [Fact]
    public void A_file_cut_short_or_with_damaged_bytes_is_refused()
    {
        byte[] whole = File.ReadAllBytes(Path.Combine(HubFixture.Resolve("Salesforce/wikitext"), "wikitext-2-v1/test-00000-of-00001.parquet"));
        using var folder = new TemporaryFolder();
        File.WriteAllBytes(folder["half.parquet"], whole[..(whole.Length / 2)]);
        Should.Throw<EspalierException>(() => ParquetTable.Open(folder["half.parquet"])).Message.ShouldContain("half.parquet");
        whole.AsSpan(1000, 2000).Fill(0x5A);
        File.WriteAllBytes(folder["damaged.parquet"], whole);
        Should.Throw<EspalierException>(() => ParquetTable.Open(folder["damaged.parquet"]).Texts("text").Count()).Message.ShouldContain("damaged.parquet");
    }

    [Theory]
    [InlineData("180000", "another kind")] // the version as text
    [InlineData("192C150200", "another kind")] // the version as a list
    [InlineData("AC15020000", "does not know")] // an unknown structure that holds something
    [InlineData("A921010100", "another kind")] // an unknown list of booleans
    [InlineData("AB00", "another kind")] // a map
    [InlineData("0580800800", "beyond all fields")] // the field 65,536
    public void A_footer_that_Parquet_Net_would_read_past_its_end_is_refused(string footer, string says)
    {
        using var folder = new TemporaryFolder();
        byte[] bytes = Convert.FromHexString(footer);
        File.WriteAllBytes(folder["t.parquet"], [.. "PAR1"u8, .. bytes, .. BitConverter.GetBytes(bytes.Length), .. "PAR1"u8]);
        Should.Throw<EspalierException>(() => ParquetTable.Open(folder["t.parquet"])).Message.ShouldContain(says);
    }

    [Fact]
    public void A_column_of_another_kind_is_refused()
    {
        ParquetTable table = ParquetTable.Open(Path.Combine(HubFixture.Resolve("stanfordnlp/imdb"), "plain_text/test-00000-of-00001.parquet"));
        Should.Throw<EspalierException>(() => table.Texts("label").Count()).Message.ShouldContain("label (Integer)");
        Should.Throw<EspalierException>(() => table.Integers("stars").Count()).Message.ShouldContain("text (Text)");
    }

    [Fact]
    public async Task Lists_of_texts_are_rows()
    {
        using var folder = new TemporaryFolder();
        await using (FileStream stream = File.Create(folder["a.parquet"]))
        {
            await Parquet.Serialization.ParquetSerializer.SerializeAsync([new Question { Choices = ["a", "b"] }, new Question { Choices = [] }, new Question { Choices = ["c"] }], stream);
        }

        ParquetTable table = ParquetTable.Open(folder["a.parquet"]);
        table.Columns.Single().ShouldBe(new TableColumn("Choices", ColumnKind.Text, IsList: true));
        table.TextLists("Choices").ShouldBe([["a", "b"], [], ["c"]]);
    }

    private sealed class Question
    {
        public List<string> Choices { get; set; } = [];
    }
}
