using System.Globalization;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>
/// AdamW (Loshchilov and Hutter, arXiv 1711.05101) with PyTorch's semantics: decoupled weight decay, bias correction,
/// epsilon added to √v̂. State: two tensors per parameter.
/// </summary>
public sealed class AdamW : IOptimizer
{
    private readonly IReadOnlyList<OptimizedParameter> _parameters;
    private readonly Moments _moments;
    private readonly double _beta1;
    private readonly double _beta2;
    private readonly double _epsilon;
    private readonly double _weightDecay;
    private readonly StateStorage _storage;

    /// <summary>Makes the optimiser; state is allocated with the first gradient of each parameter.</summary>
    /// <param name="parameters">What it changes.</param>
    /// <param name="beta1">Decay of the mean of gradients.</param>
    /// <param name="beta2">Decay of the mean of squared gradients.</param>
    /// <param name="epsilon">Added to √v̂.</param>
    /// <param name="weightDecay">Each step a weight first loses learning rate × this share of itself.</param>
    /// <param name="storage">How the state is held; null is float32.</param>
    public AdamW(IReadOnlyList<OptimizedParameter> parameters, double beta1 = 0.9, double beta2 = 0.999, double epsilon = 1e-8, double weightDecay = 0, StateStorage? storage = null)
    {
        (_parameters, _beta1, _beta2, _epsilon, _weightDecay) = (parameters, beta1, beta2, epsilon, weightDecay);
        _storage = storage ?? new StateStorage();
        _moments = new Moments(parameters, _storage, [new("exp_avg"), new("exp_avg_sq", Signed: false)]);
    }

    /// <inheritdoc/>
    public string Description => string.Create(CultureInfo.InvariantCulture, $"adamw beta1={_beta1:R} beta2={_beta2:R} epsilon={_epsilon:R} weight decay={_weightDecay:R}{_storage}");

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

            (long t, Tensor[] slots) = _moments.Advance(i);
            (Tensor m, Tensor v) = (slots[0], slots[1]);
            double rate = learningRate * parameter.Group.RateMultiplier;
            double decay = _weightDecay * parameter.Group.DecayMultiplier * DecayMultiplier;
            if (decay != 0)
            {
                parameter.Value.mul_(1 - rate * decay);
            }

            m.mul_(_beta1).add_(gradient, 1 - _beta1);
            v.mul_(_beta2).addcmul_(gradient, gradient, 1 - _beta2);
            double correction1 = 1 - Math.Pow(_beta1, t);
            double correction2 = 1 - Math.Pow(_beta2, t);
            Tensor denominator = v.sqrt().div_(Math.Sqrt(correction2)).add_(_epsilon);
            parameter.Value.addcdiv_(m, denominator, -rate / correction1);
            _moments.Keep(i, slots);
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
