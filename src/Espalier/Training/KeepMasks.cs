using System.Security.Cryptography;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>The zeros that training must not touch: for some parameters, which weights stay zero.</summary>
/// <remarks>Kept as the complement of the keep mask (one byte a weight), because <c>masked_fill_</c> leaves an exact +0 where a product could leave −0 or NaN.</remarks>
internal sealed class KeepMasks : IDisposable
{
    private readonly Dictionary<string, Parameter> _parameters;
    private readonly SortedDictionary<string, Tensor> _pruned = new(StringComparer.Ordinal);

    public KeepMasks(IReadOnlyList<(string Name, Parameter Value)> trainable, IReadOnlyDictionary<string, Tensor>? keep)
    {
        _parameters = trainable.ToDictionary(t => t.Name, t => t.Value);
        foreach ((string name, Tensor mask) in keep ?? new Dictionary<string, Tensor>())
        {
            Set(name, mask);
            long alive = CountRevived(name);
            EspalierException.Require(alive == 0,
                $"The parameter {name} has {alive} weights that are not zero although its mask prunes them; apply the mask before training.");
        }
    }

    /// <summary>Whether no parameter has a mask.</summary>
    public bool IsEmpty => _pruned.Count == 0;

    /// <summary>The names of the masked parameters, sorted.</summary>
    public IReadOnlyCollection<string> Names => _pruned.Keys;

    /// <summary>The keep mask of a parameter as a new bool tensor, or null where it has none.</summary>
    public Tensor? Keep(string name) => _pruned.TryGetValue(name, out Tensor? pruned) ? pruned.logical_not() : null;

    /// <summary>Gives a parameter another mask; weights that it prunes become zero with the next <see cref="ApplyToWeights()"/>.</summary>
    public void Set(string name, Tensor keep)
    {
        using var scope = NewDisposeScope();
        EspalierException.Require(_parameters.TryGetValue(name, out Parameter? parameter),
            $"There is a mask for {name}, which is no trainable parameter; give masks only for what is trained.");
        EspalierException.Require(keep.shape.AsSpan().SequenceEqual(parameter.shape),
            $"The mask of {name} has shape [{string.Join(", ", keep.shape)}], but the parameter has [{string.Join(", ", parameter.shape)}].");
        Tensor pruned = keep.to(ScalarType.Bool).logical_not().to(parameter.device).DetachFromDisposeScope();
        if (_pruned.Remove(name, out Tensor? old))
        {
            old.Dispose();
        }

        _pruned[name] = pruned;
    }

    /// <summary>Sets the gradients of pruned weights to zero.</summary>
    public void ApplyToGradients()
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        foreach ((string name, Tensor pruned) in _pruned)
        {
            _parameters[name].grad?.masked_fill_(pruned, 0);
        }
    }

    /// <summary>Sets the pruned weights of one parameter to zero.</summary>
    public void ApplyToWeights(string name)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        _parameters[name].masked_fill_(_pruned[name], 0);
    }

    /// <summary>Sets pruned weights to zero.</summary>
    public void ApplyToWeights()
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        foreach ((string name, Tensor pruned) in _pruned)
        {
            _parameters[name].masked_fill_(pruned, 0);
        }
    }

    /// <summary>Stops when a pruned weight is not zero.</summary>
    /// <exception cref="EspalierException">Naming the parameter.</exception>
    public void RequireZeros(long step)
    {
        foreach (string name in _pruned.Keys)
        {
            long alive = CountRevived(name);
            EspalierException.Require(alive == 0,
                $"At step {step}, {alive} pruned weights of {name} came back to life; something besides the optimizer (a hook?) changes its weights and must keep to its mask.");
        }
    }

    /// <summary>The mask of a parameter in a few characters, for telling masks apart.</summary>
    public string Fingerprint(string name)
    {
        using var scope = NewDisposeScope();
        return Convert.ToHexString(SHA256.HashData(_pruned[name].cpu().contiguous().bytes))[..16];
    }

    public void Dispose()
    {
        foreach (Tensor pruned in _pruned.Values)
        {
            pruned.Dispose();
        }

        _pruned.Clear();
    }

    private long CountRevived(string name)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        return _parameters[name].ne(0).logical_and_(_pruned[name]).sum().item<long>();
    }
}
