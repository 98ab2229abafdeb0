using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>Several saved adapters of one net, of any methods: the net is switched between them, or given a weighted sum of what they change.</summary>
/// <remarks>
/// W = W₀ + Σ λᵢ(Wᵢ − W₀), with Wᵢ the weights with adapter i merged in float32. Held are W₀ and Wᵢ of the tensors that adapters change. One adapter
/// at weight 1 is exactly Wᵢ, none exactly W₀. Pruned weights are zero in W₀ and every Wᵢ, and so in every sum.
/// </remarks>
/// <param name="net">The net, as it is without adapters; the shelf changes its weights and puts them back when it is disposed.</param>
public sealed class AdapterShelf(AdaptationContext net) : IDisposable
{
    private readonly Dictionary<string, Tensor> _base = new(StringComparer.Ordinal);
    private readonly Dictionary<string, Dictionary<string, Tensor>> _adapters = new(StringComparer.Ordinal);

    /// <summary>The adapters by name, in the order in which they came.</summary>
    public IReadOnlyCollection<string> Names => _adapters.Keys;

    /// <summary>The parameters that some adapter changes.</summary>
    public IReadOnlyCollection<string> Touched => _base.Keys;

    /// <summary>Opens a saved adapter and takes it on; the net is afterwards as it was without adapters.</summary>
    /// <param name="name">A word for it.</param>
    /// <param name="folder">Its folder.</param>
    /// <param name="probe">The net's logits on a batch, for the comparison; null compares nothing.</param>
    /// <param name="bound">The largest difference that passes; null lets any pass.</param>
    /// <returns>How far merging changes the logits; null without a probe.</returns>
    /// <exception cref="EspalierException">When the name is taken, the adapter does not fit, or merging it is refused.</exception>
    public AdapterMerge? Add(string name, string folder, Func<Tensor>? probe = null, double? bound = AdapterMerge.Bound)
    {
        EspalierException.Require(!_adapters.ContainsKey(name), $"There is an adapter {name} already; give each a name of its own.");
        IAdaptation method = AdapterFile.MethodOf(folder);
        EspalierException.Require(method.Folds, $"The adapter in {folder} is not linear, so it cannot be folded into weights and takes no place among others; attach it to the net alone.");
        Use();
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor[] before = [.. net.Parameters.Select(p => _base.TryGetValue(p.Name, out Tensor? kept) ? kept : p.Value.detach().clone())];
        var changed = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        AdapterMerge? merge = null;
        try
        {
            using IAdaptationRun run = method.Begin(net with { Saved = folder });
            if (probe is null)
            {
                run.Merge();
            }
            else
            {
                merge = AdapterMerge.Fold(run, probe, bound);
            }

            foreach (((string parameter, Parameter value), Tensor old) in net.Parameters.Zip(before))
            {
                if (!value.allclose(old, 0, 0, equal_nan: true))
                {
                    changed[parameter] = value.detach().clone().DetachFromDisposeScope();
                }
            }
        }
        finally
        {
            foreach (((string parameter, Parameter value), Tensor old) in net.Parameters.Zip(before))
            {
                if (!value.allclose(old, 0, 0, equal_nan: true))
                {
                    value.copy_(old);
                }

                if (changed.ContainsKey(parameter) && !_base.ContainsKey(parameter))
                {
                    _base[parameter] = old.DetachFromDisposeScope();
                }
            }
        }

        _adapters[name] = changed;
        return merge;
    }

    /// <summary>Gives the net these adapters; none gives it back as it was.</summary>
    /// <param name="mix">Names and weights λ; a weight may be any number.</param>
    /// <exception cref="EspalierException">For a name that is not there or comes twice.</exception>
    public void Use(params IReadOnlyList<(string Name, double Weight)> mix)
    {
        string? unknown = mix.FirstOrDefault(m => !_adapters.ContainsKey(m.Name)).Name;
        EspalierException.Require(unknown is null, $"There is no adapter {unknown}; there are {string.Join(", ", _adapters.Keys)}.");
        EspalierException.Require(mix.Select(m => m.Name).Distinct().Count() == mix.Count && mix.All(m => double.IsFinite(m.Weight)), "Each adapter can be used once, with a number as its weight.");
        using var _ = no_grad();
        foreach ((string parameter, Parameter value) in net.Parameters.Where(p => _base.ContainsKey(p.Name)))
        {
            using var scope = NewDisposeScope();
            Tensor start = _base[parameter];
            (Tensor Tensor, double Weight)[] parts = [.. mix.Where(m => m.Weight != 0 && _adapters[m.Name].ContainsKey(parameter)).Select(m => (_adapters[m.Name][parameter], m.Weight))];
            if (parts is [(Tensor one, 1)])
            {
                value.copy_(one);
                continue;
            }

            ScalarType wide = start.dtype is ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
            Tensor origin = start.to(wide), sum = origin;
            foreach ((Tensor merged, double weight) in parts)
            {
                sum = sum.add(merged.to(wide) - origin, weight);
            }

            value.copy_(sum);
        }
    }

    /// <summary>Gives the net back as it was and releases the adapters.</summary>
    public void Dispose()
    {
        Use();
        Release();
    }

    /// <summary>Releases the adapters and leaves the net with those that it uses.</summary>
    public void Keep() => Release();

    private void Release()
    {
        foreach (Tensor tensor in _adapters.Values.SelectMany(a => a.Values).Concat(_base.Values))
        {
            tensor.Dispose();
        }

        _adapters.Clear();
        _base.Clear();
    }
}
