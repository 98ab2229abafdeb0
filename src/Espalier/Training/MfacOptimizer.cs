using System.Globalization;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>
/// M-FAC as an optimiser (Frantar, Kurtic, Alistarh, NeurIPS 2021): the gradient times the inverse of the dampened empirical Fisher of
/// the last gradients, itself included. Weight decay is added to the gradient before; momentum is v = μ·v + (1 − μ)·u, from 0 and
/// without correction.
/// </summary>
public sealed class MfacOptimizer : IOptimizer
{
    private readonly IReadOnlyList<OptimizedParameter> _parameters;
    private readonly double _momentum, _weightDecay, _damping;
    private readonly InverseFisherWindow _window;
    private readonly Tensor? _live, _velocity;
    private readonly long _length;

    /// <summary>Makes the optimiser; it allocates its window at once.</summary>
    /// <param name="parameters">What it changes.</param>
    /// <param name="gradients">m, how many gradients the window holds.</param>
    /// <param name="damping">λ.</param>
    /// <param name="momentum">μ.</param>
    /// <param name="weightDecay">This share of the weight is added to its gradient.</param>
    /// <param name="sparse">Whether only weights that are not zero now take part; the others, zero biases too, never move. Saves memory on pruned nets; masks hold without it.</param>
    public MfacOptimizer(IReadOnlyList<OptimizedParameter> parameters, int gradients = 512, double damping = 1e-5, double momentum = 0, double weightDecay = 0, bool sparse = false)
    {
        (_parameters, _momentum, _weightDecay, _damping) = (parameters, momentum, weightDecay, damping);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        _length = parameters.Sum(p => p.Value.numel());
        long length = _length;
        if (sparse)
        {
            Tensor live = cat([.. parameters.Select(p => p.Value.detach().flatten().ne(0))]).nonzero().squeeze(1);
            EspalierException.Require(live.numel() > 0, "Every weight is zero, so nothing takes part in a sparse M-FAC step.");
            (_live, length) = (live.DetachFromDisposeScope(), live.numel());
        }

        Device device = parameters[0].Value.device;
        _window = new InverseFisherWindow(gradients, length, damping, device);
        _velocity = momentum == 0 ? null : zeros([length], ScalarType.Float64, device).DetachFromDisposeScope();
    }

    /// <inheritdoc/>
    public string Description => string.Create(CultureInfo.InvariantCulture,
        $"mfac gradients={_window.Count} damping={_damping:R} momentum={_momentum:R} weight decay={_weightDecay:R}{(_live is null ? "" : " sparse")}");

    /// <inheritdoc/>
    public double DecayMultiplier { get; set; } = 1;

    /// <inheritdoc/>
    public void Step(double learningRate)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        Tensor gradient = cat([.. _parameters.Select(Gradient)]);
        gradient = _live is null ? gradient : gradient.index_select(0, _live);
        _window.Add(gradient);
        Tensor step = _window.Multiply(gradient);
        if (_velocity is not null)
        {
            _velocity.mul_(_momentum).add_(step, 1 - _momentum);
            step = _velocity;
        }

        if (_live is not null)
        {
            step = zeros([_length], step.dtype, step.device).index_copy(0, _live, step);
        }

        long from = 0;
        foreach (OptimizedParameter parameter in _parameters)
        {
            long count = parameter.Value.numel();
            if (parameter.Value.grad is not null)
            {
                Tensor own = step.narrow(0, from, count).reshape(parameter.Value.shape).to(parameter.Value.dtype);
                parameter.Value.add_(own, -learningRate * parameter.Group.RateMultiplier);
            }

            from += count;
        }
    }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> SaveState()
    {
        List<(string, Tensor)> state = [.. _window.State, ("next", tensor(_window.Next))];
        if (_velocity is not null)
        {
            state.Add(("velocity", _velocity));
        }

        return state;
    }

    /// <inheritdoc/>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
        string? missing = SaveState().Select(s => s.Name).FirstOrDefault(n => !state.ContainsKey(n));
        EspalierException.Require(missing is null, $"The optimizer state has no tensor {missing}; start the training anew.");
        using var frozen = no_grad();
        _window.Load(state["gradients"], state["products"], state["next"].item<long>());
        _velocity?.copy_(state["velocity"]);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _window.Dispose();
        _live?.Dispose();
        _velocity?.Dispose();
    }

    private Tensor Gradient(OptimizedParameter parameter)
    {
        if (parameter.Value.grad is not { } gradient)
        {
            return zeros([parameter.Value.numel()], parameter.Value.dtype, parameter.Value.device);
        }

        double decay = _weightDecay * parameter.Group.DecayMultiplier * DecayMultiplier;
        return (decay == 0 ? gradient : gradient.add(parameter.Value, decay)).flatten();
    }
}
