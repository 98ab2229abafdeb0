using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Training;

/// <summary>What a sparse training left.</summary>
/// <param name="Masks">The weights that are not zero, [out, in·k·k], by weight name.</param>
/// <param name="TrainingShare">The share of the dense training's multiply-accumulates that it needed, in the weights that were made sparse.</param>
public sealed record SparseTrainingReport(IReadOnlyDictionary<string, SparsityMask> Masks, double TrainingShare)
{
    /// <summary>The share of those weights that are zero.</summary>
    public double Sparsity => 1 - ((double)Masks.Values.Sum(m => m.Kept) / Masks.Values.Sum(m => m.Count));

    /// <summary>Reads off what the weights hold now.</summary>
    internal static SparseTrainingReport Of(IReadOnlyList<NetWeight> weights, double share)
    {
        using var scope = NewDisposeScope();
        return new SparseTrainingReport(weights.ToDictionary(w => w.Name, w => SparsityMask.FromTensor(w.Kept())), share);
    }

    /// <summary>Runs a training as a sparse one.</summary>
    /// <param name="method">How it is made sparse; null trains as it is.</param>
    /// <param name="context">The net and the run; asked only where there is a method.</param>
    /// <param name="masks">Masks that the net has already.</param>
    /// <param name="train">Trains with a run, or without, and with masks.</param>
    internal static TrainingResult Run(ISparseTraining? method, Func<SparseTrainingContext> context, IReadOnlyDictionary<string, Tensor>? masks, Func<ISparseTrainingRun?, IReadOnlyDictionary<string, Tensor>?, TrainingResult> train)
    {
        if (method is null)
        {
            return train(null, masks);
        }

        Runtime.EspalierException.Require(masks is not { Count: > 0 }, "The net is masked already, and sparse training makes masks of its own; start from a dense net, or leave the sparse training out.");
        SparseTrainingContext about = context();
        method.Check(about.Weights, about.Steps);
        using ISparseTrainingRun run = method.Begin(about);
        TrainingResult result = train(run, run.Masks);
        run.Finish();
        return result with { Sparse = Of(about.Weights, run.TrainingShare) };
    }
}
