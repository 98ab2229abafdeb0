using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>
/// A gated feed-forward part that computes active neurons only: the gate in full, then the rows of W1 and the columns of
/// W2 of neurons whose gate is open. The result is that of the dense part.
/// </summary>
/// <remarks>Of 3·D·F multiplications D·F + 2·(1 − sparsity)·D·F remain: the gate stays dense. Holds W2 transposed, so that a neuron is one row.</remarks>
public sealed class SparseFeedForward : IDisposable
{
    private readonly Tensor _Ws, _W1, _W2T; // [F, D] each
    private readonly double _threshold;
    private readonly bool _strict;

    /// <summary>Takes the weights over by copy, float32, on the CPU.</summary>
    /// <param name="Ws">The gate [F, D].</param>
    /// <param name="W1">[F, D].</param>
    /// <param name="W2">[D, F].</param>
    /// <param name="activation">ReLU or the thresholded ReLU.</param>
    /// <param name="threshold">t of the thresholded ReLU.</param>
    /// <exception cref="EspalierException">For SiLU, which has no zeros to skip, or weights that do not fit together.</exception>
    public SparseFeedForward(Tensor Ws, Tensor W1, Tensor W2, FeedForwardActivation activation = FeedForwardActivation.Relu, double threshold = 0)
    {
        EspalierException.Require(activation is not FeedForwardActivation.Silu,
            "SiLU is zero nowhere, so there is nothing to skip and a sparse feed-forward part would be wrong; train the model with ReLU first (ProSparse), or run it dense.");
        EspalierException.Require(Ws.dim() == 2 && Ws.shape.AsSpan().SequenceEqual(W1.shape) && W2.shape.AsSpan().SequenceEqual([Ws.shape[1], Ws.shape[0]]),
            $"The gate [{string.Join(", ", Ws.shape)}], W1 [{string.Join(", ", W1.shape)}] and W2 [{string.Join(", ", W2.shape)}] do not make one feed-forward part.");
        ProSparse.RequireThreshold(threshold);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        _Ws = Ws.detach().to(ScalarType.Float32, CPU).contiguous().clone().DetachFromDisposeScope();
        _W1 = W1.detach().to(ScalarType.Float32, CPU).contiguous().clone().DetachFromDisposeScope();
        _W2T = W2.detach().to(ScalarType.Float32, CPU).t().contiguous().clone().DetachFromDisposeScope();
        (_threshold, _strict) = activation is FeedForwardActivation.Relu ? (0, true) : (threshold, threshold == 0);
    }

    /// <summary>y [N, D] of X [N, D], float32; no gradient.</summary>
    public Tensor Forward(Tensor X)
    {
        EspalierException.Require(X.dim() == 2 && X.shape[1] == _Ws.shape[1], $"The input is [{string.Join(", ", X.shape)}]; the feed-forward part takes [tokens, {_Ws.shape[1]}].");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor x = X.detach().to(ScalarType.Float32).contiguous();
        Tensor z = nn.functional.linear(x, _Ws), y = zeros_like(x);

        // A gate of exactly 0 adds nothing, open or not.
        ActiveNeurons.Accumulate(z, (float)_threshold, !_strict, _W1, _W2T, x, y);
        return y.MoveToOuterDisposeScope();
    }

    /// <summary>Multiply-adds of the dense part and of the sparse one for these inputs.</summary>
    /// <param name="X">[N, D].</param>
    public (long Dense, long Sparse) MultiplyAdds(Tensor X)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor z = nn.functional.linear(X.detach().to(ScalarType.Float32), _Ws);
        long open = (_strict ? z.gt(0) : z.ge(_threshold)).sum().item<long>();
        return (3 * X.shape[0] * _Ws.numel(), X.shape[0] * _Ws.numel() + 2 * open * _Ws.shape[1]);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _Ws.Dispose();
        _W1.Dispose();
        _W2T.Dispose();
    }
}
