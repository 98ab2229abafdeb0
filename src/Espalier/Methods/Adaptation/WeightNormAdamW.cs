using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// GradNormLoRP's step: a weight is magnitude × direction, W = g·V/‖V‖ row by row, and Adam moves both; the direction's gradient is projected
/// as GaLore does, the magnitude's is a column. V is not stored: it is W times a number per row.
/// </summary>
/// <remarks>
/// What changes the weights from outside (a mask) changes the direction with them. A row that is 0 stays 0.
/// </remarks>
public sealed class WeightNormAdamW : IOptimizer
{
    private const double Tiny = 1e-12; // below this a row counts as 0
    private const double Flat = 1e-20; // stands for a magnitude of exactly 0, so that the direction is still in W

    private readonly IReadOnlyList<OptimizedParameter> _parameters;
    private readonly ProjectedStep _how;
    private readonly bool _persistent;
    private readonly bool[] _inputsFirst;
    private readonly GradientProjector?[] _projectors;
    private readonly Moments _moments;
    private readonly (Tensor Magnitude, Tensor Stretch)?[] _rows; // g and ‖V‖/g, each [O, 1]

    /// <summary>Makes the optimiser; state comes with the first gradient of each parameter.</summary>
    /// <param name="parameters">Weights; a vector is one row.</param>
    /// <param name="how">How it steps.</param>
    /// <param name="persistent">Whether magnitudes are kept from step to step and directions get their exact gradient; false is the official code, where g := ‖V‖ before each step.</param>
    /// <param name="inputsFirst">The names of weights that are stored [in, out].</param>
    public WeightNormAdamW(IReadOnlyList<OptimizedParameter> parameters, ProjectedStep how, bool persistent = true, IReadOnlySet<string>? inputsFirst = null)
    {
        (_parameters, _how, _persistent) = (parameters, how, persistent);
        _inputsFirst = [.. parameters.Select(p => inputsFirst?.Contains(p.Name) == true)];
        (long Rows, long Columns)[] shapes = [.. parameters.Select((p, i) => UnitRows.Shape(p.Value.shape, _inputsFirst[i]))];
        _projectors = [.. shapes.Select(s => how.Projector(s.Rows, s.Columns))];
        _rows = new (Tensor, Tensor)?[parameters.Count];
        _moments = new Moments(
            parameters, how.Storage, [new("exp_avg"), new("exp_avg_sq", Signed: false), new("exp_avg_g"), new("exp_avg_sq_g", Signed: false)],
            i =>
            {
                long[] low = _projectors[i]?.LowShape ?? [shapes[i].Rows, shapes[i].Columns];
                return [low, low, [shapes[i].Rows, 1], [shapes[i].Rows, 1]];
            });
    }

    /// <inheritdoc/>
    public string Description => $"gradnormlorp {(_persistent ? "persistent" : "official")} {_how}";

    /// <inheritdoc/>
    public double DecayMultiplier { get; set; } = 1;

    /// <inheritdoc/>
    public void Step(double learningRate)
    {
        using var frozen = no_grad();
        for (int i = 0; i < _parameters.Count; i++)
        {
            using var scope = NewDisposeScope();
            if (_parameters[i].Value.grad is { } gradient)
            {
                Step(i, UnitRows.Of(gradient, _inputsFirst[i]), learningRate);
            }
        }
    }

    /// <summary>V [O, I] of a parameter, in the caller's scope; before its first step W itself.</summary>
    /// <param name="index">Its place.</param>
    public Tensor Direction(int index)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor w = UnitRows.Of(_parameters[index].Value.detach(), _inputsFirst[index]);
        return (_rows[index] is { } rows ? w * rows.Stretch : w.clone()).MoveToOuterDisposeScope();
    }

    /// <summary>g [O, 1] of a parameter, in the caller's scope.</summary>
    /// <param name="index">Its place.</param>
    public Tensor Magnitude(int index)
    {
        using var scope = NewDisposeScope();
        using Tensor v = Direction(index);
        return (_rows[index] is { } rows ? rows.Magnitude.clone() : Norm(v)).MoveToOuterDisposeScope();
    }

    /// <summary>The exact gradients of magnitude and direction.</summary>
    /// <param name="v">V [O, I].</param>
    /// <param name="g">g [O, 1].</param>
    /// <param name="gradient">∂L/∂W [O, I].</param>
    /// <returns>∂L/∂V = (g/n)(G − (ΣG⊙V/n) V/n) [O, I] and ∂L/∂g = ΣG⊙V/n [O, 1], in the caller's scope.</returns>
    public static (Tensor V, Tensor G) ExactGradients(Tensor v, Tensor g, Tensor gradient)
    {
        using var scope = NewDisposeScope();
        Tensor n = Norm(v).clamp_min_(Tiny), unit = v / n;
        Tensor gg = (gradient * unit).sum(1, keepdim: true);
        return ((g / n * (gradient - (unit * gg))).MoveToOuterDisposeScope(), gg.MoveToOuterDisposeScope());
    }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> SaveState()
    {
        List<(string, Tensor)> state = [.. _moments.Save()];
        for (int i = 0; i < _parameters.Count; i++)
        {
            if (_rows[i] is { } rows)
            {
                state.Add(($"magnitude.{_parameters[i].Name}", rows.Magnitude));
                state.Add(($"stretch.{_parameters[i].Name}", rows.Stretch));
            }

            state.AddRange(_projectors[i]?.Save(_parameters[i].Name) ?? []);
        }

        return state;
    }

    /// <inheritdoc/>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
        using var frozen = no_grad();
        _moments.Load(state);
        for (int i = 0; i < _parameters.Count; i++)
        {
            Drop(i);
            string name = _parameters[i].Name;
            if (_moments.Updates(i) > 0)
            {
                EspalierException.Require(state.TryGetValue($"magnitude.{name}", out Tensor? magnitude) & state.TryGetValue($"stretch.{name}", out Tensor? stretch),
                    $"The optimizer state has no magnitudes of {name}; start the training anew.");
                _rows[i] = (magnitude!.clone().DetachFromDisposeScope(), stretch!.clone().DetachFromDisposeScope());
                _projectors[i]?.Load(name, state);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _moments.Dispose();
        for (int i = 0; i < _parameters.Count; i++)
        {
            Drop(i);
            _projectors[i]?.Dispose();
        }
    }

    private void Step(int index, Tensor gradient, double learningRate)
    {
        ParameterGroup group = _parameters[index].Group;
        (double rate, double decay) = (learningRate * group.RateMultiplier, _how.WeightDecay * group.DecayMultiplier * DecayMultiplier);
        Tensor v = Direction(index), n = Norm(v), alive = n.gt(Tiny);
        Tensor g = _persistent ? Magnitude(index) : n.clone();
        (Tensor gv, Tensor gg) = ExactGradients(v, g, gradient);
        if (!_persistent)
        {
            gv = gradient * (g / n.clamp_min(Tiny)); // without the part along V, as in the official code
        }

        Tensor low = _projectors[index]?.Project(gv, _moments.Updates(index)) ?? gv;
        (long t, Tensor[] slots) = _moments.Advance(index);
        Tensor stepV = _how.Normalised(slots[0], slots[1], low), stepG = _how.Normalised(slots[2], slots[3], gg);
        _moments.Keep(index, slots);
        double size = _how.Size(rate, t);
        v.add_((_projectors[index]?.Back(stepV) ?? stepV) * alive, -size);
        g.add_(stepG * alive, -size);
        if (decay != 0)
        {
            v.mul_(1 - (rate * decay));
            g.mul_(1 - (rate * decay));
        }

        Tensor norm = Norm(v), length = where(g.abs().lt(Flat), full_like(g, Flat), g);
        UnitRows.Of(_parameters[index].Value.detach(), _inputsFirst[index]).copy_(v * (length / norm.clamp_min(Tiny)));
        Tensor stretch = where(norm.gt(Tiny), norm / length, ones_like(norm));
        if (_rows[index] is { } rows)
        {
            rows.Magnitude.copy_(g);
            rows.Stretch.copy_(stretch);
        }
        else
        {
            _rows[index] = (g.DetachFromDisposeScope(), stretch.DetachFromDisposeScope());
        }
    }

    private static Tensor Norm(Tensor rows) => linalg.norm(rows, 2, [1], keepdim: true);

    private void Drop(int index)
    {
        _rows[index]?.Magnitude.Dispose();
        _rows[index]?.Stretch.Dispose();
        _rows[index] = null;
    }
}
