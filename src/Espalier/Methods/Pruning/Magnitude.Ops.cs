using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

public sealed partial class Magnitude
{
    [ParityOp("magnitude.mask_layer")]
    internal static IReadOnlyDictionary<string, Tensor> MaskLayerOp(ParityCase c) => new Dictionary<string, Tensor>
    {
        ["keep"] = MaskLayer(c.Input("W"), c.Parameter<double>("sparsity")),
    };

    [ParityOp("magnitude.mask_nm")]
    internal static IReadOnlyDictionary<string, Tensor> MaskNMOp(ParityCase c) => new Dictionary<string, Tensor>
    {
        ["keep"] = MaskNM(c.Input("W"), c.Parameter<int>("prune_n"), c.Parameter<int>("m")),
    };

    [ParityOp("magnitude.mask_global")]
    internal static IReadOnlyDictionary<string, Tensor> MaskGlobalOp(ParityCase c)
    {
        IReadOnlyList<Tensor> weights = c.Numbered("W");
        int layers = c.Parameter("layers", weights.Count);
        EspalierException.Require(layers == weights.Count, $"The case promises {layers} layers, but has {weights.Count} inputs in.W0, in.W1, ...");
        IReadOnlyList<Tensor> keep = MaskGlobal([.. weights.Select((w, i) => ($"W{i}", w))], c.Parameter<double>("sparsity"));
        long pruned = keep.Sum(k => k.numel() - k.sum().item<long>());
        long promised = c.Parameter("pruned", pruned);
        EspalierException.Require(pruned == promised, $"{pruned} weights were pruned over all layers, the case says {promised}.");
        return keep.Select((k, i) => (Name: $"keep{i}", Keep: k)).ToDictionary(k => k.Name, k => k.Keep);
    }
}
