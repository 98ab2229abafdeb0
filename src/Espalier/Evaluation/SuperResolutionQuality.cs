using Espalier.Data;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Evaluation;

/// <summary>How near fine images come to originals of which only coarse ones were seen: on the luma of coloured images, with a border of the scale left out, rounded as stored images are.</summary>
/// <param name="Images">Images that were measured.</param>
/// <param name="Psnr">The peak signal-to-noise ratio in decibels, the mean over images.</param>
/// <param name="StandardError">The standard error of that mean; not a number for a single image.</param>
/// <param name="Ssim">The structural similarity, the mean over images; not a number where one is too small for its window.</param>
public sealed record SuperResolutionQuality(int Images, double Psnr, double StandardError, double Ssim)
{
    private const int SmallestForSsim = 11;

    /// <summary>Measures anything that makes images finer.</summary>
    /// <param name="refine">Coarse images [n, channels, height, width] in [0, 1] to fine ones.</param>
    /// <param name="originals">[n, channels, height, width], uint8, all of one batch of one size; height and width are multiples of the scale. They are disposed.</param>
    /// <param name="scale">How many times finer.</param>
    /// <param name="device">Where coarse images are wanted; null is the CPU.</param>
    /// <exception cref="EspalierException">When there is no image, or one has no multiples of the scale.</exception>
    public static SuperResolutionQuality Measure(Func<Tensor, Tensor> refine, IEnumerable<Tensor> originals, int scale, Device? device = null)
    {
        List<double> signals = [], likenesses = [];
        using var frozen = no_grad();
        foreach (Tensor batch in originals)
        {
            using var scope = NewDisposeScope();
            using (batch)
            {
                Tensor wanted = batch.to(ScalarType.Float32).to(device ?? CPU);
                Tensor found = (refine(SuperResolutionObjective.Coarse(wanted / 255, scale)).clamp(0, 1) * 255).round();
                (Tensor x, Tensor y) = wanted.shape[1] == 3 ? (ImageQuality.Luma(found, 255), ImageQuality.Luma(wanted, 255)) : (found, wanted);
                bool similar = Math.Min(x.shape[2], x.shape[3]) - (2 * scale) >= SmallestForSsim;
                for (long i = 0; i < x.shape[0]; i++)
                {
                    Tensor one = x.narrow(0, i, 1), original = y.narrow(0, i, 1);
                    signals.Add(ImageQuality.Psnr(one, original, 255, scale));
                    likenesses.Add(similar ? ImageQuality.Ssim(one, original, 255, scale) : double.NaN);
                }
            }
        }

        EspalierException.Require(signals.Count > 0, "There is no image to measure.");
        double mean = signals.Average();
        double variance = signals.Sum(s => (s - mean) * (s - mean)) / (signals.Count - 1.0);
        return new SuperResolutionQuality(signals.Count, mean, Math.Sqrt(variance / signals.Count), likenesses.Average());
    }

    /// <summary>What bicubic resampling reaches, the yardstick of every such net.</summary>
    /// <inheritdoc cref="Measure"/>
    public static SuperResolutionQuality Bicubic(IEnumerable<Tensor> originals, int scale) =>
        Measure(coarse => BicubicResize.Run(coarse, (int)coarse.shape[2] * scale, (int)coarse.shape[3] * scale), originals, scale);
}
