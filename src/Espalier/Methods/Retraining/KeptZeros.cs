using Espalier.Models;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Retraining;

/// <summary>The zeros of a pruned model while all of its weights are trained.</summary>
internal static class KeptZeros
{
    /// <summary>Keep masks for the training loop, in the layout of the stored weights; weights without a mask are left out.</summary>
    public static Dictionary<string, Tensor> Masks(IEnumerable<DecoderBlock> blocks, IReadOnlyDictionary<string, SparsityMask> masks) =>
        blocks.SelectMany(b => b.Linears).Where(l => masks.ContainsKey(l.Name)).ToDictionary(l => l.Name, l =>
        {
            Tensor keep = masks[l.Name].ToTensor(l.Linear.weight.device);
            return l.Linear.Layout is WeightLayout.OutIn ? keep : keep.t().contiguous();
        });

    /// <summary>Stops when a pruned weight is not zero.</summary>
    /// <exception cref="EspalierException">Naming the weight.</exception>
    public static void Require(IEnumerable<DecoderBlock> blocks, IReadOnlyDictionary<string, SparsityMask> masks, string method)
    {
        foreach (BlockLinear linear in blocks.SelectMany(b => b.Linears).Where(l => masks.ContainsKey(l.Name)))
        {
            using var scope = NewDisposeScope();
            long revived = masks[linear.Name].Revived(linear.Linear.Matrix.detach());
            EspalierException.Require(revived == 0, $"{revived} pruned weights of {linear.Name} came back to life in retraining; this is a fault of {method}, please report it.");
        }
    }
}
