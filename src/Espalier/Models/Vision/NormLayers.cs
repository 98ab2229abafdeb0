using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models.Vision;

/// <summary>Batch normalisation of a feature map (Ioffe and Szegedy 2015): by the batch's statistics in training, else by the running ones.</summary>
public sealed class BatchNormLayer : VisionLayer
{
    internal BatchNormLayer(string name, VisionLayer input, Device device)
        : base(name, [input], input.Shape)
    {
        long channels = input.Shape.Channels;
        (Weight, Bias) = (Own("weight", device, channels), Own("bias", device, channels));
        (RunningMean, RunningVariance) = (OwnBuffer("running_mean", device, channels), OwnBuffer("running_var", device, channels));
        using var scope = NewDisposeScope();
        RunningVariance.fill_(1);
    }

    /// <summary>The scale γ [channels].</summary>
    public Parameter Weight { get; }

    /// <summary>The shift β [channels].</summary>
    public Parameter Bias { get; }

    /// <summary>The running mean [channels].</summary>
    public Tensor RunningMean { get; }

    /// <summary>The running variance [channels]; batches enter it unbiased.</summary>
    public Tensor RunningVariance { get; }

    /// <summary>The share of the newest batch in the running statistics. Default 0.1.</summary>
    public double Momentum { get; set; } = 0.1;

    /// <summary>Added to the variance.</summary>
    public const double Epsilon = 1e-5;

    internal override void Initialize(Generator generator)
    {
        Weight.fill_(1);
        Bias.zero_();
    }

    private protected override Tensor Compute(IReadOnlyList<Tensor> inputs, bool training) =>
        nn.functional.batch_norm(inputs[0], RunningMean, RunningVariance, Weight, Bias, training, Momentum, Epsilon);
}

/// <summary>Layer normalisation of every token.</summary>
public sealed class LayerNormLayer : VisionLayer
{
    /// <summary>Added to the variance, as in every ViT of timm.</summary>
    public const double Epsilon = 1e-6;

    internal LayerNormLayer(string name, VisionLayer input, Device device)
        : base(name, [input], input.Shape)
    {
        (Weight, Bias) = (Own("weight", device, input.Shape.Channels), Own("bias", device, input.Shape.Channels));
    }

    /// <summary>The scale [features].</summary>
    public Parameter Weight { get; }

    /// <summary>The shift [features].</summary>
    public Parameter Bias { get; }

    internal override void Initialize(Generator generator)
    {
        Weight.fill_(1);
        Bias.zero_();
    }

    private protected override Tensor Compute(IReadOnlyList<Tensor> inputs, bool training) =>
        nn.functional.layer_norm(inputs[0], [Shape.Channels], Weight, Bias, Epsilon);
}
