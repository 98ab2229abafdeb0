using static TorchSharp.torch;

namespace Espalier.Checkpoints;

/// <summary>A checkpoint in which some tensors are taken from elsewhere (finished blocks) or changed as they are read (masks).</summary>
/// <param name="ground">The checkpoint underneath; it decides names and order.</param>
public sealed class OverlaySource(ITensorSource ground) : ITensorSource
{
    private readonly Dictionary<string, ITensorSource> _replaced = new(StringComparer.Ordinal);
    private readonly Dictionary<string, Func<Tensor, Tensor>> _changed = new(StringComparer.Ordinal);

    /// <inheritdoc/>
    public IReadOnlyList<string> Names => ground.Names;

    /// <summary>Takes one tensor from another source.</summary>
    public OverlaySource Replace(string name, ITensorSource source)
    {
        _replaced[name] = source;
        return this;
    }

    /// <summary>Changes one tensor as it is read; the function receives float32 [..] and answers the same shape in the caller's scope.</summary>
    public OverlaySource Change(string name, Func<Tensor, Tensor> change)
    {
        _changed[name] = change;
        return this;
    }

    /// <inheritdoc/>
    public bool Contains(string name) => ground.Contains(name);

    /// <inheritdoc/>
    public TensorInfo Info(string name) => _replaced.TryGetValue(name, out ITensorSource? source) ? source.Info(name) : ground.Info(name);

    /// <inheritdoc/>
    public Tensor Read(string name, ScalarType? type = null)
    {
        ITensorSource source = _replaced.GetValueOrDefault(name, ground);
        if (!_changed.TryGetValue(name, out Func<Tensor, Tensor>? change))
        {
            return source.Read(name, type);
        }

        using var scope = NewDisposeScope();
        Tensor value = change(source.Read(name, ScalarType.Float32));
        return (type is null or ScalarType.Float32 ? value : value.to(type.Value)).MoveToOuterDisposeScope();
    }
}
