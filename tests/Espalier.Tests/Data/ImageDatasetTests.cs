using System.IO.Compression;
using Espalier.Data;
using Espalier.Runtime;

namespace Espalier.Tests.Data;

public sealed class ImageDatasetTests
{
    private static readonly byte[] images = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
    private static readonly byte[] labels = [0, 0, 8, 1, 0, 0, 0, 2, 7, 9];

    [Theory]
    [InlineData("uoft-cs/cifar10:test", 10000, 0xFF)]
    [InlineData("zalando-datasets/fashion_mnist:test", 10000, 0x89)]
    public void Encoded_images_come_from_parquet_with_their_classes(string reference, int count, byte firstByte)
    {
        ImageDataset dataset = Open(reference);
        dataset.Count.ShouldBe(count);
        LabelledImage[] rows = [.. dataset.Images];
        rows.Length.ShouldBe(count);
        rows.Count(r => r.GreySize is null && r.Bytes.Span[0] == firstByte).ShouldBe(count);
        rows.GroupBy(r => r.Label).OrderBy(g => g.Key).Select(g => (g.Key, g.Count())).ShouldBe(Enumerable.Range(0, 10).Select(c => (c, 1000)));
    }

    [Theory]
    [InlineData("uoft-cs/cifar10:dev", "test, train")]
    [InlineData("uoft-cs/cifar10:test#picture", "img.bytes (Bytes)")]
    public void What_is_missing_is_named_with_what_is_there(string reference, string says)
    {
        if (DataReference.Parse(reference) is { IsPath: false } hub)
        {
            HubFixture.Resolve(hub.Source); // skips here, not inside the assertion, where there is no shared folder
        }

        Should.Throw<EspalierException>(() => Open(reference)).Message.ShouldContain(says);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Idx_files_are_read_plain_or_gzipped(bool gzipped)
    {
        using var folder = new TemporaryFolder();
        Write(folder["t10k-images-idx3-ubyte"], images, gzipped);
        Write(folder["t10k-labels-idx1-ubyte"], labels, gzipped);
        LabelledImage[] rows = [.. Open($"{folder.Path}:test").Images];
        rows.Select(r => r.Label).ShouldBe([7, 9]);
        rows[1].Bytes.ToArray().ShouldBe([4, 5, 6]);
        rows[1].GreySize.ShouldBe((1, 3));
        Should.Throw<EspalierException>(() => Open($"{folder.Path}:train")).Message.ShouldContain("test");
    }

    [Fact]
    public void Damaged_idx_files_are_refused()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllBytes(folder["a"], images[..^1]);
        Should.Throw<EspalierException>(() => IdxFile.Read(folder["a"])).Message.ShouldContain("2 x 1 x 3");
        File.WriteAllBytes(folder["b"], [1, 2, 3, 4, 5]);
        Should.Throw<EspalierException>(() => IdxFile.Read(folder["b"])).Message.ShouldContain("no idx file");
        File.WriteAllBytes(folder["c"], [0x1F, 0x8B, 0, 0, 0]);
        Should.Throw<EspalierException>(() => IdxFile.Read(folder["c"])).Message.ShouldContain("\"" + folder["c"]);
        File.WriteAllBytes(folder["train-images-idx3-ubyte"], images);
        Should.Throw<EspalierException>(() => Open(folder.Path)).Message.ShouldContain("no labels");
        File.WriteAllBytes(folder["train-labels-idx1-ubyte"], [0, 0, 8, 1, 0, 0, 0, 1, 7]);
        Should.Throw<EspalierException>(() => Open(folder.Path)).Message.ShouldContain("2 images");
    }

    private static ImageDataset Open(string reference) => ImageDataset.Open(DataReference.Parse(reference), HubFixture.Resolve);

    private static void Write(string path, byte[] content, bool gzipped)
    {
        using Stream stream = gzipped ? new GZipStream(File.Create(path + ".gz"), CompressionMode.Compress) : File.Create(path);
        stream.Write(content);
    }
}
