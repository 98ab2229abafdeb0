using Espalier.Models.Vision;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Measures the running statistics of batch norms anew, after weights were changed without training them.</summary>
public static class BatchNormRecalibration
{
    /// <summary>Sets the statistics from batches; no weight changes.</summary>
    /// <param name="model">The net.</param>
    /// <param name="batches">Images [batch, channels, height, width], normalised; each is disposed after use.</param>
    /// <param name="momentum">
    /// The share of each batch in an exponential average that starts at mean 0 and variance 1; null (default) takes the plain mean over all batches.
    /// </param>
    /// <returns>How many batches were seen; with none, means are 0 and variances 1.</returns>
    public static int Run(VisionModel model, IEnumerable<Tensor> batches, double? momentum = null)
    {
        BatchNormLayer[] norms = [.. model.Layers.OfType<BatchNormLayer>()];
        double[] before = [.. norms.Select(n => n.Momentum)];
        bool training = model.Training;
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        foreach (BatchNormLayer norm in norms)
        {
            norm.RunningMean.zero_();
            norm.RunningVariance.fill_(1);
        }

        int seen = 0;
        try
        {
            model.Training = true;
            foreach (Tensor batch in batches)
            {
                using Tensor images = batch;
                using var inner = NewDisposeScope();
                seen++;
                foreach (BatchNormLayer norm in norms)
                {
                    norm.Momentum = momentum ?? (1.0 / seen);
                }

                model.Forward(images);
            }
        }
        finally
        {
            model.Training = training;
            foreach ((BatchNormLayer norm, double value) in norms.Zip(before))
            {
                norm.Momentum = value;
            }
        }

        return seen;
    }
}
