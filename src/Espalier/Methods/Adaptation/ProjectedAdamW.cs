using System.Globalization;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>How <see cref="ProjectedAdamW"/> and <see cref="WeightNormAdamW"/> step.</summary>
/// <param name="Rank">r; 0 projects nothing.</param>
/// <param name="Gap">T, steps between two bases.</param>
/// <param name="Scale">α; applies where there is a rank.</param>
/// <param name="Side">The side of the projection.</param>
/// <param name="Beta1">Decay of the mean of gradients.</param>
/// <param name="Beta2">Decay of the mean of squared gradients.</param>
/// <param name="Epsilon">Added to √v, before the correction of its bias.</param>
/// <param name="WeightDecay">Decoupled, after the step.</param>
/// <param name="CorrectBias">Whether running means are corrected for their start at 0.</param>
/// <param name="Storage">How the running means are held.</param>
public sealed record ProjectedStep(
    int Rank, int Gap, double Scale, ProjectionSide Side, double Beta1, double Beta2, double Epsilon, double WeightDecay, bool CorrectBias, StateStorage Storage)
{
    /// <summary>For an optimiser's description.</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"rank={Rank} gap={Gap} scale={Scale:R} side={Side} beta1={Beta1:R} beta2={Beta2:R} epsilon={Epsilon:R} weight decay={WeightDecay:R}{(CorrectBias ? "" : " uncorrected")}{Storage}");

    /// <summary>A projector of one matrix; null where nothing is projected.</summary>
    internal GradientProjector? Projector(long rows, long columns) => Rank == 0 ? null : new GradientProjector(rows, columns, Rank, Gap, Scale, Side);

    /// <summary>The size of a step: lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ).</summary>
    internal double Size(double learningRate, long t) => CorrectBias ? learningRate * Math.Sqrt(1 - Math.Pow(Beta2, t)) / (1 - Math.Pow(Beta1, t)) : learningRate;

    /// <summary>N = m/(√v + ε) after taking a gradient into the running means; m and v are changed in place.</summary>
    internal Tensor Normalised(Tensor m, Tensor v, Tensor gradient)
    {
        m.mul_(Beta1).add_(gradient, 1 - Beta1);
        v.mul_(Beta2).addcmul_(gradient, gradient, 1 - Beta2);
        return m / v.sqrt().add_(Epsilon);
    }
}

/// <summary>A parameter seen as a matrix whose rows are units.</summary>
internal static class UnitRows
{
    /// <summary>A view [O, I]: a vector is one row, a convolution [O, I·k·k], a weight that is stored [in, out] is turned.</summary>
    public static Tensor Of(Tensor tensor, bool inputsFirst) => tensor.dim() switch
    {
        1 => tensor.unsqueeze(0),
        2 => inputsFirst ? tensor.t() : tensor.alias(),
        _ => tensor.flatten(1),
    };

    /// <summary>The shape of that view.</summary>
    public static (long Rows, long Columns) Shape(long[] shape, bool inputsFirst) => shape.Length switch
    {
        1 => (1, shape[0]),
        2 => inputsFirst ? (shape[1], shape[0]) : (shape[0], shape[1]),
        _ => (shape[0], shape.Skip(1).Aggregate(1L, (a, b) => a * b)),
    };
}

/// <summary>GaLore's AdamW: its running means live in the projection of the gradient, and outlive a new basis (a known approximation).</summary>
public sealed class ProjectedAdamW : IOptimizer
{
    private readonly IReadOnlyList<OptimizedParameter> _parameters;
    private readonly ProjectedStep _how;
    private readonly bool[] _inputsFirst;
    private readonly GradientProjector[] _projectors;
    private readonly Moments _moments;

    /// <summary>Makes the optimiser; state comes with the first gradient of each parameter.</summary>
    /// <param name="parameters">Weights of two dimensions or more.</param>
    /// <param name="how">How it steps; its rank must be above 0.</param>
    /// <param name="inputsFirst">The names of weights that are stored [in, out].</param>
    public ProjectedAdamW(IReadOnlyList<OptimizedParameter> parameters, ProjectedStep how, IReadOnlySet<string>? inputsFirst = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(how.Rank, 1);
        (_parameters, _how) = (parameters, how);
        _inputsFirst = [.. parameters.Select(p => inputsFirst?.Contains(p.Name) == true)];
        _projectors = [.. parameters.Select((p, i) => UnitRows.Shape(p.Value.shape, _inputsFirst[i])).Select(s => how.Projector(s.Rows, s.Columns)!)];
        _moments = new Moments(parameters, how.Storage, [new("exp_avg"), new("exp_avg_sq", Signed: false)], i => [_projectors[i].LowShape, _projectors[i].LowShape]);
    }

    /// <inheritdoc/>
    public string Description => $"galore {_how}";

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

            double rate = learningRate * parameter.Group.RateMultiplier;
            double decay = _how.WeightDecay * parameter.Group.DecayMultiplier * DecayMultiplier;
            Tensor w = UnitRows.Of(parameter.Value.detach(), _inputsFirst[i]);
            Tensor low = _projectors[i].Project(UnitRows.Of(gradient, _inputsFirst[i]), _moments.Updates(i));
            (long t, Tensor[] slots) = _moments.Advance(i);
            Tensor n = _how.Normalised(slots[0], slots[1], low);
            _moments.Keep(i, slots);
            w.add_(_projectors[i].Back(n), -_how.Size(rate, t));
            if (decay != 0)
            {
                w.mul_(1 - (rate * decay));
            }
        }
    }

    /// <inheritdoc/>
    public void Restart(string name) => _moments.Restart(name);

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> SaveState() =>
        [.. _moments.Save(), .. _parameters.SelectMany((p, i) => _projectors[i].Save(p.Name))];

    /// <inheritdoc/>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
        using var frozen = no_grad();
        _moments.Load(state);
        for (int i = 0; i < _parameters.Count; i++)
        {
            if (_moments.Updates(i) > 0)
            {
                _projectors[i].Load(_parameters[i].Name, state);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _moments.Dispose();
        foreach (GradientProjector projector in _projectors)
        {
            projector.Dispose();
        }
    }
}
