using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

/// <summary>
/// A vision net whose weights, and those of a ViT's activations, are rounded at every forward pass while the float values are trained. The net itself stays
/// what it is; disposing this gives it its float arithmetic back.
/// </summary>
public sealed partial class QuantisedNet : IDisposable
{
    private readonly VisionModel _net;
    private readonly Ofq _options;
    private readonly List<QuantisedWeight> _weights = [];
    private readonly List<ActivationQuantiser> _activations = [];
    private readonly List<Action> _detach = [];

    /// <summary>Attaches to a net.</summary>
    /// <param name="net">The net; it outlives this object.</param>
    /// <param name="options">What is rounded, and how.</param>
    /// <exception cref="EspalierException">When activations are to be rounded and the net is no ViT.</exception>
    public QuantisedNet(VisionModel net, Ofq options)
        : this(net, options, folded: false)
    {
    }

    private QuantisedNet(VisionModel net, Ofq options, bool folded)
    {
        (_net, _options) = (net, options);
        options.RequireRoundable(net);
        WeightLayer first = net.Weights[0], last = net.Weights[^1];
        HashSet<string> fused = options.Reparametrises ? [.. net.Layers.OfType<AttentionLayer>().Select(a => a.Inputs[0].Name)] : [];
        foreach (WeightLayer layer in folded ? [] : net.Weights)
        {
            bool edge = layer == first || layer == last, learnt = edge || options.Weights is not OfqWeights.StatsQ;
            if (edge && options.EdgeBits == 0)
            {
                continue;
            }

            long from = fused.Contains(layer.Name) ? 2 * layer.Rows / 3 : 0;
            LsqAxis axis = edge ? LsqAxis.Tensor : LsqAxis.Row;
            _weights.Add(new QuantisedWeight(layer.WeightName, layer.Weight, edge ? options.EdgeBits : options.Bits, c => layer.WeightChange = c)
            {
                From = from,
                Steps = learnt ? Models.Parameters.Of(zeros(edge ? 1 : layer.Rows - from, device: net.Device)) : null,
                StepAxis = axis,
                Halves = !edge && options.Weights is OfqWeights.LsqHalves,
                Watched = !edge,
            });
        }

        _weights.ForEach(w => w.Attach());
        if (options.ActivationBits > 0 || options.Reparametrises)
        {
            AttachToTransformer();
        }
    }

    /// <summary>What is trained beside the net, by name: step sizes and shifts.</summary>
    public IReadOnlyList<(string Name, Parameter Value)> Extra =>
        [.. _weights.Where(w => w.Steps is not null).Select(w => ($"{w.Name}.steps", w.Steps!)), .. _activations.SelectMany(a => a.Trainable)];

    /// <summary>Step sizes and shifts are not decayed.</summary>
    public Func<string, ParameterGroup> Groups
    {
        get
        {
            HashSet<string> own = [.. Extra.Select(e => e.Name)];
            return name => own.Contains(name) ? new ParameterGroup(1, 0) : new ParameterGroup();
        }
    }

    /// <summary>What the training loop is given: it counts oscillations and freezes confident weights from a step on. The caller disposes it.</summary>
    /// <param name="annealFrom">The first step with frozen weights; null never freezes.</param>
    /// <param name="progress">Hears the curve.</param>
    public OscillationHook Hook(long? annealFrom = null, IProgressSink? progress = null) => new(_weights, _options, annealFrom ?? long.MaxValue, progress ?? SilentProgress.Instance);

    /// <summary>Bits of all weights in rounded layers, which is what a store of levels would take; with queries and keys as one product per head that is H·C² weights instead of 2·C².</summary>
    public long WeightBits
    {
        get
        {
            long bits = _weights.Sum(w => (w.Value.numel() - (w.From * (w.Value.numel() / w.Value.shape[0]))) * (w.Watched ? _options.Bits : _options.EdgeBits));
            return bits + (_options.Reparametrises ? _net.Layers.OfType<AttentionLayer>().Sum(a => a.Heads * a.Shape.Channels * a.Shape.Channels * _options.Bits) : 0);
        }
    }

    /// <summary>Takes over the step sizes and shifts of another net that is rounded in the same way.</summary>
    public void CopyFrom(QuantisedNet other)
    {
        using var frozen = no_grad();
        foreach ((var mine, var theirs) in Extra.Zip(other.Extra))
        {
            using var scope = NewDisposeScope();
            mine.Value.copy_(theirs.Value);
        }

        _activations.ForEach(a => a.Ready = true);
    }

    /// <summary>Writes rounded values over the float ones, so that the checkpoint holds them. Queries and keys of a product stay float, for the product is what is rounded.</summary>
    public void Fold() => _weights.ForEach(w => w.Fold());

    /// <inheritdoc/>
    public void Dispose()
    {
        _detach.ForEach(d => d());
        _weights.ForEach(w => w.Dispose());
        _activations.ForEach(a => a.Dispose());
    }
}
