using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Sparsity;

/// <summary>
/// The one calibration pass: accumulates over sequences what criteria and repairs ask of a layer's inputs.
/// Layers that read the same input share one instance.
/// </summary>
/// <remarks>Not safe for several threads. Memory: in² floats with <see cref="CalibrationNeeds.Hessian"/>, else a few rows.</remarks>
public sealed class LayerStatistics : IDisposable
{
    private readonly CalibrationNeeds _needs;
    private readonly long _width;
    private Tensor? _squares;   // Σ x² [in], float64
    private Tensor? _sums;      // Σ x [in], float64
    private Tensor? _between;   // Σ over sequences of T·mean² [in], float64
    private Tensor? _gram;      // Σ x xᵀ [in, in], float32
    private bool _scaled;
    private long _sequences;
    private long _tokens;

    /// <summary>Prepares for inputs of one width.</summary>
    /// <param name="needs">What to collect.</param>
    /// <param name="width">The number of inputs of the layer.</param>
    /// <param name="device">Where the inputs live.</param>
    public LayerStatistics(CalibrationNeeds needs, long width, Device device)
    {
        (_needs, _width) = (needs, width);
        if ((needs & (CalibrationNeeds.InputNorms | CalibrationNeeds.InputMoments)) != 0)
        {
            _squares = zeros(width, ScalarType.Float64, device).DetachFromDisposeScope();
        }

        if (needs.HasFlag(CalibrationNeeds.InputMoments))
        {
            _sums = zeros(width, ScalarType.Float64, device).DetachFromDisposeScope();
            _between = zeros(width, ScalarType.Float64, device).DetachFromDisposeScope();
        }

        if (needs.HasFlag(CalibrationNeeds.Hessian))
        {
            _gram = zeros([width, width], ScalarType.Float32, device).DetachFromDisposeScope();
        }
    }

    /// <summary>How many sequences were seen.</summary>
    public long Sequences => _sequences;

    /// <summary>Adds the inputs of whole sequences.</summary>
    /// <param name="x">Inputs [sequences, tokens, in] (or [tokens, in]: one sequence).</param>
    /// <exception cref="EspalierException">When an input is not finite.</exception>
    public void Observe(Tensor x)
    {
        EspalierException.Require(!_scaled, "The statistics of a layer were already read; sequences cannot be added any more.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        _sequences += x.dim() == 2 ? 1 : x.shape[0];
        Tensor rows = x.reshape(-1, _width).to(ScalarType.Float32); // [sequences·tokens, in]
        _tokens += rows.shape[0];
        Tensor squares = rows.pow(2).sum(0, type: ScalarType.Float64);
        EspalierException.Require(squares.isfinite().all().item<bool>(),
            "A calibration activation is not a finite number; the model itself overflows or holds NaN, so no importance can be computed from it.");
        _squares?.add_(squares);
        if (_sums is not null)
        {
            Tensor perSequence = rows.reshape(x.dim() == 2 ? 1 : x.shape[0], -1, _width).sum(1, type: ScalarType.Float64); // [sequences, in]
            _sums.add_(perSequence.sum(0, type: ScalarType.Float64));
            _between!.add_(perSequence.pow(2).sum(0, type: ScalarType.Float64) / x.shape[^2]);
        }

        _gram?.addmm_(rows.t(), rows);
    }

    /// <summary>Hands the collected figures to the parts of a plan. The Hessian lives as long as these statistics; the rest in the caller's scope.</summary>
    /// <param name="name">The weight's name.</param>
    /// <param name="weight">The dense weight [out, in], float32.</param>
    /// <param name="seed">The plan's seed.</param>
    /// <exception cref="EspalierException">When no sequence was seen though figures were asked for.</exception>
    public LayerContext Context(string name, Tensor weight, Seed seed = default)
    {
        EspalierException.Require(_sequences > 0 || _needs is CalibrationNeeds.None, $"No calibration sequence reached {name}; the calibration data is empty.");
        using var scope = NewDisposeScope();
        Tensor? mean = _sums is null ? null : _sums / _tokens;
        Tensor? variance = mean is null ? null : ((_squares! / _tokens) - mean.pow(2)).clamp_min(0);
        return new LayerContext
        {
            Name = name,
            Weight = weight,
            Seed = seed,
            InputNorms = _needs.HasFlag(CalibrationNeeds.InputNorms) ? (_squares! / _sequences).to(ScalarType.Float32).MoveToOuterDisposeScope() : null,
            Hessian = Hessian(),
            InputMean = mean?.to(ScalarType.Float32).MoveToOuterDisposeScope(),
            InputVariance = variance?.to(ScalarType.Float32).MoveToOuterDisposeScope(),
            WithinVariance = _between is null ? null : ((_squares! - _between) / _tokens).clamp_min(0).to(ScalarType.Float32).MoveToOuterDisposeScope(),
            TokensPerSequence = _sequences == 0 ? 0 : (double)_tokens / _sequences,
        };
    }

    // Scaled in place on first use: a second matrix of in² would be the largest thing in memory.
    private Tensor? Hessian()
    {
        if (_gram is not null && !_scaled)
        {
            _gram.mul_(2.0 / _sequences);
            _scaled = true;
        }

        return _gram;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _squares?.Dispose();
        _sums?.Dispose();
        _between?.Dispose();
        _gram?.Dispose();
        (_squares, _sums, _between, _gram) = (null, null, null, null);
    }
}
