using Espalier.Runtime;
using SkiaSharp;

namespace Espalier.Data;

/// <summary>Decodes PNG, JPEG and what else Skia reads, without colour management.</summary>
internal static class ImageDecoder
{
    private const long MostPixels = 1 << 26;

    /// <summary>Height, width and channels (1 for grey, else 3) of an encoded image.</summary>
    /// <param name="encoded">The file.</param>
    /// <param name="name">What it is called in errors.</param>
    public static (int Height, int Width, int Channels) Measure(ReadOnlyMemory<byte> encoded, string name)
    {
        using SKCodec codec = Open(encoded, name);
        return (codec.Info.Height, codec.Info.Width, codec.Info.ColorType is SKColorType.Gray8 ? 1 : 3);
    }

    /// <summary>Decodes to planes of 8-bit values.</summary>
    /// <param name="encoded">The file.</param>
    /// <param name="channels">1 gives luma (as ITU-R 601 weighs colours), 3 red, green, blue.</param>
    /// <param name="height">The height that it must have.</param>
    /// <param name="width">The width that it must have.</param>
    /// <param name="planes">[channels, height, width].</param>
    /// <param name="name">What it is called in errors.</param>
    /// <exception cref="EspalierException">When the bytes are no image, or one of another size.</exception>
    public static void Decode(ReadOnlyMemory<byte> encoded, int channels, int height, int width, Span<byte> planes, string name)
    {
        using SKCodec codec = Open(encoded, name);
        EspalierException.Require(codec.Info.Height == height && codec.Info.Width == width,
            $"{name} is {codec.Info.Width}×{codec.Info.Height} pixels, but the first of the data set is {width}×{height}; bring all images to one size first.");
        using var bitmap = new SKBitmap(new SKImageInfo(width, height, SKColorType.Rgba8888, SKAlphaType.Unpremul));
        EspalierException.Require(codec.GetPixels(bitmap.Info, bitmap.GetPixels()) == SKCodecResult.Success, $"{name} is damaged; fetch it again.");
        ReadOnlySpan<byte> pixels = bitmap.GetPixelSpan();
        int size = height * width;
        for (int i = 0; i < size; i++)
        {
            byte red = pixels[4 * i], green = pixels[(4 * i) + 1], blue = pixels[(4 * i) + 2];
            if (channels == 1)
            {
                planes[i] = (byte)(((red * 19595) + (green * 38470) + (blue * 7471) + 32768) >> 16);
            }
            else
            {
                (planes[i], planes[size + i], planes[(2 * size) + i]) = (red, green, blue);
            }
        }
    }

    private static SKCodec Open(ReadOnlyMemory<byte> encoded, string name)
    {
        using SKData data = SKData.CreateCopy(encoded.Span);
        SKCodec codec = SKCodec.Create(data) ?? throw new EspalierException($"{name} is no image that can be decoded; supported are PNG, JPEG, BMP, GIF and WebP.");
        (int width, int height) = (codec.Info.Width, codec.Info.Height);
        if ((long)width * height > MostPixels)
        {
            codec.Dispose();
            throw new EspalierException($"{name} claims {width}×{height} pixels, more than the {MostPixels} that an image may have; it is damaged, or scale it down first.");
        }

        return codec;
    }
}
