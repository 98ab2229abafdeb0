using Espalier.Data;
using Espalier.Evaluation;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Tests.Evaluation;

public sealed class ImageQualityTests
{
    [Fact]
    public void Psnr_is_as_by_hand()
    {
        using var scope = NewDisposeScope();
        Tensor black = zeros(2, 3, 4, 4);
        ImageQuality.Psnr(black + 0.1, black).ShouldBe(20, 1e-5);
        ImageQuality.Psnr((black + 25.5).to(ScalarType.Byte), black.to(ScalarType.Byte), 255).ShouldBe(10 * Math.Log10(255.0 * 255 / (25 * 25)), 1e-9);
        ImageQuality.Psnr(black, black).ShouldBe(double.PositiveInfinity);
        Tensor edge = black.clone();
        edge.narrow(2, 0, 1).fill_(1);
        ImageQuality.Psnr(edge + 0.1, black, border: 1).ShouldBe(20, 1e-5);
        Should.Throw<EspalierException>(() => ImageQuality.Psnr(black, black, border: 2)).Message.ShouldContain("leaves nothing");
    }

    [Fact]
    public void Ssim_of_even_images_is_their_luminance_term()
    {
        using var scope = NewDisposeScope();
        Tensor image = full([1, 1, 12, 12], 0.25);
        // Variances are 0: (2·0.25·0.5 + 0.01²) / (0.25² + 0.5² + 0.01²)
        ImageQuality.Ssim(image, image * 2).ShouldBe(0.2501 / 0.3126, 1e-9);
        ImageQuality.Ssim(image, image).ShouldBe(1, 1e-12);
    }

    [Fact]
    public void Ssim_is_that_of_its_windows()
    {
        using var scope = NewDisposeScope();
        using Generator generator = new Seed(1).Generator("images");
        Tensor x = rand([1, 1, 12, 11], ScalarType.Float64, generator: generator), y = ((0.7 * x) + (0.3 * rand([1, 1, 12, 11], ScalarType.Float64, generator: generator))).clamp(0, 1);
        double sum = Window(x.flatten().data<double>().ToArray(), y.flatten().data<double>().ToArray(), 0) + Window(x.flatten().data<double>().ToArray(), y.flatten().data<double>().ToArray(), 1);
        ImageQuality.Ssim(x, y).ShouldBe(sum / 2, 1e-9);
    }

    [Fact]
    public void Accuracy_counts_images_by_class()
    {
        using var images = new ImageTensors("four", tensor(new byte[] { 255, 0, 0, 255, 255, 0, 255, 0 }).view(4, 2, 1, 1), tensor(new long[] { 0, 1, 1, 0 }));
        var batches = new ImageBatches(images, 3);
        ImageAccuracyResult result = ImageAccuracy.Evaluate(x => x.flatten(1), batches, 3);
        result.Top1.ShouldBe(75);
        result.ByClass.ShouldBe([100, 50, double.NaN]);
        result.Loss.ShouldBe(((3 * Math.Log(1 + Math.Exp(-1))) + Math.Log(1 + Math.E)) / 4, 1e-6);
        result.Images.ShouldBe(4);
        using VisionModel small = VisionModel.Random(VisionConfig.Parse("""{"model_type": "mlp", "num_classes": 1, "num_channels": 2, "image_size": 1}"""), new Seed(0));
        Should.Throw<EspalierException>(() => ImageAccuracy.Evaluate(small, images)).Message.ShouldContain("has class 1");
    }

    private static double Window(double[] x, double[] y, int top)
    {
        double total = 0, mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
        for (int i = 0; i < 11; i++)
        {
            for (int j = 0; j < 11; j++)
            {
                double w = Math.Exp(-(((i - 5) * (i - 5)) + ((j - 5) * (j - 5))) / 4.5), a = x[((top + i) * 11) + j], b = y[((top + i) * 11) + j];
                (total, mx, my, xx, yy, xy) = (total + w, mx + (w * a), my + (w * b), xx + (w * a * a), yy + (w * b * b), xy + (w * a * b));
            }
        }

        (mx, my) = (mx / total, my / total);
        (xx, yy, xy) = ((xx / total) - (mx * mx), (yy / total) - (my * my), (xy / total) - (mx * my));
        return ((2 * mx * my) + 1e-4) * ((2 * xy) + 9e-4) / (((mx * mx) + (my * my) + 1e-4) * (xx + yy + 9e-4));
    }
}
