using Espalier.Models;
using Espalier.Models.Vision;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>A weight as sparse training sees it, of a vision net or of a language model.</summary>
public sealed class SparseWeight
{
    private readonly Action<Func<Tensor, Tensor>?> _change;

    private SparseWeight(string name, Parameter value, bool inputsFirst, long macs, Action<Func<Tensor, Tensor>?> change) =>
        (Name, Value, InputsFirst, Macs, _change) = (name, value, inputsFirst, macs, change);

    /// <summary>Its checkpoint name, which is also its name in the training loop.</summary>
    public string Name { get; }

    /// <summary>The trained values in their stored layout: [out, in], [out, in, k, k], or [in, out] where <see cref="InputsFirst"/>.</summary>
    public Parameter Value { get; }

    /// <summary>Whether it is stored as [in, out] (GPT-2).</summary>
    public bool InputsFirst { get; }

    /// <summary>Multiply-accumulates for one image or one token.</summary>
    public long Macs { get; }

    /// <summary>The maps of a language model's blocks; embeddings and the head stay dense.</summary>
    /// <param name="model">The model.</param>
    public static IReadOnlyList<SparseWeight> Of(LanguageModel model) =>
        [.. model.Blocks.SelectMany(b => b.Linears).Select(l => new SparseWeight(l.Name, l.Linear.weight, l.Linear.Layout is WeightLayout.InOut, l.Linear.weight.numel(), c => l.Linear.WeightChange = c))];

    /// <summary>Every convolution and linear map of a vision net, first and last included.</summary>
    /// <param name="model">The net.</param>
    public static IReadOnlyList<SparseWeight> Of(VisionModel model) =>
        [.. model.Weights.Select(l => new SparseWeight(l.WeightName, l.Weight, inputsFirst: false, l.Macs, c => l.WeightChange = c))];

    /// <summary>Makes the weight that is used from the stored one at every forward pass, within the graph of gradients; null uses it as it is.</summary>
    /// <param name="change">From the stored weight to one of the same shape.</param>
    public void Change(Func<Tensor, Tensor>? change) => _change(change);

    /// <summary>The weight as [out, in·k·k] outside any graph: a view; the caller's scope disposes it.</summary>
    public Tensor Matrix()
    {
        using Tensor plain = Value.detach();
        using Tensor rows = InputsFirst ? plain.t() : plain.alias();
        return rows.flatten(1);
    }

    /// <summary>Which weights are not zero, as [out, in·k·k]; the caller's scope disposes it.</summary>
    public Tensor Kept()
    {
        using Tensor matrix = Matrix();
        return matrix.ne(0);
    }
}
