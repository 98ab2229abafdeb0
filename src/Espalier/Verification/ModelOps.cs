using Espalier.Catalogue;
using Espalier.Checkpoints;
using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Verification;

/// <summary>Reference operations of whole models.</summary>
internal static class ModelOps
{
    /// <summary>The logits of a checkpoint that lies in a folder relative to the case.</summary>
    [ParityOp("models.logits")]
    internal static IReadOnlyDictionary<string, Tensor> LogitsOp(ParityCase c)
    {
        string folder = Path.GetFullPath(Path.Combine(c.Folder, c.Parameter("checkpoint", ".")));
        using var _ = no_grad();
        using Checkpoint checkpoint = Checkpoint.Open(folder);
        using LanguageModel model = LanguageModel.Load(ModelConfig.Load(folder), checkpoint);
        return new Dictionary<string, Tensor> { ["logits"] = model.Logits(c.Input("input_ids").to(ScalarType.Int64)) };
    }
}
