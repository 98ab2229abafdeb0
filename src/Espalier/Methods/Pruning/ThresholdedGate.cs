using Espalier.Models;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>
/// Moves the threshold of a ReLU model from 0 up to t: the gate's outputs below t become 0 before the model's own ReLU
/// sees them, which together is the thresholded ReLU. Attach it to the gate map of every feed-forward part.
/// </summary>
/// <remarks>Not trained, and not part of the weight: <see cref="Merge"/> gives the weight as it is.</remarks>
public sealed class ThresholdedGate : ILinearAdapter
{
    private readonly double _threshold;

    /// <summary>Makes one.</summary>
    /// <param name="threshold">t, 0 or more.</param>
    public ThresholdedGate(double threshold)
    {
        ProSparse.RequireThreshold(threshold);
        _threshold = threshold;
    }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Parameter Value)> Parameters => [];

    /// <inheritdoc/>
    public Tensor Forward(Tensor x, Tensor matrix, Tensor? bias)
    {
        using Tensor z = nn.functional.linear(x, matrix, bias);
        return ProSparse.Activate(z, FeedForwardActivation.FatRelu, _threshold);
    }

    /// <inheritdoc/>
    public Tensor Merge(Tensor matrix) => matrix.clone();

    /// <inheritdoc/>
    public void Dispose()
    {
    }
}
