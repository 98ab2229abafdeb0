using static TorchSharp.torch;

namespace Espalier.Runtime;

/// <summary>A convolution of square images in float32 held against the same in float64, which libtorch computes by itself.</summary>
/// <param name="Inputs">Channels that go in.</param>
/// <param name="Outputs">Channels that come out.</param>
/// <param name="Kernel">The side of the kernel; images are padded by half of it.</param>
/// <param name="Stride">The step. Default 1.</param>
/// <param name="Groups">The groups of channels. Default 1.</param>
/// <param name="Side">The side of the images. Default 9.</param>
/// <param name="Batch">How many images. Default 4.</param>
public sealed record ConvolutionCheck(int Inputs, int Outputs, int Kernel, int Stride = 1, int Groups = 1, int Side = 9, int Batch = 4)
{
    /// <summary>The error up to which float32 counts as right.</summary>
    public const double Tolerance = 1e-4;

    /// <summary>The largest difference of outputs and of both gradients, each relative to the largest exact value; infinite where something is no number.</summary>
    public double Error()
    {
        using var scope = NewDisposeScope();
        using Generator generator = new Seed(3).Generator("convolution");
        Tensor x = randn([Batch, Inputs, Side, Side], dtype: ScalarType.Float64, generator: generator);
        Tensor w = randn([Outputs, Inputs / Groups, Kernel, Kernel], dtype: ScalarType.Float64, generator: generator);
        return Run(x, w).Zip(Run(x.to(ScalarType.Float32), w.to(ScalarType.Float32))).Max(p =>
            ((p.Second.to(ScalarType.Float64) - p.First).abs().max() / p.First.abs().max()).item<double>() is var error && double.IsNaN(error) ? double.PositiveInfinity : error);
    }

    /// <summary>The convolution itself.</summary>
    /// <param name="x">Images, [batch, inputs, side, side].</param>
    /// <param name="w">Weights, [outputs, inputs / groups, kernel, kernel].</param>
    public Tensor Of(Tensor x, Tensor w) => nn.functional.conv2d(x, w, padding: [Kernel / 2, Kernel / 2], strides: [Stride, Stride], groups: Groups);

    private Tensor[] Run(Tensor x, Tensor w)
    {
        (Tensor input, Tensor weight) = (x.detach().clone().requires_grad_(), w.detach().clone().requires_grad_());
        Tensor y = Of(input, weight);
        y.square().sum().backward();
        return [y.detach(), input.grad!, weight.grad!];
    }
}
