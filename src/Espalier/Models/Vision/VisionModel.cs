using Espalier.Runtime;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Models.Vision;

/// <summary>
/// A vision net in memory: its layers as a graph, its tensors under the names of its checkpoint, and the channels that can be cut out of it.
/// </summary>
public sealed partial class VisionModel : IDisposable
{
    private readonly int[][] _inputs;
    private readonly int[] _lastUse;

    private VisionModel(VisionConfig config, Device device)
    {
        (Config, Device) = (config, device);
        VisionFamily family = VisionFamily.Named(config.ModelType, config.Fields.Origin);
        var graph = new VisionGraph(config, device) { Gain = family.Gain };
        family.Build(graph, config);
        Layers = graph.Layers;
        Weights = [.. Layers.OfType<WeightLayer>()];
        Parameters = [.. Layers.SelectMany(l => l.Parameters)];
        Buffers = [.. Layers.SelectMany(l => l.Buffers)];
        Groups = [.. Layers.Select(l => l.Channels.Root).Distinct().Select(s => s.Group).OfType<CoupledGroup>()];
        (Gates, Gateable) = ([.. Layers.OfType<GateLayer>()], graph.Gateable);
        string? shut = config.Gates?.Layers.Except(Gateable).FirstOrDefault();
        EspalierException.Require(shut is null, $"{config.Fields.Origin} wants a gate at {shut}, which is no convolution with a batch norm behind it; gates are possible at {(Gateable.Count == 0 ? "none of this net's layers" : string.Join(", ", Gateable.Take(6)))}.");
        string? unknown = config.Widths.Keys.Except(Weights.Select(w => w.Name)).Concat(config.Maps.Keys.Except(Layers.OfType<PadShortcutLayer>().Select(l => l.Name))).FirstOrDefault();
        EspalierException.Require(unknown is null, $"{config.Fields.Origin} gives a width or map for {unknown}, which is no layer of this net.");
        (_inputs, _lastUse) = Order(Layers);
    }

    /// <summary>Its configuration.</summary>
    public VisionConfig Config { get; }

    /// <summary>Where its tensors live.</summary>
    public Device Device { get; }

    /// <summary>Whether batch norms use the batch's own statistics and move the running ones. Default false.</summary>
    public bool Training { get; set; }

    /// <summary>Every layer in the order in which they run: the images first, the output last.</summary>
    public IReadOnlyList<VisionLayer> Layers { get; }

    /// <summary>The convolutions and linear maps, in order: what can be masked.</summary>
    public IReadOnlyList<WeightLayer> Weights { get; }

    /// <summary>What is trained, under checkpoint names, in order.</summary>
    public IReadOnlyList<(string Name, Parameter Value)> Parameters { get; }

    /// <summary>What is stored but not trained: the running statistics of batch norms.</summary>
    public IReadOnlyList<(string Name, Tensor Value)> Buffers { get; }

    /// <summary>
    /// The channels, heads and neurons that can be cut, each group with every tensor slice that goes with a unit. Maps that are added to each
    /// other are one group; the images and the output are none.
    /// </summary>
    public IReadOnlyList<CoupledGroup> Groups { get; }

    /// <summary>The number of parameters.</summary>
    public long ParameterCount => Parameters.Sum(p => p.Value.numel());

    /// <summary>Multiply-accumulates of one image, zeros counted like other weights.</summary>
    public long Macs => Layers.Sum(l => l.Macs);

    /// <summary>A net with random weights.</summary>
    /// <param name="config">Its shape.</param>
    /// <param name="seed">Every layer draws from a stream of its own name.</param>
    /// <param name="device">Where it lives; null is the CPU.</param>
    public static VisionModel Random(VisionConfig config, Seed seed, Device? device = null)
    {
        var model = new VisionModel(config, device ?? CPU);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        foreach (VisionLayer layer in model.Layers)
        {
            using Generator generator = seed.Generator($"initialize {layer.Name}");
            layer.Initialize(generator);
        }

        return model;
    }

    /// <summary>A net without values: shapes, names, groups and multiply-accumulates, and no memory for weights.</summary>
    /// <param name="config">Its shape.</param>
    public static VisionModel Outline(VisionConfig config) => new(config, Placement.Meta.Device);

    /// <summary>The layer of a name.</summary>
    /// <exception cref="EspalierException">When there is none.</exception>
    public VisionLayer Layer(string name) => Layers.FirstOrDefault(l => l.Name == name)
        ?? throw new EspalierException($"The net has no layer '{name}'; it has {string.Join(", ", Layers.Take(6).Select(l => l.Name))}, ….");

    /// <summary>Runs the net.</summary>
    /// <param name="images">[images, channels, height, width], float32, normalised as the configuration says.</param>
    /// <returns>Logits [images, classes], or images; in the caller's scope.</returns>
    /// <exception cref="EspalierException">When the images have other channels.</exception>
    public Tensor Forward(Tensor images) => Forward(images, Layers[^1]);

    /// <summary>Runs the net up to a layer and gives what that puts out; later layers are not run.</summary>
    /// <param name="images">As for the whole net.</param>
    /// <param name="until">One of <see cref="Layers"/>.</param>
    /// <returns>The layer's output, in the caller's scope.</returns>
    /// <exception cref="EspalierException">When the images have other channels.</exception>
    public Tensor Forward(Tensor images, VisionLayer until)
    {
        EspalierException.Require(images.dim() == 4 && images.shape[1] == Config.Channels,
            $"The net takes images [count, {Config.Channels}, height, width], not [{string.Join(", ", images.shape)}].");
        using var scope = NewDisposeScope();
        int last = until == Layers[^1] ? Layers.Count - 1 : Layers.Index().First(l => l.Item == until).Index;
        var values = new Tensor[last + 1];
        values[0] = images.alias();
        for (int i = 1; i <= last; i++)
        {
            values[i] = Layers[i].Run([.. _inputs[i].Select(j => values[j])], Training);
            foreach (int j in _inputs[i].Where(j => _lastUse[j] == i))
            {
                // The graph of gradients holds what it needs by itself.
                values[j].Dispose();
            }
        }

        return values[^1].MoveToOuterDisposeScope();
    }

    /// <summary>A second net with the same values and no shared memory.</summary>
    public VisionModel Clone()
    {
        var copy = new VisionModel(Config, Device);
        copy.CopyFrom(this);
        return copy;
    }

    /// <summary>Takes over all parameters and buffers of a net of the same shape.</summary>
    public void CopyFrom(VisionModel other)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        foreach (((string name, Tensor value), (string theirs, Tensor source)) in Tensors.Zip(other.Tensors))
        {
            EspalierException.Require(name == theirs && value.shape.AsSpan().SequenceEqual(source.shape), $"The nets differ at {name}; values are copied only between nets of one shape.");
            value.copy_(source);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (VisionLayer layer in Layers)
        {
            layer.Dispose();
        }
    }

    private static (int[][] Inputs, int[] LastUse) Order(IReadOnlyList<VisionLayer> layers)
    {
        var index = layers.Index().ToDictionary(l => l.Item, l => l.Index);
        int[][] inputs = [.. layers.Select(l => l.Inputs.Select(i => index[i]).ToArray())];
        var last = new int[layers.Count];
        for (int i = 0; i < inputs.Length; i++)
        {
            foreach (int j in inputs[i])
            {
                last[j] = i;
            }
        }

        return (inputs, last);
    }
}
