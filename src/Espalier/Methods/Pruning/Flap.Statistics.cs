using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What FLAP knows of the inputs of a linear map, each [C], float32.</summary>
/// <param name="Baseline">mean_j over all windows.</param>
/// <param name="Fluctuation">f_j, around the running mean; 0 after one window.</param>
/// <param name="Scaler">s_j: the mean over windows of ‖x_j‖².</param>
/// <param name="Windows">How many windows were seen.</param>
public sealed record FlapStatistics(Tensor Baseline, Tensor Fluctuation, Tensor Scaler, long Windows);

/// <summary>
/// Collects <see cref="FlapStatistics"/> over calibration windows, one after the other: the fluctuation depends on their order.
/// </summary>
/// <remarks>
/// With k windows seen before: mean ← mean·k/(k+1) + mean_t(x)/(k+1), then f ← f·(k−1)/k + Σ_t (x_t − mean)²/(k+1). The
/// published formula means one factor of the square to hold the old mean; its code updates the mean in place, so that both
/// hold the new one, and the published results are of the code. Not safe for several threads.
/// </remarks>
public sealed class FlapAccumulator : IUnitWatch
{
    private readonly long _width;
    private readonly Tensor _mean;        // [C], float64
    private readonly Tensor _fluctuation; // [C], float64
    private readonly Tensor _scaler;      // [C], float64

    /// <summary>Prepares for inputs of one width.</summary>
    /// <param name="width">C.</param>
    /// <param name="device">Where the inputs live; null is the CPU.</param>
    public FlapAccumulator(long width, Device? device = null)
    {
        _width = width;
        (_mean, _fluctuation, _scaler) = (Zeros(), Zeros(), Zeros());

        Tensor Zeros() => zeros(width, ScalarType.Float64, device ?? CPU).DetachFromDisposeScope();
    }

    /// <summary>How many windows were seen.</summary>
    public long Windows { get; private set; }

    /// <summary>Adds windows in order.</summary>
    /// <param name="X">[windows, tokens, C], or [tokens, C]: one window.</param>
    /// <exception cref="EspalierException">For another width, no tokens, or values that are not finite.</exception>
    public void Observe(Tensor X)
    {
        EspalierException.Require(X.dim() is 2 or 3 && X.shape[^1] == _width && X.shape[^2] > 0,
            $"FLAP's statistics need inputs of the shape [windows, tokens, {_width}], not [{string.Join(", ", X.shape)}].");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor windows = X.detach().reshape(-1, X.shape[^2], _width);
        for (long n = 0; n < windows.shape[0]; n++)
        {
            using var one = NewDisposeScope();
            Tensor x = windows[n].to(ScalarType.Float64); // [T, C]
            double k = Windows;
            Tensor squares = x.pow(2).sum([0]);
            EspalierException.Require(squares.isfinite().all().item<bool>(), "A calibration activation is not a finite number; the model itself overflows or holds NaN.");
            _mean.mul_(k / (k + 1)).add_(x.mean([0]) / (k + 1));
            _scaler.mul_(k / (k + 1)).add_(squares / (k + 1));
            if (k > 0)
            {
                _fluctuation.mul_((k - 1) / k).add_((x - _mean).pow(2).sum([0]) / (k + 1));
            }

            Windows++;
        }
    }

    /// <summary>The figures so far; new tensors in the caller's scope.</summary>
    public FlapStatistics Figures() =>
        new(_mean.to(ScalarType.Float32), _fluctuation.to(ScalarType.Float32), _scaler.to(ScalarType.Float32), Windows);

    /// <inheritdoc/>
    public void Dispose()
    {
        _mean.Dispose();
        _fluctuation.Dispose();
        _scaler.Dispose();
    }
}
