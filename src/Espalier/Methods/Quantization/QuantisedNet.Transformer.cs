using Espalier.Checkpoints;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Quantization;

public sealed partial class QuantisedNet
{
    /// <summary>The name of the file beside a checkpoint that holds the step sizes and shifts.</summary>
    public const string FileName = "quantisers.safetensors";

    private const string Format = "espalier-ofq-1";

    /// <summary>Writes what the checkpoint of the folded net does not hold: options, step sizes and shifts.</summary>
    /// <param name="folder">The checkpoint's folder.</param>
    public void Save(string folder)
    {
        // Weights are folded: of the step sizes only those of activations are needed again.
        SafeTensorsFile.Save(Path.Combine(folder, FileName), _activations.SelectMany(a => a.Trainable).Select(t => (t.Name, (Tensor)t.Value)), new Dictionary<string, string>
        {
            ["format"] = Format,
            ["bits"] = $"{_options.Bits}",
            ["activation_bits"] = $"{_options.ActivationBits}",
            ["edge_bits"] = $"{_options.EdgeBits}",
            ["qk_reparam"] = $"{_options.QkReparam}",
        });
    }

    /// <summary>Rounds the activations of a net that was written folded, where its folder says so.</summary>
    /// <param name="net">The net as it was loaded.</param>
    /// <param name="folder">Its folder.</param>
    /// <returns>What rounds, to be disposed; null where the folder has no <see cref="FileName"/>.</returns>
    /// <exception cref="EspalierException">When the file belongs to another net.</exception>
    public static QuantisedNet? Attach(VisionModel net, string folder)
    {
        string path = Path.Combine(folder, FileName);
        if (!File.Exists(path))
        {
            return null;
        }

        using SafeTensorsFile file = SafeTensorsFile.Open(path);
        EspalierException.Require(file.Metadata.GetValueOrDefault("format") == Format, $"{path} does not hold the step sizes of a rounded net; delete it, or write the net again.");
        var options = new Ofq { Bits = Number("bits"), ActivationBits = Number("activation_bits"), EdgeBits = Number("edge_bits"), QkReparam = file.Metadata["qk_reparam"] == bool.TrueString };
        var attached = new QuantisedNet(net, options, folded: true);
        try
        {
            using var scope = NewDisposeScope();
            using var _ = no_grad();
            foreach ((string name, Tensor value) in attached._activations.SelectMany(a => a.Trainable).Select(t => (t.Name, (Tensor)t.Value)))
            {
                EspalierException.Require(file.Contains(name) && file.Read(name).shape.AsSpan().SequenceEqual(value.shape), $"{path} has no {name} of the shape that this net needs; it belongs to another one.");
                value.copy_(file.Read(name));
            }

            attached._activations.ForEach(a => a.Ready = true);
            return attached;
        }
        catch
        {
            attached.Dispose();
            throw;
        }

        int Number(string key) => int.Parse(file.Metadata[key], System.Globalization.CultureInfo.InvariantCulture);
    }

    private void AttachToTransformer()
    {
        int bits = _options.ActivationBits;
        foreach (AttentionLayer attention in _net.Layers.OfType<AttentionLayer>())
        {
            AttachToAttention(attention);
        }

        if (bits == 0)
        {
            return;
        }

        foreach (WeightLayer layer in _net.Weights)
        {
            bool edge = layer == _net.Weights[^1];
            // Images have 8 bits as they come.
            if (layer == _net.Weights[0] || (edge && _options.EdgeBits == 0))
            {
                continue;
            }

            VisionLayer input = layer.Inputs[0];
            Lsq lsq = edge ? new Lsq(_options.EdgeBits, false, LsqAxis.Tensor)
                // What GELU puts out is nearly all positive.
                : new Lsq(bits, input is PlainLayer { Kind: PlainKind.Gelu }, LsqAxis.Token);
            ActivationQuantiser quantiser = Add(layer.Name, lsq, edge ? 1 : layer.Shape.Height, edge ? 0 : input.Shape.Channels);
            Func<Tensor, Tensor>? also = input.OutputChange;
            input.OutputChange = also is null ? quantiser.Forward : x =>
            {
                using var scope = NewDisposeScope();
                return also(quantiser.Forward(x)).MoveToOuterDisposeScope();
            };
            _detach.Add(() => input.OutputChange = null);
        }
    }

    // Queries, keys, values and the softmax's rows; or, with the product of queries and keys, what it makes of the rounded tokens.
    private void AttachToAttention(AttentionLayer attention)
    {
        long tokens = attention.Shape.Height, width = attention.Shape.Channels, heads = attention.Heads;
        var qkv = (WeightLayer)attention.Inputs[0];
        bool product = _options.Reparametrises;
        ActivationQuantiser? q = null, k = null, v = null, qkx = null, rows = null;
        if (_options.ActivationBits is > 0 and var bits)
        {
            v = Add($"{attention.Name}.v", new Lsq(bits, false, LsqAxis.Channel), width, width);
            rows = Add($"{attention.Name}.softmax", new Lsq(bits, true, LsqAxis.Token), tokens, 0);
            if (product)
            {
                qkx = Add($"{attention.Name}.qkx", new Lsq(bits, false, LsqAxis.Token), tokens, heads * qkv.Columns);
            }
            else
            {
                q = Add($"{attention.Name}.q", new Lsq(bits, false, LsqAxis.Token), tokens, width);
                k = Add($"{attention.Name}.k", new Lsq(bits, false, LsqAxis.Token), tokens, width);
            }
        }

        // The product works on the tokens that enter the fused map.
        Tensor? entered = null;
        if (product)
        {
            qkv.InputObserver = x => entered = x.alias().DetachFromDisposeScope();
            _detach.Add(() => qkv.InputObserver = null);
        }

        attention.Mixing = fused =>
        {
            using var scope = NewDisposeScope();
            long images = fused.shape[0], size = width / heads;
            Tensor values = Heads(Rounded(v, fused.narrow(2, 2 * width, width))), scores;
            if (product)
            {
                using Tensor x = entered!;
                entered = null;
                Tensor map = QueryKeyProduct.Quantise(QueryKeyProduct.Of(qkv.Weight.narrow(0, 0, width), qkv.Weight.narrow(0, width, width), heads), _options.Bits);
                // Ŵ_qk·x̂ᵀ of every head and key [B, N, H·C].
                Tensor keys = Rounded(qkx, nn.functional.linear(x, map.flatten(0, 1)));
                scores = x.unsqueeze(1).matmul(keys.view(images, tokens, heads, -1).permute(0, 2, 3, 1));
            }
            else
            {
                scores = Heads(Rounded(q, fused.narrow(2, 0, width))).matmul(Heads(Rounded(k, fused.narrow(2, width, width))).transpose(-2, -1));
            }

            Tensor mixed = Rounded(rows, (scores / Math.Sqrt(size)).softmax(-1)).matmul(values);
            return mixed.transpose(1, 2).reshape(images, tokens, width).MoveToOuterDisposeScope();

            Tensor Heads(Tensor t) => t.view(images, tokens, heads, size).transpose(1, 2);
        };
        _detach.Add(() => attention.Mixing = null);

        static Tensor Rounded(ActivationQuantiser? quantiser, Tensor x) => quantiser is null ? x : quantiser.Forward(x);
    }

    private ActivationQuantiser Add(string name, Lsq lsq, long steps, long shifts)
    {
        var made = new ActivationQuantiser(name, lsq, steps, shifts, _net.Device);
        _activations.Add(made);
        return made;
    }
}
