using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Models.Vision;

/// <summary>
/// Runs a net with gates on one image at a time and computes only the filters that its gates open: rows of a convolution's weight are gathered by
/// what its own gate chose, columns by what the gate before it chose, and maps hold open channels alone. What it gives is what the net gives.
/// </summary>
/// <remarks>Batch norms of gated convolutions are folded into copies of their weights when the runner is made, so it shows the net as it then was.</remarks>
public sealed class SkippingRunner : IDisposable
{
    private readonly VisionModel _model;
    private readonly Dictionary<VisionLayer, int> _places;
    private readonly Dictionary<GateLayer, (Tensor Weight, Tensor Bias)> _folded = [];
    private readonly HashSet<VisionLayer> _inside = [];

    /// <summary>Folds the norms of a net.</summary>
    /// <param name="model">The net; it must outlive the runner.</param>
    /// <exception cref="EspalierException">When it has no gates.</exception>
    public SkippingRunner(VisionModel model)
    {
        EspalierException.Require(model.Gates.Count > 0, "The net has no gates, so there is nothing to skip; train some with espalier train --method ftwt.");
        _model = model;
        _places = model.Layers.Index().ToDictionary(l => l.Item, l => l.Index);
        using var frozen = no_grad();
        foreach (GateLayer gate in model.Gates)
        {
            using var scope = NewDisposeScope();
            BatchNormLayer norm = NormOf(gate);
            Tensor scale = norm.Weight / (norm.RunningVariance + BatchNormLayer.Epsilon).sqrt();
            Tensor shift = norm.Bias - (scale * (gate.Convolution.Bias is { } bias ? norm.RunningMean - bias : norm.RunningMean));
            _folded[gate] = ((gate.Convolution.Weight * scale.view(-1, 1, 1, 1)).detach().DetachFromDisposeScope(), shift.detach().DetachFromDisposeScope());
            for (VisionLayer layer = gate.Inputs[1]; layer != gate.Inputs[0]; layer = layer.Inputs[0])
            {
                _inside.Add(layer);
            }
        }
    }

    /// <summary>Runs the net.</summary>
    /// <param name="image">[1, channels, height, width], float32, normalised.</param>
    /// <returns>Logits [1, classes], in the caller's scope.</returns>
    /// <exception cref="EspalierException">For more images than one.</exception>
    public Tensor Forward(Tensor image)
    {
        EspalierException.Require(image.dim() == 4 && image.shape[0] == 1, $"Filters are skipped for one image at a time, and {image.shape[0]} were given; batches save nothing this way.");
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        var maps = new Map[_model.Layers.Count];
        maps[0] = new Map(image, null, image.shape[1]);
        foreach ((int place, VisionLayer layer) in _model.Layers.Index().Skip(1).Where(l => !_inside.Contains(l.Item)))
        {
            Map input = maps[_places[layer.Inputs[0]]];
            maps[place] = layer switch
            {
                GateLayer gate => Gated(gate, input),

                // Channel by channel, so closed ones stay away.
                PlainLayer { Kind: PlainKind.MaxPool or PlainKind.MeanPool or PlainKind.Relu } => input.Open is { Length: 0 }
                    ? new Map(zeros([1, 0, layer.Shape.Height, layer.Shape.Width], device: image.device), [], input.Channels)
                    : input with { Values = layer.Run([input.Values], training: false) },
                _ => new Map(layer.Run([.. layer.Inputs.Select(i => maps[_places[i]].Whole())], training: false), null, layer.Shape.Channels),
            };
        }

        return maps[^1].Whole().MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((Tensor weight, Tensor bias) in _folded.Values)
        {
            weight.Dispose();
            bias.Dispose();
        }
    }

    private Map Gated(GateLayer gate, Map input)
    {
        Tensor logits = gate.Logits(input.Pooled(gate));
        float[] values = logits.cpu().data<float>().ToArray();
        long[] open = [.. Enumerable.Range(0, values.Length).Where(i => values[i] > 0).Select(i => (long)i)];
        open = open.Length == 0 && gate.KeepTop ? [logits.argmax().item<long>()] : open;
        ConvLayer convolution = gate.Convolution;
        Device device = input.Values.device;
        if (open.Length == 0)
        {
            return new Map(zeros([1, 0, gate.Shape.Height, gate.Shape.Width], device: device), open, gate.Shape.Channels);
        }

        (Tensor weight, Tensor bias) = _folded[gate];
        if (open.Length < values.Length)
        {
            Tensor rows = tensor(open, device: device);
            (weight, bias) = (weight.index_select(0, rows), bias.index_select(0, rows));
        }

        Tensor output = input.Open is { Length: 0 }
            ? bias.view(1, -1, 1, 1).expand(1, open.Length, gate.Shape.Height, gate.Shape.Width).clone()
            : nn.functional.conv2d(input.Values, input.Open is { } columns ? weight.index_select(1, tensor(columns, device: device)) : weight, bias,
                strides: [convolution.Stride, convolution.Stride], padding: [convolution.Padding, convolution.Padding]);
        return new Map(gate.Inputs[1] is PlainLayer ? output.relu_() : output, open.Length == values.Length ? null : open, gate.Shape.Channels);
    }

    private static BatchNormLayer NormOf(GateLayer gate) => gate.Inputs[1] as BatchNormLayer ?? (BatchNormLayer)gate.Inputs[1].Inputs[0];

    /// <summary>A map of one image of which closed channels are left out.</summary>
    /// <param name="Values">[1, open channels, …].</param>
    /// <param name="Open">The channels that it holds; null where it holds all.</param>
    /// <param name="Channels">How many there are.</param>
    private sealed record Map(Tensor Values, long[]? Open, long Channels)
    {
        /// <summary>With zeros for closed channels.</summary>
        public Tensor Whole() => Open is null ? Values : Spread(Values);

        /// <summary>What the predictor reads; the mean of a closed channel is zero.</summary>
        public Tensor Pooled(GateLayer gate)
        {
            if (Open is null || gate.Side > 1)
            {
                return GateLayer.Pool(Whole(), gate.Side, gate.Softmax);
            }

            return GateLayer.Pool(Open.Length == 0 ? zeros([1, Channels], device: Values.device) : Spread(Values.mean([2, 3])), 1, gate.Softmax);
        }

        private Tensor Spread(Tensor values)
        {
            Tensor whole = zeros([1, Channels, .. values.shape[2..]], device: values.device);
            return Open!.Length == 0 ? whole : whole.index_copy_(1, tensor(Open, device: values.device), values);
        }
    }
}
