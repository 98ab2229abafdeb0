using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

/// <summary>A weight that is used rounded at every forward pass while its float values are trained.</summary>
/// <param name="name">Its checkpoint name.</param>
/// <param name="value">The float values, in their stored layout.</param>
/// <param name="bits">b.</param>
/// <param name="change">Sets what the layer makes of the stored weight.</param>
internal sealed class QuantisedWeight(string name, Parameter value, int bits, Action<Func<Tensor, Tensor>?> change) : IDisposable
{
    public string Name { get; } = name;

    public Parameter Value { get; } = value;

    /// <summary>Whether it is stored as [in, out] (GPT-2).</summary>
    public bool InputsFirst { get; init; }

    /// <summary>The first output row that is rounded; those before stay as they are (queries and keys, whose product is rounded).</summary>
    public long From { get; init; }

    /// <summary>Learnt step sizes instead of StatsQ; null for StatsQ. It belongs to this object.</summary>
    public Parameter? Steps { get; init; }

    /// <summary>How learnt step sizes lie.</summary>
    public LsqAxis StepAxis { get; init; } = LsqAxis.Row;

    /// <summary>Whether annealing may freeze it and oscillation is counted.</summary>
    public bool Watched { get; init; } = true;

    /// <summary>Whether learnt step sizes are those of StatsQ's levels.</summary>
    public bool Halves { get; init; }

    private Lsq Learnt => new(bits, AllPositive: false, StepAxis) { Halves = Halves };

    /// <summary>From now on the layer uses the rounded weight.</summary>
    public void Attach()
    {
        if (Steps is not null)
        {
            using var scope = NewDisposeScope();
            using var _ = no_grad();
            Steps.copy_(Learnt.Start(Part(Value.detach())));
        }

        change(Used);
    }

    /// <summary>Writes the rounded values over the float ones; the layer uses them as they are.</summary>
    public void Fold()
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor rounded = Steps is null ? StatsQ.Quantise(Part(Value.detach()), bits).Value : Learnt.Quantise(Part(Value.detach()), Steps);
        Part(Value.detach()).copy_(rounded);
        change(null);
    }

    /// <summary>The rounded weight in the stored layout, within the graph.</summary>
    public Tensor Used(Tensor stored)
    {
        using var scope = NewDisposeScope();
        Tensor rows = InputsFirst ? stored.t() : stored, part = Part(stored);
        Tensor rounded = Steps is null ? StatsQ.StraightThrough(part, bits) : Learnt.Quantise(part, Steps);
        Tensor whole = From == 0 ? rounded : cat([rows.narrow(0, 0, From), rounded]);
        return (InputsFirst ? whole.t() : whole).MoveToOuterDisposeScope();
    }

    /// <summary>What is rounded and to what, of the present values and outside any graph, in the caller's scope.</summary>
    public (Tensor Position, Tensor Level) Levels()
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor part = Part(Value.detach());
        if (Steps is null)
        {
            StatsQWeight rounded = StatsQ.Quantise(part, bits);
            return (rounded.Position.MoveToOuterDisposeScope(), rounded.Level.MoveToOuterDisposeScope());
        }

        Tensor position = Learnt.Position(part, Steps.detach().clamp(min: 1e-5).reshape([-1, .. Enumerable.Repeat(1L, (int)part.dim() - 1)]));
        return (position.MoveToOuterDisposeScope(), position.round().MoveToOuterDisposeScope());
    }

    /// <summary>A tensor shaped as the stored weight, as the output rows that are rounded: a view.</summary>
    public Tensor Part(Tensor stored)
    {
        Tensor rows = InputsFirst ? stored.t() : stored;
        return From == 0 ? rows.alias() : rows.narrow(0, From, rows.shape[0] - From);
    }

    public void Dispose()
    {
        change(null);
        Steps?.Dispose();
    }
}
