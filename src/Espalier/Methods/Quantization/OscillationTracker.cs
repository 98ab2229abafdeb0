using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

/// <summary>Step 6: how often integer weights turn back. A weight oscillates when it moves opposite to its last move.</summary>
/// <param name="momentum">μ of both moving means. Default 0.01.</param>
/// <param name="freezeThreshold">Weights that oscillate more than this are frozen at the mean of their levels (iterative freezing); 0 freezes none.</param>
/// <param name="useMean">Frozen weights take the rounded moving mean; false the present level.</param>
public sealed class OscillationTracker(double momentum = 0.01, double freezeThreshold = 0, bool useMean = true) : IDisposable
{
    private Tensor? _previous, _direction, _rate, _total, _mean, _frozen, _frozenValue;

    /// <summary>Weights that it follows; 0 before the first call.</summary>
    public long Count => _previous?.numel() ?? 0;

    /// <summary>The moving mean of oscillations of each weight, or null before the first call. It belongs to this object.</summary>
    public Tensor? Rate => _rate;

    /// <summary>How often each weight has oscillated. It belongs to this object.</summary>
    public Tensor? Total => _total;

    /// <summary>Which weights are frozen (bool). It belongs to this object.</summary>
    public Tensor? Frozen => _frozen;

    /// <summary>Oscillations in the last call, over all weights.</summary>
    public long LastEvents { get; private set; }

    /// <summary>The share of weights whose moving mean is above a bound: the curve to plot.</summary>
    /// <param name="bound">0.005 is customary.</param>
    public double ShareAbove(double bound)
    {
        using var scope = NewDisposeScope();
        return _rate is null ? 0 : _rate.gt(bound).to(ScalarType.Float64).mean().item<double>();
    }

    /// <summary>Takes the levels of the present step in.</summary>
    /// <param name="levels">Whole numbers, the same shape at every call.</param>
    /// <returns>The levels, with frozen ones at their frozen value: freezing acts from the call after it was decided on. In the caller's scope.</returns>
    public Tensor Observe(Tensor levels)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor x = levels.detach();
        if (_previous is null)
        {
            (_previous, _direction, _rate, _total, _mean) = (Own(x.clone()), Own(zeros_like(x)), Own(zeros_like(x)), Own(zeros_like(x)), Own(x.clone()));
            (_frozen, _frozenValue) = (Own(zeros_like(x, ScalarType.Bool)), Own(zeros_like(x)));
        }

        x = where(_frozen!, _frozenValue!, x);
        Tensor direction = (_previous - x).sign();
        Tensor oscillated = (direction * _direction!).eq(-1).to(x.dtype);
        LastEvents = oscillated.count_nonzero().item<long>();
        _rate!.mul_(1 - momentum).add_(oscillated * momentum);
        _total!.add_(oscillated);
        _direction!.copy_(where(direction.ne(0), direction, _direction));
        _previous.copy_(x);
        if (freezeThreshold > 0)
        {
            Tensor now = _rate.gt(freezeThreshold);
            _frozenValue!.copy_(where(now, useMean ? _mean!.round() : x, _frozenValue));
            _frozen!.logical_or_(now);
        }

        _mean!.mul_(1 - momentum).add_(x * momentum);
        return x.MoveToOuterDisposeScope();
    }

    /// <summary>Everything it must have again to go on; the tensors stay its own. Nothing before the first call.</summary>
    public IReadOnlyList<(string Name, Tensor Value)> SaveState() => _previous is null
        ? []
        : [("previous", _previous), ("direction", _direction!), ("rate", _rate!), ("total", _total!), ("mean", _mean!), ("frozen", _frozen!), ("frozen_value", _frozenValue!)];

    /// <summary>Takes a saved state over, by copy, after a first call.</summary>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
        foreach ((string name, Tensor value) in SaveState())
        {
            value.copy_(state[name]);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor? own in (Tensor?[])[_previous, _direction, _rate, _total, _mean, _frozen, _frozenValue])
        {
            own?.Dispose();
        }
    }

    private static Tensor Own(Tensor value) => value.DetachFromDisposeScope();
}
