using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Evaluation;

/// <summary>The share of ReLU outputs that are zero, in percent of all pairs of node and input; every place of a feature map is a node.</summary>
/// <param name="Layer">The layer that feeds the ReLU, or "all".</param>
/// <param name="Total">All zeros.</param>
/// <param name="Static">Those of units whose incoming weights are all zero: pruning did that.</param>
/// <param name="Count">The pairs.</param>
public sealed record DeadNeuronRate(string Layer, double Total, double Static, long Count)
{
    /// <summary>The rest: what optimisation and ReLU do.</summary>
    public double Dynamic => Total - Static;
}

/// <summary>Counts dead ReLU nodes.</summary>
/// <remarks>Liu et al., TMLR 2023, "AP: Selective Activation for De-sparsifying Pruned Networks". A unit without weights that its bias keeps alive is not dead.</remarks>
public static class DeadNeurons
{
    /// <summary>The rates of activations.</summary>
    /// <param name="layers">Name, activations [inputs, units, …] behind ReLU, and the incoming weights or their mask [units, …] (null: no unit counts as cut).</param>
    /// <returns>Layer by layer, and last over all, weighted by the number of pairs.</returns>
    /// <exception cref="EspalierException">When units and weights do not fit.</exception>
    public static IReadOnlyList<DeadNeuronRate> Of(IReadOnlyList<(string Name, Tensor Activations, Tensor? Weights)> layers)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        return Rates([.. layers.Select(l => (l.Name, Count(l.Activations, l.Weights)))]);
    }

    /// <summary>Runs a net over batches and counts.</summary>
    /// <param name="model">The net; observers of its ReLUs are put back.</param>
    /// <param name="batches">Images [batch, channels, height, width], normalised; each is disposed after use.</param>
    /// <exception cref="EspalierException">When the net has no ReLU.</exception>
    public static IReadOnlyList<DeadNeuronRate> Measure(VisionModel model, IEnumerable<Tensor> batches)
    {
        using var frozen = no_grad();
        using var watch = new DeadNeuronWatch(model);
        bool training = model.Training;
        model.Training = false;
        try
        {
            foreach (Tensor batch in batches)
            {
                using Tensor images = batch;
                using Tensor output = model.Forward(images);
            }
        }
        finally
        {
            model.Training = training;
        }

        return watch.Rates;
    }

    internal static (long Dead, long Static, long All) Count(Tensor activations, Tensor? weights)
    {
        using var scope = NewDisposeScope();
        Tensor dead = activations.detach().eq(0).transpose(0, 1).flatten(1).sum([1L]); // [units]
        long cut = 0;
        if (weights is not null)
        {
            EspalierException.Require(weights.shape[0] == dead.shape[0], $"There are activations of {dead.shape[0]} units but weights of {weights.shape[0]}; give the weights that come in.");
            cut = dead.masked_fill(weights.detach().ne(0).flatten(1).any(1), 0).sum().item<long>();
        }

        return (dead.sum().item<long>(), cut, activations.numel());
    }

    internal static IReadOnlyList<DeadNeuronRate> Rates(IReadOnlyList<(string Name, (long Dead, long Static, long All) Counts)> layers) =>
        [.. layers.Select(l => Rate(l.Name, l.Counts)), Rate("all", (layers.Sum(l => l.Counts.Dead), layers.Sum(l => l.Counts.Static), layers.Sum(l => l.Counts.All)))];

    private static DeadNeuronRate Rate(string name, (long Dead, long Static, long All) n) => new(name, n.All == 0 ? 0 : 100.0 * n.Dead / n.All, n.All == 0 ? 0 : 100.0 * n.Static / n.All, n.All);
}

/// <summary>Counts dead nodes of every ReLU of a net while it runs, until it is disposed.</summary>
public sealed class DeadNeuronWatch : IDisposable
{
    private readonly List<(PlainLayer Relu, WeightLayer? Source, Action<Tensor>? Before)> _taps = [];
    private readonly Dictionary<PlainLayer, (long Dead, long Static, long All)> _counts = [];

    /// <summary>Begins to watch.</summary>
    /// <param name="model">The net.</param>
    /// <exception cref="EspalierException">When it has no ReLU.</exception>
    public DeadNeuronWatch(VisionModel model)
    {
        foreach (PlainLayer relu in model.Layers.OfType<PlainLayer>().Where(l => l.Kind is PlainKind.Relu))
        {
            WeightLayer? source = Source(relu);
            Action<Tensor>? before = relu.OutputObserver;
            _taps.Add((relu, source, before));
            _counts[relu] = default;
            relu.OutputObserver = output =>
            {
                before?.Invoke(output);
                (long dead, long cut, long all) = DeadNeurons.Count(output, source?.Weight);
                (long Dead, long Static, long All) sum = _counts[relu];
                _counts[relu] = (sum.Dead + dead, sum.Static + cut, sum.All + all);
            };
        }

        EspalierException.Require(_taps.Count > 0, "The net has no ReLU, and only a ReLU has dead nodes; GELU is zero nowhere.");
    }

    /// <summary>The rates so far, layer by layer and last over all.</summary>
    public IReadOnlyList<DeadNeuronRate> Rates => DeadNeurons.Rates([.. _taps.Select(t => (t.Source?.Name ?? t.Relu.Name, _counts[t.Relu]))]);

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((PlainLayer relu, _, Action<Tensor>? before) in _taps)
        {
            relu.OutputObserver = before;
        }
    }

    // The map before a ReLU, through its norm; a sum of several maps has no single one.
    private static WeightLayer? Source(VisionLayer layer) => layer.Inputs[0] switch
    {
        WeightLayer weight => weight,
        BatchNormLayer norm => Source(norm),
        _ => null,
    };
}
