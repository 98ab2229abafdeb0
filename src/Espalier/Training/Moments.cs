using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>
/// The per-parameter state of an optimiser: named slots shaped like the parameter and a count of its updates.
/// Slots come into being, zeroed, with a parameter's first gradient.
/// </summary>
/// <param name="parameters">The parameters, in order.</param>
/// <param name="slots">The names of the slots ("exp_avg").</param>
internal sealed class Moments(IReadOnlyList<OptimizedParameter> parameters, params string[] slots) : IDisposable
{
    private readonly Tensor[]?[] _tensors = new Tensor[parameters.Count][];
    private readonly long[] _updates = new long[parameters.Count];

    /// <summary>Counts one more update of a parameter.</summary>
    /// <returns>How many there have been, from 1, and the slots in their declared order.</returns>
    public (long Update, Tensor[] Slots) Advance(int index)
    {
        _tensors[index] ??= [.. slots.Select(_ => zeros_like(parameters[index].Value, requires_grad: false).DetachFromDisposeScope())];
        return (++_updates[index], _tensors[index]!);
    }

    /// <summary>Sets the slots of pruned weights to zero.</summary>
    public void Forget(string name, Tensor pruned)
    {
        using var frozen = no_grad();
        for (int i = 0; i < parameters.Count; i++)
        {
            foreach (Tensor slot in parameters[i].Name == name ? _tensors[i] ?? [] : [])
            {
                slot.masked_fill_(pruned, 0);
            }
        }
    }

    /// <summary>Drops the slots of a parameter and counts its updates from 0 again.</summary>
    public void Restart(string name)
    {
        for (int i = 0; i < parameters.Count; i++)
        {
            if (parameters[i].Name == name)
            {
                Drop(i);
                _updates[i] = 0;
            }
        }
    }

    /// <summary>All slots that exist as "slot.parameter", and the update counts as one int64 tensor "updates".</summary>
    public IReadOnlyList<(string Name, Tensor Value)> Save()
    {
        var state = new List<(string, Tensor)> { ("updates", tensor(_updates)) };
        for (int i = 0; i < parameters.Count; i++)
        {
            for (int s = 0; s < slots.Length && _tensors[i] is not null; s++)
            {
                state.Add(($"{slots[s]}.{parameters[i].Name}", _tensors[i]![s]));
            }
        }

        return state;
    }

    /// <summary>Copies a saved state in.</summary>
    /// <exception cref="EspalierException">When something is missing or shaped otherwise.</exception>
    public void Load(IReadOnlyDictionary<string, Tensor> state)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        EspalierException.Require(state.TryGetValue("updates", out Tensor? updates) && updates.numel() == parameters.Count,
            "The optimizer state was saved for another set of parameters; start the training anew.");
        updates.to(int64).data<long>().CopyTo(_updates);
        for (int i = 0; i < parameters.Count; i++)
        {
            Drop(i);
            if (_updates[i] == 0)
            {
                continue;
            }

            Tensor parameter = parameters[i].Value;
            var copies = new Tensor[slots.Length];
            for (int s = 0; s < slots.Length; s++)
            {
                string name = $"{slots[s]}.{parameters[i].Name}";
                EspalierException.Require(state.TryGetValue(name, out Tensor? saved) && saved.shape.AsSpan().SequenceEqual(parameter.shape),
                    $"The optimizer state has no tensor {name} of shape [{string.Join(", ", parameter.shape)}]; start the training anew.");
                copies[s] = zeros_like(parameter, requires_grad: false);
                copies[s].copy_(saved);
            }

            _tensors[i] = [.. copies.Select(copy => copy.DetachFromDisposeScope())];
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        for (int i = 0; i < _tensors.Length; i++)
        {
            Drop(i);
        }
    }

    private void Drop(int index)
    {
        foreach (Tensor slot in _tensors[index] ?? [])
        {
            slot.Dispose();
        }

        _tensors[index] = null;
    }
}
