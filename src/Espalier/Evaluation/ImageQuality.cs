using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Evaluation;

/// <summary>How near images are to their originals.</summary>
public static class ImageQuality
{
    private const int Window = 11;
    private const double WindowDeviation = 1.5, K1 = 0.01, K2 = 0.03;

    /// <summary>The peak signal-to-noise ratio 10·log₁₀(range² / mean squared error) in decibels, the mean over images; infinite for equal images.</summary>
    /// <param name="images">[images, channels, height, width].</param>
    /// <param name="originals">The same shape.</param>
    /// <param name="range">The distance from black to white: 1 or 255.</param>
    /// <param name="border">Pixels left out at each edge; the scale, in super-resolution.</param>
    /// <exception cref="EspalierException">When the shapes differ, or nothing is left within the border.</exception>
    public static double Psnr(Tensor images, Tensor originals, double range = 1, int border = 0)
    {
        using var scope = NewDisposeScope();
        (Tensor x, Tensor y) = Within(images, originals, border);
        Tensor error = (x - y).square().mean([1, 2, 3]);
        return (10 * (range * range / error).log10()).mean().item<double>();
    }

    /// <summary>The luma of colour images, from 16 to 235 (BT.601), on which papers on super-resolution measure: 16 + 65.481·R + 128.553·G + 24.966·B.</summary>
    /// <param name="images">[images, 3, height, width].</param>
    /// <param name="range">White in the images: 1 or 255.</param>
    /// <returns>[images, 1, height, width], float64, on the scale of 255.</returns>
    /// <exception cref="EspalierException">When the images are not coloured.</exception>
    public static Tensor Luma(Tensor images, double range = 1)
    {
        EspalierException.Require(images.dim() == 4 && images.shape[1] == 3, $"Luma is made from images [images, 3, height, width], not [{string.Join(", ", images.shape)}].");
        using var scope = NewDisposeScope();
        Tensor shares = tensor([65.481, 128.553, 24.966], ScalarType.Float64, images.device).view(1, 3, 1, 1) / range;
        return ((images.to(ScalarType.Float64) * shares).sum([1L], keepdim: true) + 16).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// The structural similarity (Wang et al. 2004): a Gaussian window of 11×11 with deviation 1.5, K₁ = 0.01, K₂ = 0.03, places where the window
    /// fits wholly; the mean over places, channels and images.
    /// </summary>
    /// <inheritdoc cref="Psnr"/>
    public static double Ssim(Tensor images, Tensor originals, double range = 1, int border = 0)
    {
        using var scope = NewDisposeScope();
        (Tensor x, Tensor y) = Within(images, originals, border);
        EspalierException.Require(x.shape[2] >= Window && x.shape[3] >= Window, $"Structural similarity needs images of at least {Window}×{Window} pixels, not {x.shape[2]}×{x.shape[3]}.");
        x = x.flatten(0, 1).unsqueeze(1);
        y = y.flatten(0, 1).unsqueeze(1);
        Tensor line = exp(-(arange(Window, ScalarType.Float64, x.device) - (Window / 2)).square() / (2 * WindowDeviation * WindowDeviation));
        line /= line.sum();
        Tensor kernel = outer(line, line).view(1, 1, Window, Window);
        double c1 = Math.Pow(K1 * range, 2), c2 = Math.Pow(K2 * range, 2);
        Tensor mx = Blur(x), my = Blur(y);
        Tensor vx = Blur(x * x) - (mx * mx), vy = Blur(y * y) - (my * my), covariance = Blur(x * y) - (mx * my);
        Tensor map = ((2 * mx * my) + c1) * ((2 * covariance) + c2) / (((mx * mx) + (my * my) + c1) * (vx + vy + c2));
        return map.mean().item<double>();

        Tensor Blur(Tensor t) => nn.functional.conv2d(t, kernel);
    }

    private static (Tensor X, Tensor Y) Within(Tensor images, Tensor originals, int border)
    {
        EspalierException.Require(images.dim() == 4 && images.shape.SequenceEqual(originals.shape),
            $"Images [{string.Join(", ", images.shape)}] cannot be compared with originals [{string.Join(", ", originals.shape)}]; both must be [images, channels, height, width].");
        long height = images.shape[2] - (2 * border), width = images.shape[3] - (2 * border);
        EspalierException.Require(border >= 0 && height > 0 && width > 0, $"A border of {border} pixels leaves nothing of images of {images.shape[2]}×{images.shape[3]}.");
        return (Inner(images), Inner(originals));

        Tensor Inner(Tensor t) => t.to(ScalarType.Float64).narrow(2, border, height).narrow(3, border, width);
    }
}
