using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Data;

/// <summary>Bicubic change of an image's size as MATLAB's imresize does it (a = −1/2, widened when it shrinks): how papers on super-resolution make their coarse images.</summary>
public static class BicubicResize
{
    private const double A = -0.5;

    /// <summary>Images of another size.</summary>
    /// <param name="images">[images, channels, height, width], float.</param>
    /// <param name="height">The new height.</param>
    /// <param name="width">The new width.</param>
    /// <returns>[images, channels, new height, new width]; values may leave the range of the images a little.</returns>
    /// <exception cref="EspalierException">When the new size is not positive.</exception>
    public static Tensor Run(Tensor images, int height, int width)
    {
        EspalierException.Require(height > 0 && width > 0, $"Images cannot be resized to {height}×{width}; both must be at least 1.");
        using var scope = NewDisposeScope();
        Tensor rows = Weights((int)images.shape[2], height).to(images.dtype).to(images.device), columns = Weights((int)images.shape[3], width).to(images.dtype).to(images.device);
        return rows.matmul(images).matmul(columns.t()).MoveToOuterDisposeScope();
    }

    /// <summary>Each new line as a weighted sum of the old ones [new, old]; lines beyond an edge are mirrored.</summary>
    private static Tensor Weights(int from, int to)
    {
        double scale = (double)to / from, stretch = Math.Min(1, scale), reach = 2 / stretch;
        var weights = new double[to, from];
        for (int i = 0; i < to; i++)
        {
            double centre = ((i + 0.5) / scale) - 0.5, sum = 0;
            int first = (int)Math.Floor(centre - reach), last = (int)Math.Ceiling(centre + reach);
            for (int j = first; j <= last; j++)
            {
                double weight = Kernel(stretch * (centre - j));
                weights[i, Mirrored(j, from)] += weight;
                sum += weight;
            }

            for (int j = 0; j < from; j++)
            {
                weights[i, j] /= sum;
            }
        }

        return tensor(weights);
    }

    private static double Kernel(double x) => Math.Abs(x) switch
    {
        var d when d <= 1 => ((A + 2) * d * d * d) - ((A + 3) * d * d) + 1,
        var d when d < 2 => A * ((d * d * d) - (5 * d * d) + (8 * d) - 4),
        _ => 0,
    };

    private static int Mirrored(int index, int count)
    {
        int period = 2 * count, place = ((index % period) + period) % period;
        return place < count ? place : period - 1 - place;
    }
}
