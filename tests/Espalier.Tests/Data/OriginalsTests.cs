using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Runtime;
using Espalier.Training;
using SkiaSharp;
using static TorchSharp.torch;

namespace Espalier.Tests.Data;

public sealed class OriginalsTests
{
    [Fact]
    public void A_folder_of_images_of_any_size_is_cut_into_squares_or_given_whole()
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        Write(folder["a.png"], 9, 7, (x, y) => (byte)((10 * y) + x));
        Write(folder["deeper/b.png"], 4, 5, (x, y) => (byte)(100 + (10 * y) + x));
        ImageDataset images = Originals.Open(DataReference.Parse(folder.Path));
        images.Count.ShouldBe(2);

        using ImageTensors tiles = Originals.Tiles(images, 3, 4);
        tiles.Count.ShouldBe(3); // two of 9×7, one of 4×5
        tiles.Images[1, 2, 3].bytes.ToArray().ShouldBe([34, 35, 36, 37]);
        tiles.Images[2, 0, 1].bytes.ToArray().ShouldBe([110, 111, 112, 113]);
        Originals.Tiles(images, 1, 4, limit: 1).Using(t => t.Count).ShouldBe(2);

        (long Height, long Width, byte Last)[] whole = [.. Originals.Whole(images, 3, 3).Select(t => t.Using(i => (i.shape[2], i.shape[3], i[0, 0, -1, -1].item<byte>())))];
        whole.ShouldBe([(6, 9, 58), (3, 3, 122)]);

        Originals.Open(DataReference.Parse($"{folder.Path}:deeper")).Count.ShouldBe(1);
        Should.Throw<EspalierException>(() => Originals.Open(DataReference.Parse($"{folder.Path}:nowhere"))).Message.ShouldContain("deeper");
        Should.Throw<EspalierException>(() => Originals.Tiles(images, 3, 6)).Message.ShouldContain("Image 1");
        Should.Throw<EspalierException>(() => Originals.Whole(images, 3, 5).Sum(t => t.Using(i => i.numel()))).Message.ShouldContain("smaller than the scale of 5");
    }

    [Fact]
    public void Parquet_needs_no_classes()
    {
        using var scope = NewDisposeScope();
        DataReference reference = DataReference.Parse("uoft-cs/cifar10:test");
        HubFixture.Resolve(reference.Source);
        using ImageTensors tiles = Originals.Tiles(Originals.Open(reference, HubFixture.Resolve), 3, 16, limit: 5);
        tiles.Count.ShouldBe(20);
        tiles.Labels.sum().item<long>().ShouldBe(0);
    }

    [Fact]
    public void Quality_is_the_mean_over_images_of_their_luma_within_the_border()
    {
        using var scope = NewDisposeScope();
        using Generator generator = new Seed(1).Generator("images");
        Tensor first = (rand([2, 3, 16, 20], generator: generator) * 255).to(ScalarType.Byte), second = (rand([1, 3, 24, 18], generator: generator) * 255).to(ScalarType.Byte);
        double[] each = [.. new[] { first[..1], first[1..], second }.Select(t =>
        {
            Tensor coarse = SuperResolutionObjective.Coarse(t.to(ScalarType.Float32) / 255, 2);
            Tensor fine = (BicubicResize.Run(coarse, (int)t.shape[2], (int)t.shape[3]).clamp(0, 1) * 255).round();
            Tensor error = (ImageQuality.Luma(fine, 255) - ImageQuality.Luma(t, 255))[.., .., 2..^2, 2..^2];
            return 10 * Math.Log10(255 * 255 / error.square().mean().item<double>());
        })];
        SuperResolutionQuality found = SuperResolutionQuality.Bicubic([first.clone(), second.clone()], 2);
        found.Images.ShouldBe(3);
        found.Psnr.ShouldBe(each.Average(), 1e-9);
        found.StandardError.ShouldBe(Math.Sqrt(each.Sum(e => Math.Pow(e - each.Average(), 2)) / 2 / 3), 1e-9);
        found.Ssim.ShouldBeInRange(0, 1);
        double.IsNaN(SuperResolutionQuality.Bicubic([first[.., .., ..12, ..12].clone()], 2).Ssim).ShouldBeTrue();
        double.IsPositiveInfinity(SuperResolutionQuality.Bicubic([zeros([1, 1, 8, 8], ScalarType.Byte)], 2).Psnr).ShouldBeTrue();
        Should.Throw<EspalierException>(() => SuperResolutionQuality.Bicubic([], 2)).Message.ShouldContain("no image");
        Should.Throw<EspalierException>(() => SuperResolutionQuality.Bicubic([zeros([1, 1, 7, 8], ScalarType.Byte)], 2)).Message.ShouldContain("7×8");
    }

    /// <summary>Writes a grey image whose pixels are a function of column and row.</summary>
    internal static void Write(string path, int width, int height, Func<int, int, byte> value)
    {
        using var bitmap = new SKBitmap(new SKImageInfo(width, height, SKColorType.Rgba8888, SKAlphaType.Opaque));
        for (int y = 0; y < height; y++)
        {
            for (int x = 0; x < width; x++)
            {
                byte v = value(x, y);
                bitmap.SetPixel(x, y, new SKColor(v, v, v));
            }
        }

        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        using SKData data = bitmap.Encode(SKEncodedImageFormat.Png, 100);
        File.WriteAllBytes(path, data.ToArray());
    }
}

file static class Disposing
{
    public static R Using<T, R>(this T value, Func<T, R> use)
        where T : IDisposable
    {
        using (value)
        {
            return use(value);
        }
    }
}
