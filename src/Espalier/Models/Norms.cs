using Espalier.Models.Decoding;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>Root-mean-square normalisation (Zhang and Sennrich 2019): x / sqrt(mean(x²) + ε) ⊙ w, over the last axis.</summary>
public sealed class RmsNorm : nn.Module<Tensor, Tensor>
{
    private readonly double epsilon;

    /// <summary>The gain [features].</summary>
    public Parameter weight;

    /// <summary>Makes a norm whose gain holds no values yet.</summary>
    /// <param name="features">The width that is normalised.</param>
    /// <param name="epsilon">Added to the mean square.</param>
    /// <param name="placement">Where its gain lives.</param>
    public RmsNorm(long features, double epsilon, Placement placement)
        : base(nameof(RmsNorm))
    {
        this.epsilon = epsilon;
        weight = Parameters.Empty([features], placement.Type, placement.Device);
        register_parameter(nameof(weight), weight);
    }

    /// <summary>x [..., features] to the same shape.</summary>
    public override Tensor forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        // The statistics are taken in float32 whatever the model is kept in: squares overflow float16.
        Tensor wide = x.to(ScalarType.Float32);
        Tensor scaled = wide * (wide.square().mean([-1], keepdim: true) + epsilon).rsqrt();
        return (scaled.to(x.dtype) * weight).MoveToOuterDisposeScope();
    }

    /// <summary>One vector, or several of the norm's width.</summary>
    internal void Step(ReadOnlySpan<float> x, Span<float> y)
    {
        ReadOnlySpan<float> gain = StepMath.Numbers(weight);
        for (int i = 0; i < x.Length; i += gain.Length)
        {
            StepMath.RmsNorm(x.Slice(i, gain.Length), gain, epsilon, y.Slice(i, gain.Length));
        }
    }
}

/// <summary>Layer normalisation (Ba et al. 2016) over the last axis, with or without gain and shift.</summary>
public sealed class LayerNorm : nn.Module<Tensor, Tensor>
{
    private readonly double epsilon;
    private readonly long features;

    /// <summary>The gain [features]; null where the norm is not affine.</summary>
    public Parameter? weight;

    /// <summary>The shift [features]; null where the norm is not affine.</summary>
    public Parameter? bias;

    /// <summary>Makes a norm whose parameters hold no values yet.</summary>
    /// <param name="features">The width that is normalised.</param>
    /// <param name="epsilon">Added to the variance.</param>
    /// <param name="affine">Whether it has gain and shift.</param>
    /// <param name="placement">Where its parameters live.</param>
    public LayerNorm(long features, double epsilon, bool affine, Placement placement)
        : base(nameof(LayerNorm))
    {
        (this.features, this.epsilon) = (features, epsilon);
        if (affine)
        {
            weight = Parameters.Empty([features], placement.Type, placement.Device);
            bias = Parameters.Empty([features], placement.Type, placement.Device);
            register_parameter(nameof(weight), weight);
            register_parameter(nameof(bias), bias);
        }
    }

    /// <summary>x [..., features] to the same shape.</summary>
    public override Tensor forward(Tensor x) => nn.functional.layer_norm(x, [features], weight, bias, epsilon);

    /// <summary>One vector.</summary>
    internal void Step(ReadOnlySpan<float> x, Span<float> y) =>
        StepMath.LayerNorm(x, weight is null ? [] : StepMath.Numbers(weight), bias is null ? [] : StepMath.Numbers(bias), epsilon, y);
}
