using Espalier.Data;
using Espalier.Runtime;
using SkiaSharp;
using static TorchSharp.torch;

namespace Espalier.Tests.Data;

public sealed class ImageTensorsTests
{
    [Theory]
    [InlineData("uoft-cs/cifar10:test", 3, 32)]
    [InlineData("zalando-datasets/fashion_mnist:test", 1, 28)]
    public void Images_are_decoded_from_parquet(string reference, int channels, int side)
    {
        using ImageTensors images = ImageTensors.Load(Open(reference), limit: 40);
        images.Images.shape.ShouldBe([40, channels, side, side]);
        images.Labels.data<long>().Distinct().Count().ShouldBeGreaterThan(5);
        using var scope = NewDisposeScope();
        Tensor values = images.Images.to(ScalarType.Float32);
        values.std().item<float>().ShouldBeInRange(40, 110);
        // Neighbouring pixels of a photograph are alike; a wrong layout would mix them up.
        (values.narrow(3, 1, side - 1) - values.narrow(3, 0, side - 1)).abs().mean().item<float>().ShouldBeLessThan(30);
    }

    [Fact]
    public void Png_files_in_class_folders_are_decoded_to_the_byte()
    {
        using var folder = new TemporaryFolder();
        byte[] first = Pixels(1), second = Pixels(2);
        Write(folder, "train/ant/b.png", first);
        Write(folder, "train/bee/a.png", second);
        Write(folder, "test/bee/a.png", second);
        using ImageTensors images = ImageTensors.Load(Open($"{folder.Path}:train"));
        images.Labels.data<long>().ShouldBe([0, 1]);
        images.Images.bytes.ToArray().ShouldBe([.. Planes(first), .. Planes(second)]);
        using ImageTensors grey = ImageTensors.Load(Open($"{folder.Path}:train"), channels: 1, limit: 1);
        grey.Images.bytes[0].ShouldBe((byte)Math.Round((0.299 * first[0]) + (0.587 * first[1]) + (0.114 * first[2])));
        Should.Throw<EspalierException>(() => Open(folder.Path)).Message.ShouldContain("the splits test, train");
        Should.Throw<EspalierException>(() => Open($"{folder.Path}:dev")).Message.ShouldContain("no split \"dev\"");
    }

    [Fact]
    public void Images_that_do_not_fit_are_named()
    {
        using var folder = new TemporaryFolder();
        Write(folder, "ant/a.png", Pixels(1));
        File.WriteAllBytes(Path.Combine(folder.Path, "ant", "b.png"), [1, 2, 3]);
        Should.Throw<EspalierException>(() => ImageTensors.Load(Open(folder.Path))).Message.ShouldContain("Image 1 of");
        Write(folder, "ant/b.png", Pixels(1), side: 2);
        Should.Throw<EspalierException>(() => ImageTensors.Load(Open(folder.Path))).Message.ShouldContain("2×2 pixels, but the first of the data set is 4×4");
    }

    [Fact]
    public void Batches_are_functions_of_seed_and_number()
    {
        using ImageTensors images = Numbered(20);
        using var scope = NewDisposeScope();
        ImageBatches Make(long seed) => new(images, 6) { Seed = new Seed(seed), Augmentation = new ImageAugmentation(1, true) };
        ImageBatches one = Make(1), other = Make(2);
        one.PerEpoch.ShouldBe(3);
        (Tensor late, Tensor lateLabels) = one.Shuffled(7);
        one.Shuffled(0);
        (Tensor again, Tensor againLabels) = Make(1).Shuffled(7);
        late.eq(again).all().item<bool>().ShouldBeTrue();
        lateLabels.eq(againLabels).all().item<bool>().ShouldBeTrue();
        other.Shuffled(7).Images.eq(late).all().item<bool>().ShouldBeFalse();
        long[] epoch = [.. Enumerable.Range(3, 3).SelectMany(i => one.Shuffled(i).Labels.data<long>().ToArray())];
        epoch.Distinct().Count().ShouldBe(18, "no image comes twice in an epoch");
    }

    [Fact]
    public void Augmented_images_are_shifts_and_mirrors_of_the_original()
    {
        using ImageTensors images = Numbered(1);
        using var scope = NewDisposeScope();
        var batches = new ImageBatches(images, 1) { Augmentation = new ImageAugmentation(1, true), Seed = new Seed(0) };
        var seen = new HashSet<string>();
        HashSet<string> possible = [.. from down in Enumerable.Range(-1, 3) from right in Enumerable.Range(-1, 3) from flip in new[] { false, true } select Key(Shifted(images.Images, down, right, flip))];
        possible.Count.ShouldBe(18);
        for (int i = 0; i < 400; i++)
        {
            seen.Add(Key((batches.Shuffled(i).Images * 255).round().to(ScalarType.Byte)));
        }

        seen.SetEquals(possible).ShouldBeTrue();
    }

    [Fact]
    public void Pixels_are_normalised_channel_by_channel()
    {
        using var images = new ImageTensors("two", tensor(new byte[] { 0, 255, 51 }).view(1, 3, 1, 1), tensor(new long[] { 0 }));
        using var scope = NewDisposeScope();
        var batches = new ImageBatches(images, 1) { Mean = [0.5, 0.5, 0], Deviation = [0.25, 0.5, 2] };
        foreach ((Tensor pixels, _) in batches.InOrder())
        {
            pixels.data<float>().ToArray().ShouldBe([-2f, 1f, 0.1f], 1e-6);
        }
    }

    private static ImageDataset Open(string reference) => ImageDataset.Open(DataReference.Parse(reference), HubFixture.Resolve);

    // 4×4 images of numbers from 1 on, with the image's number as its class.
    private static ImageTensors Numbered(int count)
    {
        byte[] pixels = [.. Enumerable.Range(0, count).SelectMany(i => Enumerable.Range(1, 32).Select(v => (byte)(v + (10 * i % 200))))];
        return new ImageTensors("numbered", tensor(pixels).view(count, 2, 4, 4), arange(count, ScalarType.Int64));
    }

    private static Tensor Shifted(Tensor image, int down, int right, bool flip)
    {
        Tensor padded = nn.functional.pad(image, [1, 1, 1, 1]);
        Tensor crop = padded.narrow(2, 1 + down, 4).narrow(3, 1 + right, 4);
        return flip ? crop.flip(3) : crop;
    }

    private static string Key(Tensor image) => Convert.ToHexString(image.contiguous().bytes);

    private static byte[] Pixels(int seed)
    {
        var pixels = new byte[48];
        new Random(seed).NextBytes(pixels);
        return pixels;
    }

    private static byte[] Planes(byte[] pixels) => [.. Enumerable.Range(0, 3).SelectMany(c => Enumerable.Range(0, 16).Select(i => pixels[(3 * i) + c]))];

    private static void Write(TemporaryFolder folder, string name, byte[] pixels, int side = 4)
    {
        using var bitmap = new SKBitmap(new SKImageInfo(side, side, SKColorType.Rgba8888, SKAlphaType.Opaque));
        for (int i = 0; i < side * side; i++)
        {
            bitmap.SetPixel(i % side, i / side, new SKColor(pixels[3 * i], pixels[(3 * i) + 1], pixels[(3 * i) + 2]));
        }

        string path = Path.Combine(folder.Path, name);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        using SKData data = bitmap.Encode(SKEncodedImageFormat.Png, 100);
        File.WriteAllBytes(path, data.ToArray());
    }
}
