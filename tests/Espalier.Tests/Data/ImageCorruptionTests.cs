using Espalier.Data;
using Espalier.Runtime;
using Espalier.Tests.Models.Vision;
using static TorchSharp.torch;

namespace Espalier.Tests.Data;

public sealed class ImageCorruptionTests
{
    [Theory]
    [InlineData("rotation:30")]
    [InlineData("contrast:0.35:0.3")]
    [InlineData("blur:5")]
    [InlineData("noise:0.1")]
    [InlineData("grey")]
    [InlineData("blocks:3")]
    [InlineData("gradient:0.7")]
    [InlineData("grey+blur:3")]
    public void A_change_keeps_shapes_and_classes_is_repeatable_and_leaves_its_source_alone(string words)
    {
        using ImageTensors images = TinyImages.Corners(6);
        byte[] before = [.. images.Images.bytes];
        ImageCorruption change = ImageCorruption.Parse(words);
        using ImageTensors one = change.Apply(images, new Seed(2)), two = change.Apply(images, new Seed(2));
        one.Images.shape.ShouldBe(images.Images.shape);
        one.Labels.data<long>().ToArray().ShouldBe(images.Labels.data<long>().ToArray());
        one.Images.bytes.ToArray().ShouldBe(two.Images.bytes.ToArray());
        one.Images.bytes.ToArray().ShouldNotBe(before);
        images.Images.bytes.ToArray().ShouldBe(before);
    }

    [Fact]
    public void Changes_do_what_they_say()
    {
        using var scope = NewDisposeScope();
        Tensor pixels = zeros([1, 1, 4, 4], ScalarType.Byte);
        pixels[0, 0, 0, 3] = 200;
        using var images = new ImageTensors("one", pixels, zeros(1, ScalarType.Int64));
        Values("rotation:90").ShouldBe(Placed(0, 0), "a quarter turn counter-clockwise");
        Values("rotation:180").ShouldBe(Placed(3, 0));
        Values("blocks:2").Take(4).ShouldBe([0, 0, 50, 50]);
        Values("contrast:0.5:0.2").Take(4).ShouldBe([51, 51, 51, 151]);
        Values("gradient:1").Skip(4).Take(4).ShouldBe([0, 85, 170, 255]);
        Values("grey").ShouldBe(pixels.bytes.ToArray());

        byte[] Values(string words)
        {
            using ImageTensors changed = ImageCorruption.Parse(words).Apply(images);
            return changed.Images.bytes.ToArray();
        }

        static byte[] Placed(int row, int column)
        {
            byte[] all = new byte[16];
            all[(row * 4) + column] = 200;
            return all;
        }
    }

    [Theory]
    [InlineData("fog")]
    [InlineData("blur")]
    [InlineData("noise:much")]
    public void An_unknown_change_is_a_sentence(string words) => Should.Throw<EspalierException>(() => ImageCorruption.Parse(words)).Message.ShouldContain("rotation:DEGREES");

    [Fact]
    public void A_blur_has_a_middle() => Should.Throw<EspalierException>(() => ImageCorruption.Parse("blur:4")).Message.ShouldContain("odd");
}
