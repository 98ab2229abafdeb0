using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>
/// The per-parameter state of an optimiser: slots and a count of updates. Slots come into being, zeroed, with a parameter's first gradient.
/// </summary>
/// <param name="parameters">The parameters, in order.</param>
/// <param name="storage">How slots are held.</param>
/// <param name="slots">The kinds of slots.</param>
/// <param name="shapes">The shapes of a parameter's slots, by its index; null gives every slot the parameter's own.</param>
internal sealed class Moments(IReadOnlyList<OptimizedParameter> parameters, StateStorage storage, SlotKind[] slots, Func<int, long[][]>? shapes = null) : IDisposable
{
    private readonly StateSlot[]?[] _slots = new StateSlot[parameters.Count][];
    private readonly long[] _updates = new long[parameters.Count];

    /// <summary>Counts one more update of a parameter.</summary>
    /// <returns>How many there have been, from 1, and the slots in their declared order, to be changed in place and then given to <see cref="Keep"/>.</returns>
    public (long Update, Tensor[] Slots) Advance(int index)
    {
        _slots[index] ??= Make(index);
        return (++_updates[index], [.. _slots[index]!.Select(slot => slot.Read())]);
    }

    /// <summary>How many updates of a parameter there have been.</summary>
    public long Updates(int index) => _updates[index];

    /// <summary>Keeps what <see cref="Advance"/> gave and was changed since.</summary>
    public void Keep(int index, Tensor[] changed)
    {
        for (int s = 0; s < changed.Length; s++)
        {
            _slots[index]![s].Write(changed[s]);
        }
    }

    /// <summary>Sets the slots of pruned weights to zero; slots that are not shaped like the parameter stay.</summary>
    public void Forget(string name, Tensor pruned)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        for (int i = 0; i < parameters.Count; i++)
        {
            foreach (StateSlot slot in parameters[i].Name == name ? _slots[i] ?? [] : [])
            {
                if (slot.Shape.AsSpan().SequenceEqual(pruned.shape))
                {
                    slot.Write(slot.Read().masked_fill_(pruned, 0));
                }
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
            for (int s = 0; s < slots.Length && _slots[i] is not null; s++)
            {
                state.AddRange(_slots[i]![s].Save($"{slots[s].Name}.{parameters[i].Name}"));
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

            _slots[i] = Make(i);
            for (int s = 0; s < slots.Length; s++)
            {
                _slots[i]![s].Load($"{slots[s].Name}.{parameters[i].Name}", state);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        for (int i = 0; i < _slots.Length; i++)
        {
            Drop(i);
        }
    }

    private StateSlot[] Make(int index)
    {
        Tensor parameter = parameters[index].Value;
        long[][]? own = shapes?.Invoke(index);
        return [.. slots.Select((kind, s) => new StateSlot(kind, own?[s] ?? parameter.shape, parameter.dtype, parameter.device, storage))];
    }

    private void Drop(int index)
    {
        foreach (StateSlot slot in _slots[index] ?? [])
        {
            slot.Dispose();
        }

        _slots[index] = null;
    }
}
