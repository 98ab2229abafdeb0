using Espalier.Checkpoints;
using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Sparsity.Packed;

/// <summary>Compares a written packed model with its source.</summary>
internal static class LogitComparison
{
    /// <summary>Opens the packed folder cold and passes one short sequence through both, block by block.</summary>
    /// <returns>‖packed − source‖ / ‖source‖ of the logits.</returns>
    public static double Difference(ModelConfig config, ITensorSource source, string packedFolder)
    {
        int length = Math.Min(16, config.MaxPositions);
        long[] ids = [.. Enumerable.Range(0, length).Select(i => (long)(i * 7919 % config.VocabSize))];
        using var scope = NewDisposeScope();
        using PackedSource packed = PackedSource.Open(packedFolder);
        using var meant = new StreamedModel(config, source);
        using var read = new StreamedModel(ModelConfig.Load(packedFolder), packed);
        Tensor expected = meant.Logits(ids), found = read.Logits(ids);
        return (found - expected).norm().item<float>() / Math.Max(1e-30, expected.norm().item<float>());
    }
}
