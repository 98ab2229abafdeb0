using Espalier.Models.Vision;
using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Retraining;

// Vision nets: gain and shift of batch norms, every bias, the last linear map itself, and adapters on every pruned weight, convolutions as [out, in·k·k].
public sealed partial class TrainableSubset
{
    private readonly List<(WeightLayer Layer, LowRankAdapter Adapter)> _layers = [];

    /// <summary>Selects from a vision net.</summary>
    /// <param name="net">The net.</param>
    /// <param name="options">Which subset, and the adapters' rank and alpha.</param>
    /// <param name="masks">Keep masks of pruned weights by name, in the weights' stored shapes; a weight without one takes its zeros as its mask.</param>
    /// <param name="seed">The seed of the adapters.</param>
    /// <exception cref="EspalierException">When nothing is selected or a rank does not fit.</exception>
    public static TrainableSubset Select(VisionModel net, Perp options, IReadOnlyDictionary<string, Tensor>? masks = null, Seed seed = default)
    {
        RequireAny(net, options);
        var subset = new TrainableSubset();
        try
        {
            bool full = options.Subset.HasFlag(Subset.Full);
            foreach ((string name, Parameter value, Subset kind) in Kinds(net))
            {
                Subset chosen = kind & options.Subset;
                subset._before.Add((value, value.requires_grad));
                value.requires_grad = full || chosen != 0;
                if (value.requires_grad)
                {
                    subset.Add(name, value, full ? "full" : chosen.HasFlag(Subset.Head) ? "head" : chosen.HasFlag(Subset.Biases) ? "biases" : "norms");
                }
            }

            foreach (WeightLayer layer in Adapted(net, options))
            {
                using var scope = NewDisposeScope();
                Tensor matrix = layer.Matrix.detach();
                subset.Attach(layer, Make(options, matrix, masks?.GetValueOrDefault(layer.WeightName)?.view(layer.Rows, -1), seed, layer.WeightName), Perp.WordOf(options.AdapterKind));
            }

            return subset;
        }
        catch
        {
            subset.Dispose();
            throw;
        }
    }

    /// <summary>Throws where the subset selects nothing of this net, or its rank does not fit; touches nothing.</summary>
    /// <exception cref="EspalierException">Then, with what could be selected instead.</exception>
    internal static void RequireAny(VisionModel net, Perp options)
    {
        options.Validate();
        EspalierException.Require(options.AdapterKind is not (Subset.Lora or Subset.LoraPrune),
            $"The adapter {Perp.WordOf(options.AdapterKind)} is there for language models; on a vision net use mask_lora or scale_lora, which merge exactly.");
        EspalierException.Require(options.Subset.HasFlag(Subset.Full) || options.AdapterKind is not Subset.None || Kinds(net).Any(k => (k.Kind & options.Subset) != 0),
            $"The subset {options.Subset.ToString().ToLowerInvariant()} selects nothing of this net; add biases, head or mask_lora.");
        foreach (WeightLayer layer in Adapted(net, options))
        {
            LowRankAdapter.CheckRank(options.Rank, layer.Rows, layer.Columns, layer.WeightName);
        }
    }

    // The head is trained whole, so it takes no adapter beside it.
    private static IEnumerable<WeightLayer> Adapted(VisionModel net, Perp options) => options.AdapterKind is Subset.None
        ? []
        : options.Subset.HasFlag(Subset.Head) ? net.Weights.SkipLast(1) : net.Weights;

    private static IEnumerable<(string Name, Parameter Value, Subset Kind)> Kinds(VisionModel net)
    {
        var norms = net.Layers.Where(l => l is BatchNormLayer or LayerNormLayer).SelectMany(l => l.Parameters).Select(p => p.Name).ToHashSet(StringComparer.Ordinal);
        var head = net.Weights[^1].Parameters.Select(p => p.Name).ToHashSet(StringComparer.Ordinal);
        return net.Parameters.Select(p => (p.Name, p.Value,
            (p.Name.EndsWith(".bias", StringComparison.Ordinal) ? Subset.Biases : Subset.None)
            | (norms.Contains(p.Name) ? Subset.Norms : Subset.None)
            | (head.Contains(p.Name) ? Subset.Head : Subset.None)));
    }

    private void Attach(WeightLayer layer, LowRankAdapter adapter, string group)
    {
        layer.Adapter = adapter;
        _layers.Add((layer, adapter));
        foreach ((string name, Parameter value) in adapter.Parameters)
        {
            Add($"{layer.Name}.{name}", value, group);
        }
    }

    private long MergeLayers()
    {
        long vanished = 0;
        foreach ((WeightLayer layer, LowRankAdapter adapter) in _layers)
        {
            using var scope = NewDisposeScope();
            Tensor matrix = layer.Matrix.detach();
            vanished += (adapter as ScaleLoraAdapter)?.Vanished(matrix) ?? 0;
            layer.SetMatrix(adapter.Merge(matrix));
            layer.Adapter = null;
        }

        return vanished;
    }

    private void DisposeLayers()
    {
        foreach ((WeightLayer layer, LowRankAdapter adapter) in _layers)
        {
            layer.Adapter = null;
            adapter.Dispose();
        }

        _layers.Clear();
    }
}
