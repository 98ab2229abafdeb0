using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>A copy of the trained weights from a step whose loss and gradients were sound, to go back to when a run fails.</summary>
internal sealed class LastGoodWeights(IReadOnlyList<(string Name, Parameter Value)> trainable) : IDisposable
{
    private Tensor[]? _copies;

    /// <summary>The step before which the weights were as kept; null when nothing is kept.</summary>
    public long? Step { get; private set; }

    /// <summary>Keeps the weights as they are before a step changes them.</summary>
    public void Keep(long step)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        _copies ??= [.. trainable.Select(t => empty_like(t.Value).requires_grad_(false).DetachFromDisposeScope())];
        for (int i = 0; i < _copies.Length; i++)
        {
            _copies[i].copy_(trainable[i].Value);
        }

        Step = step;
    }

    /// <summary>Puts the kept weights back, where any are kept.</summary>
    public void Restore()
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        for (int i = 0; Step is not null && i < trainable.Count; i++)
        {
            trainable[i].Value.copy_(_copies![i]);
        }
    }

    public void Dispose()
    {
        foreach (Tensor copy in _copies ?? [])
        {
            copy.Dispose();
        }

        _copies = null;
    }
}
