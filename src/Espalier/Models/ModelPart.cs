using Espalier.Checkpoints;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>
/// A piece of a language model that is loaded, pruned and written on its own: the embedding, one decoder block, or the
/// head. It knows the full checkpoint name of every tensor it holds.
/// </summary>
public abstract class ModelPart : nn.Module
{
    private readonly List<(string Name, nn.Module Module)> components = [];

    /// <summary>Makes an empty part.</summary>
    protected ModelPart(string name)
        : base(name)
    {
    }

    /// <summary>The parameters under their full checkpoint names, in a fixed order. A tied weight belongs to the embedding alone.</summary>
    public IReadOnlyList<(string Name, Parameter Value)> Tensors =>
        [.. components.SelectMany(c => c.Module.named_parameters().Select(p => ($"{c.Name}.{p.name}", p.parameter)))];

    /// <summary>The number of parameters; a tied weight counts in the embedding alone.</summary>
    public long ParameterCount => Tensors.Sum(t => t.Value.numel());

    /// <summary>The bytes that the weights take in memory, compact ones as they are.</summary>
    public long WeightBytes => components.Sum(c => c.Module switch
    {
        Linear { Compact: { } compact } => compact.StoredBytes,
        LookupTable { Compact: { } compact } => compact.StoredBytes,
        _ => c.Module.parameters().Sum(p => p.numel() * p.element_size()),
    });

    /// <summary>What one channel of the residual stream is in this part's tensors: the slices to cut when a channel goes.</summary>
    public abstract IReadOnlyList<SlicePattern> HiddenChannelSlices { get; }

    /// <summary>Something that lives exactly as long as this part (the embedding that a lone tied head reads).</summary>
    internal IDisposable? Companion { get; set; }

    /// <summary>Sets every parameter from a checkpoint, converting the element type.</summary>
    /// <param name="source">The tensors.</param>
    /// <param name="compact">Leaves the weights that the source has in a compact form in that form.</param>
    /// <exception cref="EspalierException">When a tensor is missing or has another shape.</exception>
    internal void Fill(ITensorSource source, bool compact = false)
    {
        using var _ = no_grad();
        HashSet<string> taken = compact && source is ICompactSource has ? TakeCompact(has) : [];
        foreach ((string name, Parameter value) in Tensors)
        {
            IReadOnlyList<long> stored = source.Info(name).Shape;
            EspalierException.Require(stored.SequenceEqual(value.shape),
                $"The tensor {name} is [{string.Join(", ", stored)}] in the checkpoint, but {ModelConfig.FileName} makes it [{string.Join(", ", value.shape)}]; they do not belong together.");
            if (!taken.Contains(name))
            {
                using Tensor tensor = source.Read(name);
                value.copy_(tensor);
            }
        }
    }

    private HashSet<string> TakeCompact(ICompactSource source)
    {
        var taken = new HashSet<string>(StringComparer.Ordinal);
        foreach ((string name, nn.Module module) in components.Where(c => c.Module is Linear or LookupTable))
        {
            string weight = $"{name}.weight";
            if (source.ReadCompact(weight, (module as Linear)?.Layout ?? WeightLayout.OutIn) is not { } compact)
            {
                continue;
            }

            taken.Add(weight);
            if (module is Linear linear)
            {
                linear.Use(compact);
            }
            else
            {
                ((LookupTable)module).Use(compact);
            }
        }

        return taken;
    }

    /// <summary>Sets every parameter as for training from scratch: norms one, biases zero, all else normal.</summary>
    /// <param name="deviation">The standard deviation.</param>
    /// <param name="seed">Every tensor draws from a stream of its own name.</param>
    internal void Initialize(double deviation, Seed seed)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        foreach ((string name, Parameter value) in Tensors)
        {
            if (value.dim() > 1)
            {
                using Generator generator = seed.Generator($"initialize {name}");
                value.copy_(normal(0, deviation, value.shape, ScalarType.Float32, generator: generator));
            }
            else
            {
                value.fill_(name.EndsWith(".bias", StringComparison.Ordinal) ? 0 : 1);
            }
        }
    }

    /// <summary>Takes in a layer under its full checkpoint name.</summary>
    protected T Add<T>(string name, T module)
        where T : nn.Module
    {
        components.Add((name, module));
        register_module(name.Replace('.', '_'), module);
        return module;
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (disposing)
        {
            Companion?.Dispose();
            Companion = null;
        }
    }
}
