using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using TorchSharp.Modules;
using static TorchSharp.torch;
using Linear = Espalier.Models.Linear;

namespace Espalier.Methods.Retraining;

/// <summary>
/// The selected part of a model, switched on: everything else is frozen, adapters are attached. Disposing takes the
/// adapters off (merged or not) and gives every parameter the flag back that it had.
/// </summary>
public sealed partial class TrainableSubset : IDisposable
{
    private readonly List<(Parameter Parameter, bool Required)> _before = [];
    private readonly List<(BlockLinear Target, LowRankAdapter Adapter)> _adapters = [];
    private readonly List<(string Name, Parameter Value)> _parameters = [];
    private readonly Dictionary<string, long> _groups = new(StringComparer.Ordinal);

    private TrainableSubset()
    {
    }

    /// <summary>What is trained, by name; adapters as <c>name.lora_A</c> and <c>name.lora_B</c>.</summary>
    public IReadOnlyList<(string Name, Parameter Value)> Parameters => _parameters;

    /// <summary>Trained parameters by kind ("biases", "norms", "mask_lora"); a norm's shift that counts as a bias counts once.</summary>
    public IReadOnlyDictionary<string, long> Groups => _groups;

    /// <summary>How many numbers are trained.</summary>
    public long Count => _groups.Values.Sum();

    /// <summary>The adapters with the linear maps that they change.</summary>
    public IReadOnlyList<(BlockLinear Target, LowRankAdapter Adapter)> Adapters => _adapters;

    /// <summary>Selects from a whole model.</summary>
    /// <param name="model">The model, float32.</param>
    /// <param name="options">Which subset, and the adapters' rank and alpha.</param>
    /// <param name="masks">The masks of pruned weights by name; a linear map without one takes its zeros as its mask.</param>
    /// <param name="seed">The seed of the adapters.</param>
    /// <param name="progress">Warned where a tied head is skipped.</param>
    /// <exception cref="EspalierException">When nothing is selected or a rank does not fit.</exception>
    public static TrainableSubset Select(LanguageModel model, Perp options, IReadOnlyDictionary<string, SparsityMask>? masks = null, Seed seed = default, IProgressSink? progress = null) =>
        Select([.. model.Parts], options, masks, seed, progress);

    /// <summary>Selects from some parts of a model (one block, in layer-wise reconstruction).</summary>
    public static TrainableSubset Select(IReadOnlyList<ModelPart> parts, Perp options, IReadOnlyDictionary<string, SparsityMask>? masks = null, Seed seed = default, IProgressSink? progress = null)
    {
        Linear? head = parts.OfType<OutputHead>().FirstOrDefault()?.Projection;
        RequireAny(parts, options, head);
        var subset = new TrainableSubset();
        try
        {
            subset.SwitchOn(parts, options);
            subset.Attach(parts, options, head, masks, seed);
        }
        catch
        {
            subset.Dispose();
            throw;
        }

        if (options.Subset.HasFlag(Subset.Head) && head is null && parts.Any(p => p is OutputHead))
        {
            progress?.Warn("The head is tied to the token table, so no adapter is put on it; training it would change the embedding too.");
        }

        return subset;
    }

    /// <summary>Throws where the subset selects nothing of these parts, or its rank does not fit; touches nothing.</summary>
    /// <exception cref="EspalierException">Then, with what could be selected instead.</exception>
    internal static void RequireAny(IReadOnlyList<ModelPart> parts, Perp options, Linear? head)
    {
        options.Validate();
        bool any = options.Subset.HasFlag(Subset.Full) || options.AdapterKind is not Subset.None || (options.Subset.HasFlag(Subset.Head) && head is not null)
            || parts.Any(p => Kinds(p).Any(t => (t.Kind & options.Subset) != 0));
        EspalierException.Require(any,
            $"The subset {options.Subset.ToString().ToLowerInvariant()} selects nothing: this model has no such parameters{(options.Subset.HasFlag(Subset.Head) ? " or its head is tied" : "")}; add norms or mask_lora.");
        if (options.AdapterKind is not Subset.None)
        {
            foreach (BlockLinear linear in parts.OfType<DecoderBlock>().SelectMany(b => b.Linears))
            {
                LowRankAdapter.CheckRank(options.Rank, linear.Linear.OutFeatures, linear.Linear.InFeatures, linear.Name);
            }
        }
    }

    /// <summary>Folds every adapter into its weight; what was pruned stays exactly 0.</summary>
    /// <param name="progress">Warned of kept weights that became 0.</param>
    /// <exception cref="EspalierException">Where an adapter cannot be folded in; nothing is then changed.</exception>
    public void Merge(IProgressSink? progress = null)
    {
        foreach (LoraAdapter lora in _adapters.Select(a => a.Adapter).OfType<LoraAdapter>())
        {
            lora.RequireDense();
        }

        long vanished = MergeLayers();
        foreach ((BlockLinear target, LowRankAdapter adapter) in _adapters)
        {
            using var scope = NewDisposeScope();
            Tensor matrix = target.Linear.Matrix.detach();
            vanished += (adapter as ScaleLoraAdapter)?.Vanished(matrix) ?? 0;
            target.Linear.SetMatrix(adapter.Merge(matrix));
            target.Linear.Adapter = null;
        }

        if (vanished > 0)
        {
            progress?.Warn($"{vanished} kept weights became exactly 0 under their scale; they still count as kept.");
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((BlockLinear target, LowRankAdapter adapter) in _adapters)
        {
            target.Linear.Adapter = null;
            adapter.Dispose();
        }

        _adapters.Clear();
        DisposeLayers();
        _before.ForEach(b => b.Parameter.requires_grad = b.Required);
        _before.Clear();
        _parameters.Clear();
    }

    /// <summary>The biases and norm parameters of a part, each with its kinds.</summary>
    internal static IEnumerable<(string Name, Parameter Value, Subset Kind)> Kinds(ModelPart part)
    {
        var norms = new HashSet<Parameter>(ReferenceEqualityComparer.Instance);
        foreach (nn.Module module in part.modules())
        {
            if (module is RmsNorm or Models.LayerNorm)
            {
                norms.UnionWith(module.parameters());
            }
        }

        return part.Tensors.Select(t => (t.Name, t.Value,
            (t.Name.EndsWith(".bias", StringComparison.Ordinal) ? Subset.Biases : Subset.None) | (norms.Contains(t.Value) ? Subset.Norms : Subset.None)));
    }

    private void SwitchOn(IReadOnlyList<ModelPart> parts, Perp options)
    {
        bool full = options.Subset.HasFlag(Subset.Full);
        foreach ((string name, Parameter value, Subset kind) in parts.SelectMany(Kinds))
        {
            Subset chosen = kind & options.Subset;
            bool train = full || chosen != 0;
            _before.Add((value, value.requires_grad));
            value.requires_grad = train;
            if (train)
            {
                Add(name, value, full ? "full" : chosen.HasFlag(Subset.Biases) ? "biases" : "norms");
            }
        }
    }

    private void Attach(IReadOnlyList<ModelPart> parts, Perp options, Linear? head, IReadOnlyDictionary<string, SparsityMask>? masks, Seed seed)
    {
        if (options.AdapterKind is not Subset.None)
        {
            foreach (BlockLinear linear in parts.OfType<DecoderBlock>().SelectMany(b => b.Linears))
            {
                using var scope = NewDisposeScope();
                Tensor matrix = linear.Linear.Matrix.detach();
                Tensor? keep = masks?.GetValueOrDefault(linear.Name)?.ToTensor(matrix.device);
                Attach(linear, Make(options, matrix, keep, seed, linear.Name), Perp.WordOf(options.AdapterKind));
            }
        }

        if (options.Subset.HasFlag(Subset.Head) && head is not null)
        {
            using var scope = NewDisposeScope();
            string name = parts.OfType<OutputHead>().First().Tensors.First(t => ReferenceEquals(t.Value, head.weight)).Name;
            int rank = (int)Math.Min(options.Rank, Math.Min(head.InFeatures, head.OutFeatures));

            Attach(new BlockLinear(name, head, Stage: 0), LoraAdapter.OfDense(head.Matrix.detach(), rank, options.Alpha, seed, name), "head");
        }
    }

    private static LowRankAdapter Make(Perp options, Tensor matrix, Tensor? keep, Seed seed, string name) => options.AdapterKind switch
    {
        Subset.MaskLora => new MaskLoraAdapter(matrix, options.Rank, options.Alpha, seed, name, keep),
        Subset.LoraPrune => new LoraPruneAdapter(matrix, options.Rank, options.Alpha, seed, name, keep),
        Subset.ScaleLora => new ScaleLoraAdapter(matrix, options.Rank, name, keep),
        _ => new LoraAdapter(matrix, options.Rank, options.Alpha, seed, name, keep),
    };

    private void Attach(BlockLinear target, LowRankAdapter adapter, string group)
    {
        target.Linear.Adapter = adapter;
        _adapters.Add((target, adapter));
        string stem = target.Name.EndsWith(".weight", StringComparison.Ordinal) ? target.Name[..^".weight".Length] : target.Name;
        foreach ((string name, Parameter value) in ((ILinearAdapter)adapter).Parameters)
        {
            Add($"{stem}.{name}", value, group);
        }
    }

    private void Add(string name, Parameter value, string group)
    {
        _parameters.Add((name, value));
        _groups[group] = _groups.GetValueOrDefault(group) + value.numel();
    }
}
