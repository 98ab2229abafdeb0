using Espalier.Models;
using Espalier.Models.Vision;
using TorchSharp.Modules;
using static TorchSharp.torch;
using Linear = Espalier.Models.Linear;

namespace Espalier.Training;

/// <summary>A weight as methods see it: the linear map of a language model, or the convolution or linear map of a vision net.</summary>
public sealed class NetWeight
{
    private readonly Linear? _linear;
    private readonly WeightLayer? _layer;

    private NetWeight(string name, Linear linear, bool head = false) =>
        (Name, Value, InputsFirst, Macs, IsHead, _linear) = (name, linear.weight, linear.Layout is WeightLayout.InOut, linear.weight.numel(), head, linear);

    private NetWeight(WeightLayer layer, bool head) => (Name, Value, Macs, IsHead, _layer) = (layer.WeightName, layer.Weight, layer.Macs, head, layer);

    /// <summary>Its checkpoint name, which is also its name in the training loop.</summary>
    public string Name { get; }

    /// <summary>The trained values in their stored layout: [out, in], [out, in, k, k], or [in, out] where <see cref="InputsFirst"/>.</summary>
    public Parameter Value { get; }

    /// <summary>Whether it is stored as [in, out] (GPT-2).</summary>
    public bool InputsFirst { get; }

    /// <summary>Multiply-accumulates for one image or one token.</summary>
    public long Macs { get; }

    /// <summary>The name of the map that it belongs to: <see cref="Name"/> without ".weight".</summary>
    public string Module => Name.EndsWith(".weight", StringComparison.Ordinal) ? Name[..^".weight".Length] : Name;

    /// <summary>The rows of <see cref="Matrix"/>: outputs.</summary>
    public long Rows => InputsFirst ? Value.shape[1] : Value.shape[0];

    /// <summary>The columns of <see cref="Matrix"/>: inputs, in·k·k of a convolution.</summary>
    public long Columns => Value.numel() / Rows;

    /// <summary>Whether it makes the net's answer: the head of a language model, the last layer of a vision net.</summary>
    public bool IsHead { get; }

    /// <summary>Whether it is a convolution's, stored as [out, in, k, k].</summary>
    public bool IsConvolution => Value.dim() == 4;

    /// <summary>The map's bias [out]; null where it has none.</summary>
    public Parameter? Bias => _linear is null ? _layer!.Bias : _linear.bias;

    /// <summary>The map of a language model; null where it is a vision net's.</summary>
    public Linear? Linear => _linear;

    /// <summary>The layer of a vision net; null where it is a language model's.</summary>
    public WeightLayer? Layer => _layer;

    /// <summary>What is attached now; null for none.</summary>
    public ILinearAdapter? Adapter => _linear is null ? _layer!.Adapter : _linear.Adapter;

    /// <summary>Whether the weight is stored in a compact form: it can carry an adapter but cannot be overwritten.</summary>
    public bool IsCompact => _linear?.Compact is not null;

    /// <summary>The maps of a language model's blocks; embeddings and the head are left out.</summary>
    /// <param name="model">The model.</param>
    public static IReadOnlyList<NetWeight> Of(LanguageModel model) => [.. model.Blocks.SelectMany(b => b.Linears).Select(l => new NetWeight(l.Name, l.Linear))];

    /// <summary>The head of a language model; null where it is tied to the token table.</summary>
    /// <param name="model">The model.</param>
    public static NetWeight? HeadOf(LanguageModel model) => model.Head.Projection is { } head
        ? new NetWeight(model.Head.Tensors.First(t => ReferenceEquals(t.Value, head.weight)).Name, head, head: true)
        : null;

    /// <summary>Every convolution and linear map of a vision net, first and last included.</summary>
    /// <param name="model">The net.</param>
    public static IReadOnlyList<NetWeight> Of(VisionModel model) => [.. model.Weights.Select((l, i) => new NetWeight(l, head: i == model.Weights.Count - 1))];

    /// <summary>Makes the weight that is used from the stored one at every forward pass, within the graph of gradients; null uses it as it is.</summary>
    /// <param name="change">From the stored weight to one of the same shape.</param>
    public void Change(Func<Tensor, Tensor>? change)
    {
        if (_linear is null)
        {
            _layer!.WeightChange = change;
        }
        else
        {
            _linear.WeightChange = change;
        }
    }

    /// <summary>Puts an adapter on the weight, or takes it off (null); who attaches it disposes it.</summary>
    /// <param name="adapter">The adapter, or null.</param>
    public void Attach(ILinearAdapter? adapter)
    {
        if (_linear is null)
        {
            _layer!.Adapter = adapter;
        }
        else
        {
            _linear.Adapter = adapter;
        }
    }

    /// <summary>Shows the map's input before every product, as it comes ([..., in], or an image [batch, in, height, width]); null ends that. It must not be kept or changed.</summary>
    /// <param name="observer">Sees the input.</param>
    public void Observe(Action<Tensor>? observer)
    {
        if (_linear is null)
        {
            _layer!.InputObserver = observer;
        }
        else
        {
            _linear.InputObserver = observer;
        }
    }

    /// <summary>An observed input as the rows that <see cref="Matrix"/> multiplies.</summary>
    /// <param name="input">What <see cref="Observe"/> showed.</param>
    /// <returns>[rows, in·k·k], in the caller's scope.</returns>
    public Tensor InputRows(Tensor input)
    {
        using Tensor patches = _layer is null ? input.alias() : _layer.Patches(input);
        return patches.reshape(-1, Columns);
    }

    /// <summary>Overwrites the weight in its own layout and element type, outside any gradient.</summary>
    /// <param name="matrix">[out, in·k·k].</param>
    /// <exception cref="Runtime.EspalierException">When the weight is packed.</exception>
    public void SetMatrix(Tensor matrix)
    {
        Runtime.EspalierException.Require(!IsCompact, $"{Name} is stored in a packed form and cannot be changed; use the model that it was packed from.");
        if (_linear is null)
        {
            _layer!.SetMatrix(matrix);
        }
        else
        {
            _linear.SetMatrix(matrix);
        }
    }

    /// <summary>A mask of the matrix in the layout in which the weight is stored, as the training loop wants it.</summary>
    /// <param name="matrix">[out, in·k·k].</param>
    /// <returns>Shaped like <see cref="Value"/>, in the caller's scope.</returns>
    public Tensor InStoredLayout(Tensor matrix) => InputsFirst ? matrix.t().contiguous() : matrix.reshape(Value.shape);

    /// <summary>The weight as [out, in·k·k] outside any graph: a view; the caller's scope disposes it.</summary>
    public Tensor Matrix()
    {
        if (_linear?.Compact is not null)
        {
            return _linear.Matrix;
        }

        using Tensor plain = Value.detach();
        return AsMatrix(plain);
    }

    /// <summary>What is stored like the weight (its gradient) as [out, in·k·k]: a view; the caller's scope disposes it.</summary>
    /// <param name="stored">Shaped like <see cref="Value"/>.</param>
    public Tensor AsMatrix(Tensor stored)
    {
        using Tensor rows = InputsFirst ? stored.t() : stored.alias();
        return rows.flatten(1);
    }

    /// <summary>Which weights are not zero, as [out, in·k·k]; the caller's scope disposes it.</summary>
    public Tensor Kept()
    {
        using Tensor matrix = Matrix();
        return matrix.ne(0);
    }
}
