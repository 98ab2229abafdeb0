using System.Globalization;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>The AdamW of S²FT's efficiency code: moments of the trained part only and ε outside the bias correction. The official decay shrinks the whole weight; as an optimiser this one decays the part alone.</summary>
internal sealed class PartialAdamW : IOptimizer
{
    private readonly IReadOnlyList<OptimizedParameter> _parameters;
    private readonly Rule _rule;
    private readonly Tensor[] _m, _v;
    private long _steps;

    /// <param name="parameters">The trained parts.</param>
    /// <param name="rule">Betas, ε, decay.</param>
    public PartialAdamW(IReadOnlyList<OptimizedParameter> parameters, Rule rule)
    {
        (_parameters, _rule) = (parameters, rule);
        using var _ = no_grad();
        Tensor[] Zeros() => [.. parameters.Select(p => zeros(p.Value.shape, p.Value.dtype, p.Value.device).DetachFromDisposeScope())];
        (_m, _v) = (Zeros(), Zeros());
    }

    /// <summary>The rule's numbers.</summary>
    /// <param name="Beta1">β₁.</param>
    /// <param name="Beta2">β₂.</param>
    /// <param name="Epsilon">ε, 1e-6 in the official code.</param>
    /// <param name="Decay">The decay, of the whole weight.</param>
    /// <param name="CorrectBias">Whether a = lr·√(1−β₂ᵗ)/(1−β₁ᵗ); else a = lr.</param>
    internal sealed record Rule(double Beta1, double Beta2, double Epsilon, double Decay, bool CorrectBias);

    /// <inheritdoc/>
    public string Description => string.Create(CultureInfo.InvariantCulture, $"s2ft's adamw, betas {_rule.Beta1:R} and {_rule.Beta2:R}, epsilon {_rule.Epsilon:R}, weight decay {_rule.Decay:R}");

    /// <summary>One step of one part, in place.</summary>
    /// <param name="rule">The rule.</param>
    /// <param name="rate">lr.</param>
    /// <param name="step">t, from 1.</param>
    /// <param name="part">The trained part, memory of <paramref name="whole"/>.</param>
    /// <param name="gradient">Its gradient.</param>
    /// <param name="m">The mean of gradients.</param>
    /// <param name="v">The mean of squared gradients.</param>
    /// <param name="whole">W, which the decay shrinks.</param>
    public static void Step(Rule rule, double rate, long step, Tensor part, Tensor gradient, Tensor m, Tensor v, Tensor whole)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        m.mul_(rule.Beta1).add_(gradient, 1 - rule.Beta1);
        v.mul_(rule.Beta2).addcmul_(gradient, gradient, 1 - rule.Beta2);
        double a = rule.CorrectBias ? rate * Math.Sqrt(1 - Math.Pow(rule.Beta2, step)) / (1 - Math.Pow(rule.Beta1, step)) : rate;
        part.addcdiv_(m, v.sqrt().add_(rule.Epsilon), -a);
        if (rule.Decay > 0)
        {
            whole.add_(whole, -rate * rule.Decay);
        }
    }

    /// <inheritdoc/>
    public void Step(double learningRate)
    {
        _steps++;
        for (int i = 0; i < _parameters.Count; i++)
        {
            using var scope = NewDisposeScope();
            (_, var value, ParameterGroup group) = _parameters[i];
            if (value.grad is { } gradient)
            {
                Step(_rule with { Decay = _rule.Decay * group.DecayMultiplier }, learningRate * group.RateMultiplier, _steps, value, gradient, _m[i], _v[i], value);
            }
        }
    }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> SaveState() =>
        [("steps", tensor(_steps)), .. _parameters.SelectMany((p, i) => ((string, Tensor)[])[($"{p.Name}.m", _m[i]), ($"{p.Name}.v", _v[i])])];

    /// <inheritdoc/>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
        using var _ = no_grad();
        EspalierException.Require(state.ContainsKey("steps") && _parameters.All(p => state.ContainsKey($"{p.Name}.m") && state.ContainsKey($"{p.Name}.v")), "The saved state is not that of this optimizer.");
        _steps = state["steps"].item<long>();
        for (int i = 0; i < _parameters.Count; i++)
        {
            _m[i].copy_(state[$"{_parameters[i].Name}.m"]);
            _v[i].copy_(state[$"{_parameters[i].Name}.v"]);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor tensor in _m.Concat(_v))
        {
            tensor.Dispose();
        }
    }
}
