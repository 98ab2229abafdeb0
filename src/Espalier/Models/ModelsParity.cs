using Espalier.Catalogue;
using Espalier.Verification;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>What verification asks of the model families: the logits of a checkpoint.</summary>
internal static class ModelsParity
{
    /// <summary>Loads a checkpoint and runs it without gradients.</summary>
    /// <param name="checkpointFolder">A folder with config.json and safetensors files.</param>
    /// <param name="ids">Token ids [batch, tokens], int64.</param>
    /// <returns>[batch, tokens, vocabulary], float32.</returns>
    /// <exception cref="Runtime.EspalierException">When the folder holds no checkpoint of a known family, or the ids do not fit it.</exception>
    public static Tensor Logits(string checkpointFolder, Tensor ids)
    {
        using var _ = no_grad();
        using LanguageModel model = LanguageModel.Load(checkpointFolder);
        return model.Logits(ids);
    }

    // The checkpoint lies relative to the case, so that a folder of cases can be moved as a whole.
    [ParityOp("models.logits")]
    internal static IReadOnlyDictionary<string, Tensor> LogitsOp(ParityCase c) => new Dictionary<string, Tensor>
    {
        ["logits"] = Logits(Path.Combine(c.Folder, c.Parameter<string>("checkpoint")), c.Input("input_ids")),
    };
}
