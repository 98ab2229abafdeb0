using Espalier.Models;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>The four maps of a pyramid, by the pixels of the image that one of theirs stands for when patches have 16.</summary>
/// <param name="P4">[B, C, 4h, 4w].</param>
/// <param name="P8">[B, C, 2h, 2w].</param>
/// <param name="P16">[B, C, h, w].</param>
/// <param name="P32">[B, C, ⌊h/2⌋, ⌊w/2⌋].</param>
public sealed record PyramidMaps(Tensor P4, Tensor P8, Tensor P16, Tensor P32);

/// <summary>Step 8, LL-FPN: all scales of a feature pyramid made from the last block alone.</summary>
public sealed class LastLayerPyramid : IDisposable
{
    /// <summary>Values [C, C, 2, 2] and [C] of the transposed convolutions (in, out, height, width) and of the norm between the first two.</summary>
    public Parameter FirstUp { get; }

    /// <summary>The bias of <see cref="FirstUp"/>.</summary>
    public Parameter FirstBias { get; }

    /// <summary>γ of the norm.</summary>
    public Parameter NormWeight { get; }

    /// <summary>β of the norm.</summary>
    public Parameter NormBias { get; }

    /// <summary>The second transposed convolution of P4.</summary>
    public Parameter SecondUp { get; }

    /// <summary>Its bias.</summary>
    public Parameter SecondBias { get; }

    /// <summary>The transposed convolution of P8.</summary>
    public Parameter OnlyUp { get; }

    /// <summary>Its bias.</summary>
    public Parameter OnlyBias { get; }

    private readonly Tensor _mean, _variance;

    /// <summary>Makes a pyramid with random values, uniform within 1/√(4C) as transposed convolutions start.</summary>
    /// <param name="channels">C.</param>
    /// <param name="seed">Of the values.</param>
    public LastLayerPyramid(long channels, Seed seed)
    {
        using var scope = NewDisposeScope();
        using Generator generator = seed.Generator("pyramid");
        double bound = 1 / Math.Sqrt(4 * channels);
        (FirstUp, FirstBias, SecondUp, SecondBias, OnlyUp, OnlyBias) = (Uniform(channels, channels, 2, 2), Uniform(channels), Uniform(channels, channels, 2, 2), Uniform(channels), Uniform(channels, channels, 2, 2), Uniform(channels));
        (NormWeight, NormBias) = (Parameters.Of(ones(channels)), Parameters.Of(zeros(channels)));
        (_mean, _variance) = (zeros(channels).DetachFromDisposeScope(), ones(channels).DetachFromDisposeScope());

        Parameter Uniform(params long[] shape) => Parameters.Of((rand(shape, generator: generator) * 2 * bound) - bound);
    }

    /// <summary>Everything that is trained, by name.</summary>
    public IReadOnlyList<(string Name, Parameter Value)> Trainable =>
        [("fpn1.0.weight", FirstUp), ("fpn1.0.bias", FirstBias), ("fpn1.1.weight", NormWeight), ("fpn1.1.bias", NormBias), ("fpn1.3.weight", SecondUp), ("fpn1.3.bias", SecondBias), ("fpn2.0.weight", OnlyUp), ("fpn2.0.bias", OnlyBias)];

    /// <summary>The norm's running statistics.</summary>
    public IReadOnlyList<(string Name, Tensor Value)> Buffers => [("fpn1.1.running_mean", _mean), ("fpn1.1.running_var", _variance)];

    /// <summary>The pyramid of tokens.</summary>
    /// <param name="tokens">[B, 1 + h·w, C]: a class token, which is dropped, and the patches row by row.</param>
    /// <param name="height">h.</param>
    /// <param name="width">w.</param>
    /// <param name="training">Norms by the batch's statistics, which move the running ones; else by the running ones.</param>
    public PyramidMaps Maps(Tensor tokens, long height, long width, bool training) =>
        Maps(tokens, height, width, FirstUp, FirstBias, x => nn.functional.batch_norm(x, _mean, _variance, NormWeight, NormBias, training), SecondUp, SecondBias, OnlyUp, OnlyBias);

    /// <summary>The same with given tensors: P4 = up → norm → GELU → up, P8 = up, P16 the map itself, P32 its maxima.</summary>
    internal static PyramidMaps Maps(Tensor tokens, long height, long width, Tensor firstUp, Tensor firstBias, Func<Tensor, Tensor> norm, Tensor secondUp, Tensor secondBias, Tensor onlyUp, Tensor onlyBias)
    {
        EspalierException.Require(tokens.dim() == 3 && tokens.shape[1] == 1 + (height * width),
            $"A map of {height}×{width} comes from {1 + (height * width)} tokens, the class token first, not from [{string.Join(", ", tokens.shape)}].");
        using var scope = NewDisposeScope();
        Tensor map = tokens.narrow(1, 1, height * width).transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], height, width);
        Tensor p4 = Up(nn.functional.gelu(norm(Up(map, firstUp, firstBias))), secondUp, secondBias);
        Tensor p8 = Up(map, onlyUp, onlyBias), p32 = nn.functional.max_pool2d(map, [2, 2], [2, 2]);
        return new PyramidMaps(p4.MoveToOuterDisposeScope(), p8.MoveToOuterDisposeScope(), map.MoveToOuterDisposeScope(), p32.MoveToOuterDisposeScope());

        static Tensor Up(Tensor x, Tensor weight, Tensor bias) => nn.functional.conv_transpose2d(x, weight, bias, strides: [2, 2]);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((_, Parameter value) in Trainable)
        {
            value.Dispose();
        }

        _mean.Dispose();
        _variance.Dispose();
    }
}
