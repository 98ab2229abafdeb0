using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

/// <summary>Rounds activations with learnt step sizes, between two learnt shifts.</summary>
internal sealed class ActivationQuantiser : IDisposable
{
    private readonly Lsq _lsq;
    private readonly Parameter? _before, _after;

    /// <param name="name">Where it acts.</param>
    /// <param name="lsq">How it rounds.</param>
    /// <param name="steps">How many step sizes it has.</param>
    /// <param name="shifts">The length of the shifts, which are added along the last axis; 0 for none (softmax).</param>
    /// <param name="device">Where it lives.</param>
    public ActivationQuantiser(string name, Lsq lsq, long steps, long shifts, Device device)
    {
        using var scope = NewDisposeScope();
        (Name, _lsq, Steps) = (name, lsq, Models.Parameters.Of(zeros(steps, device: device)));
        if (shifts > 0)
        {
            (_before, _after) = (Models.Parameters.Of(zeros(shifts, device: device)), Models.Parameters.Of(zeros(shifts, device: device)));
        }
    }

    public string Name { get; }

    /// <summary>s.</summary>
    public Parameter Steps { get; }

    /// <summary>Whether the step sizes have been set, by the first batch or from a file.</summary>
    public bool Ready { get; set; }

    /// <summary>Everything that is trained, by name.</summary>
    public IEnumerable<(string Name, Parameter Value)> Trainable =>
        _before is null ? [($"{Name}.steps", Steps)] : [($"{Name}.steps", Steps), ($"{Name}.before", _before), ($"{Name}.after", _after!)];

    public Tensor Forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor shifted = _before is null ? x : x + _before;
        if (!Ready)
        {
            using var _ = no_grad();
            Steps.copy_(_lsq.Start(shifted));
            Ready = true;
        }

        Tensor rounded = _lsq.Quantise(shifted, Steps);
        return (_after is null ? rounded : rounded + _after).MoveToOuterDisposeScope();
    }

    public void Dispose()
    {
        Steps.Dispose();
        _before?.Dispose();
        _after?.Dispose();
    }
}
