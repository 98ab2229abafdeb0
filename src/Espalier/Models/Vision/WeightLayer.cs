using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models.Vision;

/// <summary>A convolution or a linear map: what masks, criteria and pruners work on.</summary>
public abstract class WeightLayer : VisionLayer
{
    private readonly double _gain;

    private protected WeightLayer(string name, VisionLayer input, FeatureShape shape, long[] weight, bool bias, double gain, Device device)
        : base(name, [input], shape)
    {
        _gain = gain;
        Weight = Own("weight", device, weight);
        Bias = bias ? Own("bias", device, weight[0]) : null;
    }

    /// <summary>The weight as it is stored: [out, in, k, k] or [out, in].</summary>
    public Parameter Weight { get; }

    /// <summary>The bias [out], or null.</summary>
    public Parameter? Bias { get; }

    /// <summary>The weight's checkpoint name.</summary>
    public string WeightName => $"{Name}.weight";

    /// <summary>Output channels or features: the rows of <see cref="Matrix"/>.</summary>
    public long Rows => Weight.shape[0];

    /// <summary>Weights per output: the columns of <see cref="Matrix"/>, in·k·k of a convolution.</summary>
    public long Columns => Weight.numel() / Rows;

    /// <summary>The weight as [out, in·k·k]: a view that shares its memory and gradient; the caller's scope disposes it.</summary>
    public Tensor Matrix => Weight.view(Rows, -1);

    /// <inheritdoc/>
    public override long Macs => Weight.numel() * Shape.Positions;

    /// <summary>
    /// Makes the weight that is used from the stored one, at every forward pass and within the gradient's graph (masked, faded
    /// or straight-through weights); the result has the stored shape. Null uses the weight as it is.
    /// </summary>
    public Func<Tensor, Tensor>? WeightChange { get; set; }

    /// <summary>A trainable change of this layer; null for none. It sees a convolution's weight as <see cref="Matrix"/>. Whoever attaches it disposes it.</summary>
    public ILinearAdapter? Adapter { get; set; }

    /// <summary>Overwrites the weight, outside any gradient.</summary>
    /// <param name="matrix">The new weight [out, in·k·k].</param>
    /// <exception cref="ArgumentException">When the shape differs.</exception>
    public void SetMatrix(Tensor matrix)
    {
        if (matrix.dim() != 2 || matrix.shape[0] != Rows || matrix.shape[1] != Columns)
        {
            throw new ArgumentException($"The matrix is [{string.Join(", ", matrix.shape)}], the layer {Name} needs [{Rows}, {Columns}].", nameof(matrix));
        }

        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Matrix.copy_(matrix);
    }

    /// <summary>The input as the rows that <see cref="Matrix"/> multiplies: what <c>LayerStatistics</c> takes, an image being a sequence.</summary>
    /// <param name="input">The layer's input [images, …].</param>
    /// <returns>[images, positions, in·k·k], in the caller's scope.</returns>
    public abstract Tensor Patches(Tensor input);

    /// <summary>He's start: normal with variance gain / inputs; biases 0.</summary>
    internal override void Initialize(Generator generator)
    {
        Normal(Weight, Math.Sqrt(_gain / Columns), generator);
        Bias?.zero_();
    }

    private protected abstract Tensor Multiply(Tensor input, Tensor weight);

    /// <summary>The adapted layer; a convolution needs the whole weight.</summary>
    private protected virtual Tensor Adapted(Tensor input, Tensor weight, ILinearAdapter adapter) =>
        Multiply(input, adapter.Weight(weight.view(Rows, -1)).view(weight.shape));

    private protected sealed override Tensor Compute(IReadOnlyList<Tensor> inputs, bool training)
    {
        if (Adapter is null)
        {
            return Multiply(inputs[0], WeightChange?.Invoke(Weight) ?? Weight);
        }

        using var scope = NewDisposeScope();
        return Adapted(inputs[0], WeightChange?.Invoke(Weight) ?? Weight, Adapter).MoveToOuterDisposeScope();
    }
}

/// <summary>A square convolution over all input channels.</summary>
public sealed class ConvLayer : WeightLayer
{
    internal ConvLayer(string name, VisionLayer input, long channels, int kernel, int stride, int padding, bool bias, double gain, Device device)
        : base(name, input, ShapeOf(input.Shape, channels, kernel, stride, padding), [channels, input.Shape.Channels, kernel, kernel], bias, gain, device)
    {
        (Kernel, Stride, Padding) = (kernel, stride, padding);
    }

    /// <summary>The side of the filters.</summary>
    public int Kernel { get; }

    /// <summary>The step between places.</summary>
    public int Stride { get; }

    /// <summary>Zeros around the input.</summary>
    public int Padding { get; }

    /// <inheritdoc/>
    public override Tensor Patches(Tensor input)
    {
        using var scope = NewDisposeScope();
        return nn.functional.unfold(input, Kernel, padding: Padding, stride: Stride).transpose(1, 2).MoveToOuterDisposeScope();
    }

    private protected override Tensor Multiply(Tensor input, Tensor weight) =>
        nn.functional.conv2d(input, weight, Bias, strides: [Stride, Stride], padding: [Padding, Padding]);

    private static FeatureShape ShapeOf(FeatureShape input, long channels, int kernel, int stride, int padding) => new(
        channels, ((input.Height + (2 * padding) - kernel) / stride) + 1, ((input.Width + (2 * padding) - kernel) / stride) + 1);
}

/// <summary>A linear map of a vector or of every token.</summary>
public sealed class LinearLayer : WeightLayer
{
    internal LinearLayer(string name, VisionLayer input, long features, double gain, Device device)
        : base(name, input, input.Shape with { Channels = features }, [features, input.Shape.Channels], bias: true, gain, device)
    {
    }

    /// <inheritdoc/>
    public override Tensor Patches(Tensor input) => input.dim() == 2 ? input.unsqueeze(1) : input.alias();

    private protected override Tensor Multiply(Tensor input, Tensor weight) => nn.functional.linear(input, weight, Bias);

    private protected override Tensor Adapted(Tensor input, Tensor weight, ILinearAdapter adapter) => adapter.Forward(input, weight, Bias);
}
