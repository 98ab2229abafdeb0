using System.Globalization;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Data;

/// <summary>A fixed change of images that makes another domain of them: the classes stay, the look does not.</summary>
/// <param name="Name">What it is ("rotation 15").</param>
/// <param name="Change">From pixels [images, channels, height, width] in [0, 1] to changed ones of the same shape, with a stream of chance of their own.</param>
public sealed record ImageCorruption(string Name, Func<Tensor, Generator, Tensor> Change)
{
    private const int AtOnce = 1024;

    /// <summary>Turned about their middle; what comes in from outside is black. Bilinear.</summary>
    /// <param name="degrees">The angle, counter-clockwise.</param>
    public static ImageCorruption Rotation(double degrees) => new(Named("rotation", degrees), (x, _) => Turned(x, degrees));

    /// <summary>Less contrast: x → scale·x + shift.</summary>
    /// <param name="scale">What pixels are multiplied by.</param>
    /// <param name="shift">What is then added.</param>
    public static ImageCorruption Contrast(double scale = 0.35, double shift = 0.3) => new(Named("contrast", scale, shift), (x, _) => (x * scale) + shift);

    /// <summary>The mean of a square of pixels, the border repeated.</summary>
    /// <param name="side">Its side, odd.</param>
    public static ImageCorruption Blur(int side)
    {
        EspalierException.Require(side >= 1 && side % 2 == 1, $"A blur over {side} pixels is not possible; its side is an odd number, for example 5.");
        return new(Named("blur", side), (x, _) => nn.functional.avg_pool2d(nn.functional.pad(x, [side / 2, side / 2, side / 2, side / 2], TorchSharp.PaddingModes.Replicate), side, stride: 1));
    }

    /// <summary>Normal noise.</summary>
    /// <param name="deviation">Its standard deviation, pixels being 0 to 1.</param>
    public static ImageCorruption Noise(double deviation) => new(Named("noise", deviation), (x, generator) => x + (deviation * randn(x.shape, generator: generator)));

    /// <summary>Every pixel is the mean of its channels' weights for brightness; grey images stay as they are.</summary>
    public static ImageCorruption Grey() => new("grey", (x, _) =>
        x.shape[1] == 1 ? x.alias() : (x * tensor([0.299f, 0.587f, 0.114f]).view(1, 3, 1, 1)).sum([1], keepdim: true).expand(x.shape));

    /// <summary>Every square of pixels becomes its mean.</summary>
    /// <param name="side">The side of the squares; pixels beyond the last whole square repeat it.</param>
    public static ImageCorruption Blocks(int side)
    {
        EspalierException.Require(side >= 1, $"Blocks of {side} pixels are not possible; take at least 1.");
        return new(Named("blocks", side), (x, _) => nn.functional.interpolate(nn.functional.avg_pool2d(x, side, ceil_mode: true, count_include_pad: false), [x.shape[2], x.shape[3]]));
    }

    /// <summary>A bright background that grows from left to right behind dark pixels: x → x + strength·(1 − x)·column/width.</summary>
    /// <param name="strength">How bright it is at the right.</param>
    public static ImageCorruption Gradient(double strength) =>
        new(Named("gradient", strength), (x, _) => x + (strength * (1 - x) * linspace(0, 1, x.shape[3]).view(1, 1, 1, -1)));

    /// <summary>Reads "rotation:15", "contrast:0.35:0.3", "blur:5", "noise:0.1", "grey", "blocks:2", "gradient:0.7", or several of them joined by "+".</summary>
    /// <param name="text">The words.</param>
    /// <exception cref="EspalierException">When a word is unknown or a number is missing.</exception>
    public static ImageCorruption Parse(string text)
    {
        ImageCorruption[] parts = [.. text.Split('+', StringSplitOptions.TrimEntries).Select(One)];
        return parts.Length == 1 ? parts[0] : new(string.Join(" + ", parts.Select(p => p.Name)), (x, generator) => parts.Aggregate(x, (seen, part) => part.Change(seen, generator).clamp(0, 1)));

        ImageCorruption One(string part)
        {
            string[] words = part.Split(':');
            double[] numbers = [.. words.Skip(1).Select(w => double.TryParse(w, NumberStyles.Float, CultureInfo.InvariantCulture, out double n) && double.IsFinite(n) ? n : throw Wrong(part))];
            return (words[0], numbers.Length) switch
            {
                ("rotation", 1) => Rotation(numbers[0]),
                ("contrast", 0) => Contrast(),
                ("contrast", 2) => Contrast(numbers[0], numbers[1]),
                ("blur", 1) => Blur((int)numbers[0]),
                ("noise", 1) => Noise(numbers[0]),
                ("grey", 0) => Grey(),
                ("blocks", 1) => Blocks((int)numbers[0]),
                ("gradient", 1) => Gradient(numbers[0]),
                _ => throw Wrong(part),
            };
        }

        static EspalierException Wrong(string part) => new($"'{part}' is no change of images; use rotation:DEGREES, contrast:SCALE:SHIFT, blur:SIDE, noise:DEVIATION, grey, blocks:SIDE or gradient:STRENGTH, joined by +.");
    }

    /// <summary>The changed images of a data set with their classes, as new tensors.</summary>
    /// <param name="images">The images; they stay as they are.</param>
    /// <param name="seed">Of noise; the same images and seed give the same bytes.</param>
    public ImageTensors Apply(ImageTensors images, Seed seed = default)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using Generator generator = seed.Generator($"corruption {Name}");
        Tensor changed = empty_like(images.Images);
        for (long start = 0; start < images.Count; start += AtOnce)
        {
            using var some = NewDisposeScope();
            long count = Math.Min(AtOnce, images.Count - start);
            Tensor pixels = images.Images.narrow(0, start, count).to(ScalarType.Float32) / 255;
            changed.narrow(0, start, count).copy_((Change(pixels, generator).clamp(0, 1) * 255).round().to(ScalarType.Byte));
        }

        return new ImageTensors($"{images.Name}, {Name}", changed.MoveToOuterDisposeScope(), images.Labels.clone());
    }

    private static Tensor Turned(Tensor x, double degrees)
    {
        (double sine, double cosine) = Math.SinCos(degrees * Math.PI / 180);
        double aspect = (double)x.shape[2] / x.shape[3];
        Tensor turn = tensor([(float)cosine, (float)(-sine * aspect), 0, (float)(sine / aspect), (float)cosine, 0]).view(1, 2, 3).expand(x.shape[0], 2, 3);
        return nn.functional.grid_sample(x, nn.functional.affine_grid(turn, x.shape, align_corners: false), GridSampleMode.Bilinear, GridSamplePaddingMode.Zeros, align_corners: false);
    }

    private static string Named(string what, params ReadOnlySpan<double> numbers)
    {
        var parts = new List<string> { what };
        foreach (double number in numbers)
        {
            parts.Add(number.ToString("R", CultureInfo.InvariantCulture));
        }

        return string.Join(' ', parts);
    }
}
