using static TorchSharp.torch;

namespace Espalier.Checkpoints;

/// <summary>A checkpoint in which some tensors are taken from elsewhere (finished blocks), changed as they are read (masks) or added.</summary>
/// <param name="ground">The checkpoint underneath; it decides names and order.</param>
public sealed class OverlaySource(ITensorSource ground) : ITensorSource
{
    private readonly Dictionary<string, ITensorSource> _replaced = new(StringComparer.Ordinal);
    private readonly Dictionary<string, Func<Tensor, Tensor>> _changed = new(StringComparer.Ordinal);

    private readonly Dictionary<string, TensorInfo> _added = new(StringComparer.Ordinal);

    /// <inheritdoc/>
    public IReadOnlyList<string> Names => _added.Count == 0 ? ground.Names : [.. ground.Names, .. _added.Keys];

    /// <summary>Adds a tensor of zeros that the ground does not have, behind its others (a bias that a repair will fill).</summary>
    public OverlaySource Add(TensorInfo info)
    {
        _added.Add(info.Name, info);
        return this;
    }

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
    public bool Contains(string name) => ground.Contains(name) || _added.ContainsKey(name);

    /// <inheritdoc/>
    public TensorInfo Info(string name) => _replaced.TryGetValue(name, out ITensorSource? source) ? source.Info(name)
        : _added.TryGetValue(name, out TensorInfo? added) ? added : ground.Info(name);

    /// <inheritdoc/>
    public Tensor Read(string name, ScalarType? type = null)
    {
        if (!_changed.TryGetValue(name, out Func<Tensor, Tensor>? change))
        {
            return Plain(name, type);
        }

        using var scope = NewDisposeScope();
        Tensor value = change(Plain(name, ScalarType.Float32));
        return (type is null or ScalarType.Float32 ? value : value.to(type.Value)).MoveToOuterDisposeScope();
    }

    private Tensor Plain(string name, ScalarType? type) =>
        _replaced.TryGetValue(name, out ITensorSource? source) ? source.Read(name, type)
        : _added.TryGetValue(name, out TensorInfo? added) ? zeros([.. added.Shape], type ?? ElementTypes.ScalarTypeOf(added.ElementType))
        : ground.Read(name, type);
}
