using System.Globalization;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>
/// Stochastic gradient descent with momentum and PyTorch's semantics: weight decay is added to the gradient, the momentum
/// buffer starts as the first gradient (no dampening), the learning rate multiplies the buffer (with Nesterov: gradient + momentum · buffer). State: one tensor per
/// parameter, none without momentum.
/// </summary>
public sealed class Sgd : IOptimizer
{
    private readonly IReadOnlyList<OptimizedParameter> _parameters;
    private readonly Moments _moments;
    private readonly double _momentum;
    private readonly double _weightDecay;
    private readonly bool _nesterov;
    private readonly StateStorage _storage;

    /// <summary>Makes the optimiser; state is allocated with the first gradient of each parameter.</summary>
    /// <param name="parameters">What it changes.</param>
    /// <param name="momentum">The share of the buffer that stays each step.</param>
    /// <param name="weightDecay">This share of the weight is added to its gradient.</param>
    /// <param name="nesterov">Whether the step looks ahead along the buffer; needs momentum.</param>
    /// <param name="storage">How the buffer is held; null is float32.</param>
    public Sgd(IReadOnlyList<OptimizedParameter> parameters, double momentum = 0, double weightDecay = 0, bool nesterov = false, StateStorage? storage = null)
    {
        (_parameters, _momentum, _weightDecay, _nesterov) = (parameters, momentum, weightDecay, nesterov);
        _storage = storage ?? new StateStorage();
        _moments = new Moments(parameters, _storage, momentum == 0 ? [] : [new("momentum")]);
    }

    /// <inheritdoc/>
    public string Description => string.Create(CultureInfo.InvariantCulture, $"sgd momentum={_momentum:R} weight decay={_weightDecay:R}{(_nesterov ? " nesterov" : "")}{_storage}");

    /// <inheritdoc/>
    public double DecayMultiplier { get; set; } = 1;

    /// <inheritdoc/>
    public void Step(double learningRate)
    {
        using var frozen = no_grad();
        for (int i = 0; i < _parameters.Count; i++)
        {
            using var scope = NewDisposeScope();
            OptimizedParameter parameter = _parameters[i];
            if (parameter.Value.grad is not { } gradient)
            {
                continue;
            }

            double decay = _weightDecay * parameter.Group.DecayMultiplier * DecayMultiplier;
            Tensor direction = decay == 0 ? gradient : gradient.add(parameter.Value, decay);
            if (_momentum != 0)
            {
                // The buffer is zero before the first update, so this gives it the first gradient itself.
                Tensor[] slots = _moments.Advance(i).Slots;
                Tensor buffer = slots[0].mul_(_momentum).add_(direction);
                _moments.Keep(i, slots);
                direction = _nesterov ? direction.add(buffer, _momentum) : buffer;
            }

            parameter.Value.add_(direction, -learningRate * parameter.Group.RateMultiplier);
        }
    }

    /// <inheritdoc/>
    public void Forget(string name, Tensor pruned) => _moments.Forget(name, pruned);

    /// <inheritdoc/>
    public void Restart(string name) => _moments.Restart(name);

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> SaveState() => _moments.Save();

    /// <inheritdoc/>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state) => _moments.Load(state);

    /// <inheritdoc/>
    public void Dispose() => _moments.Dispose();
}
