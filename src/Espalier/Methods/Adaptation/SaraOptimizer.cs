using System.Globalization;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// AdamW on the selected entries of every parameter (card, step 4): on entries with M = 1, w ← w − lr·wd·w, then Adam; entries with M = 0 keep their bits.
/// </summary>
/// <remarks>
/// Packed, the moments are vectors of the selected entries in memory order: 2·|M| numbers of state. Dense, they cover all entries, as in the authors' dense variant; the weights agree.
/// </remarks>
public sealed class SaraOptimizer : IOptimizer
{
    private const string First = "exp_avg", Second = "exp_avg_sq", Mask = "mask", Updates = "updates";

    private readonly IReadOnlyList<OptimizedParameter> _parameters;
    private readonly Tensor[] _masks;
    private readonly Tensor[] _first, _second;
    private readonly long[] _updates;
    private readonly double _beta1, _beta2, _epsilon, _weightDecay;
    private readonly bool _packed;

    /// <summary>Makes the optimiser; its moments start at 0.</summary>
    /// <param name="parameters">What it changes.</param>
    /// <param name="masks">M of each parameter, by name, bool, shaped like it; copied.</param>
    /// <param name="beta1">Decay of the mean of gradients.</param>
    /// <param name="beta2">Decay of the mean of squared gradients.</param>
    /// <param name="epsilon">Added to √v̂.</param>
    /// <param name="weightDecay">Decoupled decay of selected entries.</param>
    /// <param name="packed">Whether moments are held for selected entries only.</param>
    public SaraOptimizer(
        IReadOnlyList<OptimizedParameter> parameters, IReadOnlyDictionary<string, Tensor> masks, double beta1 = 0.9, double beta2 = 0.999, double epsilon = 1e-8, double weightDecay = 1e-2, bool packed = true)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        (_parameters, _beta1, _beta2, _epsilon, _weightDecay, _packed) = (parameters, beta1, beta2, epsilon, weightDecay, packed);
        _masks = [.. parameters.Select(p => masks[p.Name].to(ScalarType.Bool, copy: true).to(p.Value.device).DetachFromDisposeScope())];
        _first = [.. parameters.Select((p, i) => Zeros(i))];
        _second = [.. parameters.Select((p, i) => Zeros(i))];
        _updates = new long[parameters.Count];
    }

    /// <inheritdoc/>
    public string Description => string.Create(CultureInfo.InvariantCulture, $"sara adamw beta1={_beta1:R} beta2={_beta2:R} epsilon={_epsilon:R} weight decay={_weightDecay:R} packed={_packed}");

    /// <inheritdoc/>
    public double DecayMultiplier { get; set; } = 1;

    /// <summary>How many entries are trained now.</summary>
    public long Selected
    {
        get
        {
            using var scope = NewDisposeScope();
            return _masks.Sum(m => m.sum().item<long>());
        }
    }

    /// <summary>Numbers that are held as state beside the masks.</summary>
    public long StateCount => _first.Sum(m => m.numel()) + _second.Sum(v => v.numel());

    /// <summary>M of a parameter; it stays the optimiser's.</summary>
    public Tensor MaskOf(string name) => _masks[IndexOf(name)];

    /// <summary>The moments of a parameter, m and v; they stay the optimiser's.</summary>
    public (Tensor First, Tensor Second) MomentsOf(string name) => (_first[IndexOf(name)], _second[IndexOf(name)]);

    /// <summary>Step 5: M ← M ∧ (|w| &lt; θ). Moments and the count of steps go on; entries that have grown past θ stay where they are.</summary>
    /// <param name="threshold">θ.</param>
    public void Shrink(double threshold)
    {
        using var frozen = no_grad();
        for (int i = 0; i < _masks.Length; i++)
        {
            using var scope = NewDisposeScope();
            Tensor next = Sara.Select(_parameters[i].Value, threshold).logical_and(_masks[i]);
            if (_packed)
            {
                Tensor stays = next.masked_select(_masks[i]);
                Replace(ref _first[i], _first[i].masked_select(stays));
                Replace(ref _second[i], _second[i].masked_select(stays));
            }

            Replace(ref _masks[i], next);
        }
    }

    /// <inheritdoc/>
    public void Step(double learningRate)
    {
        using var frozen = no_grad();
        for (int i = 0; i < _parameters.Count; i++)
        {
            using var scope = NewDisposeScope();
            Tensor weight = _parameters[i].Value, mask = _masks[i];
            if (_parameters[i].Value.grad is not { } gradient)
            {
                continue;
            }

            long t = ++_updates[i];
            double rate = learningRate * _parameters[i].Group.RateMultiplier, decay = _weightDecay * _parameters[i].Group.DecayMultiplier * DecayMultiplier;
            Tensor values = _packed ? weight.masked_select(mask) : weight.clone();
            Tensor g = _packed ? gradient.masked_select(mask) : gradient;
            values.mul_(1 - (rate * decay));
            _first[i].mul_(_beta1).add_(g, 1 - _beta1);
            _second[i].mul_(_beta2).addcmul_(g, g, 1 - _beta2);
            Tensor denominator = _second[i].sqrt().div_(Math.Sqrt(1 - Math.Pow(_beta2, t))).add_(_epsilon);
            values.addcdiv_(_first[i], denominator, -rate / (1 - Math.Pow(_beta1, t)));
            if (_packed)
            {
                weight.masked_scatter_(mask, values);
            }
            else
            {
                weight.copy_(where(mask, values, weight));
            }
        }
    }

    /// <inheritdoc/>
    public void Forget(string name, Tensor pruned)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        int i = IndexOf(name);
        Tensor gone = _packed ? pruned.masked_select(_masks[i]) : pruned;
        _first[i].masked_fill_(gone, 0);
        _second[i].masked_fill_(gone, 0);
    }

    /// <inheritdoc/>
    public IReadOnlyList<(string Name, Tensor Value)> SaveState() =>
    [
        (Updates, tensor(_updates)),
        .. _parameters.SelectMany((p, i) => new (string, Tensor)[] { ($"{First}.{p.Name}", _first[i]), ($"{Second}.{p.Name}", _second[i]), ($"{Mask}.{p.Name}", _masks[i]) }),
    ];

    /// <inheritdoc/>
    public void LoadState(IReadOnlyDictionary<string, Tensor> state)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        EspalierException.Require(state.TryGetValue(Updates, out Tensor? updates) && updates.numel() == _parameters.Count, "The optimizer state was saved for another set of parameters; start the training anew.");
        updates.to(ScalarType.Int64).data<long>().CopyTo(_updates);
        for (int i = 0; i < _parameters.Count; i++)
        {
            string name = _parameters[i].Name;
            Tensor[] saved = [.. new[] { Mask, First, Second }.Select(s => state.GetValueOrDefault($"{s}.{name}") ?? throw new EspalierException($"The optimizer state has no {s} of {name}; start the training anew."))];
            EspalierException.Require(saved[0].shape.AsSpan().SequenceEqual(_masks[i].shape), $"The optimizer state has a mask of another shape for {name}; start the training anew.");
            Replace(ref _masks[i], saved[0].to(ScalarType.Bool, copy: true).to(_masks[i].device));
            Replace(ref _first[i], saved[1].to(_first[i].device).clone());
            Replace(ref _second[i], saved[2].to(_second[i].device).clone());
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor held in _masks.Concat(_first).Concat(_second))
        {
            held.Dispose();
        }
    }

    private Tensor Zeros(int index)
    {
        Tensor value = _parameters[index].Value;
        return (_packed ? zeros([_masks[index].sum().item<long>()], value.dtype, value.device) : zeros(value.shape, value.dtype, value.device)).DetachFromDisposeScope();
    }

    private int IndexOf(string name)
    {
        int index = _parameters.Index().FirstOrDefault(p => p.Item.Name == name, (-1, null!)).Index;
        return index >= 0 ? index : throw new EspalierException($"The optimizer does not train {name}.");
    }

    private static void Replace(ref Tensor held, Tensor next)
    {
        held.Dispose();
        held = next.DetachFromDisposeScope();
    }
}
