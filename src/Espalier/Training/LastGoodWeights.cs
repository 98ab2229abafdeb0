using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>A copy of the trained weights (and buffers) from a step whose loss and gradients were sound, to go back to when a run fails.</summary>
internal sealed class LastGoodWeights(IReadOnlyList<Tensor> weights) : IDisposable
{
    private Tensor[]? _copies;

    /// <summary>The step before which the weights were as kept; null when nothing is kept.</summary>
    public long? Step { get; private set; }

    /// <summary>Keeps the weights as they are before a step changes them.</summary>
    public void Keep(long step)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        _copies ??= [.. weights.Select(w => empty_like(w).requires_grad_(false).DetachFromDisposeScope())];
        for (int i = 0; i < _copies.Length; i++)
        {
            _copies[i].copy_(weights[i]);
        }

        Step = step;
    }

    /// <summary>Puts the kept weights back, where any are kept.</summary>
    public void Restore()
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        for (int i = 0; Step is not null && i < weights.Count; i++)
        {
            weights[i].copy_(_copies![i]);
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
