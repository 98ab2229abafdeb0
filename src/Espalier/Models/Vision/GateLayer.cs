using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models.Vision;

/// <summary>
/// A gate behind convolution, norm and activation: a linear map of the convolution's pooled input says for each image which filters count; the output
/// of the others becomes zero. The choice carries no gradient.
/// </summary>
public sealed class GateLayer : VisionLayer
{
    private readonly GateConfig _config;
    private readonly int _side;

    internal GateLayer(ConvLayer convolution, VisionLayer output, GateConfig config, Device device)
        : base($"{convolution.Name}.gate", [convolution.Inputs[0], output], output.Shape)
    {
        (Convolution, _config) = (convolution, config);
        _side = config.Side(convolution.Inputs[0].Shape.Channels);
        Weight = Own("weight", device, output.Shape.Channels, convolution.Inputs[0].Shape.Channels * _side * _side);
        Bias = Own("bias", device, output.Shape.Channels);
    }

    /// <summary>The convolution whose filters it chooses.</summary>
    public ConvLayer Convolution { get; }

    /// <summary>The predictor's weight [filters, channels·d·d].</summary>
    public Parameter Weight { get; }

    /// <summary>The predictor's bias [filters].</summary>
    public Parameter Bias { get; }

    /// <summary>The side d of the grid that the input is pooled to.</summary>
    public int Side => _side;

    /// <summary>Whether the predictor reads the softmax of what was pooled.</summary>
    public bool Softmax => _config.Softmax;

    /// <summary>Whether at least one filter stays open.</summary>
    public bool KeepTop => _config.KeepTop;

    /// <summary>Multiply-accumulates of the predictor for one image. They do not count in <see cref="VisionLayer.Macs"/>: they come on top of what gates save.</summary>
    public long PredictorMacs => Weight.numel();

    /// <summary>Whether the gradient of a loss of the logits goes on to the layer's input. Default false.</summary>
    public bool Joint { get; set; }

    /// <summary>Chooses otherwise than by the predictor: from a reading without its choice to a mask [images, filters], without gradients; null for none.</summary>
    public Func<GateReading, Tensor>? Decision { get; set; }

    /// <summary>Sees every reading, within the graph of gradients. Must not keep its tensors; null for none.</summary>
    public Action<GateReading>? Observer { get; set; }

    /// <summary>What a predictor reads: the input pooled to d×d places, as one vector, softmaxed where wanted.</summary>
    /// <param name="input">[images, channels, height, width] or [images, channels].</param>
    /// <param name="side">The side d.</param>
    /// <param name="softmax">Whether the vector is softmaxed.</param>
    /// <returns>[images, channels·d·d], in the caller's scope.</returns>
    public static Tensor Pool(Tensor input, int side, bool softmax)
    {
        using var scope = NewDisposeScope();
        Tensor pooled = input.dim() == 2 ? input : (side == 1 ? input.mean([2, 3]) : nn.functional.adaptive_avg_pool2d(input, [side, side]).flatten(1));
        return (softmax ? pooled.softmax(1) : pooled.alias()).MoveToOuterDisposeScope();
    }

    /// <summary>The choice by logits: open where the logit is above 0, which is a probability above one half.</summary>
    /// <param name="logits">[images, filters].</param>
    /// <param name="keepTop">Whether the largest logit opens its filter where no logit is above 0.</param>
    /// <returns>1 or 0 [images, filters], float32, in the caller's scope.</returns>
    public static Tensor Choose(Tensor logits, bool keepTop)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor open = logits > 0;
        if (keepTop)
        {
            Tensor closed = open.any(1, keepdim: true).logical_not();
            Tensor top = zeros_like(open).scatter_(1, logits.argmax(1, keepdim: true), ones([logits.shape[0], 1], ScalarType.Bool, logits.device));
            open = open.logical_or(closed.logical_and(top));
        }

        return open.to(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <summary>The logits of an input, in the caller's scope.</summary>
    /// <param name="pooled">What <see cref="Pool"/> gave.</param>
    internal Tensor Logits(Tensor pooled) => nn.functional.linear(pooled, Weight, Bias);

    /// <summary>PyTorch's start of a convolution: uniform within 1 / √inputs.</summary>
    internal override void Initialize(Generator generator)
    {
        using var scope = NewDisposeScope();
        double bound = 1 / Math.Sqrt(Weight.shape[1]);
        Weight.copy_((rand(Weight.shape, generator: generator) * (2 * bound)) - bound);
        Bias.copy_((rand(Bias.shape, generator: generator) * (2 * bound)) - bound);
    }

    private protected override Tensor Compute(IReadOnlyList<Tensor> inputs, bool training)
    {
        using var scope = NewDisposeScope();
        Tensor logits = Logits(Pool(Joint ? inputs[0] : inputs[0].detach(), _side, Softmax));
        var reading = new GateReading(this, logits, inputs[1]);
        using (no_grad())
        {
            reading = reading with { Open = Decision?.Invoke(reading) ?? Choose(logits, KeepTop) };
        }

        Observer?.Invoke(reading);
        return (inputs[1] * reading.Open.unsqueeze(-1).unsqueeze(-1)).MoveToOuterDisposeScope();
    }
}

/// <summary>What a gate saw in one forward pass.</summary>
/// <param name="Gate">The gate.</param>
/// <param name="Logits">The predictor's logits [images, filters].</param>
/// <param name="Activation">The map before it is gated [images, filters, height, width].</param>
public sealed record GateReading(GateLayer Gate, Tensor Logits, Tensor Activation)
{
    /// <summary>What the gate chose: 1 or 0 [images, filters].</summary>
    public Tensor Open { get; init; } = null!;
}
