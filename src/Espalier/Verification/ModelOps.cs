using Espalier.Catalogue;
using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Verification;

/// <summary>The reference operation of the model families.</summary>
internal static class ModelOps
{
    // The checkpoint lies relative to the case, so that a folder of cases can be moved as a whole.
    [ParityOp("models.logits")]
    internal static IReadOnlyDictionary<string, Tensor> Logits(ParityCase c) => new Dictionary<string, Tensor>
    {
        ["logits"] = ModelsParity.Logits(Path.Combine(c.Folder, c.Parameter<string>("checkpoint")), c.Input("input_ids")),
    };
}
