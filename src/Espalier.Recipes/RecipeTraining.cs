using Espalier.Data;
using Espalier.Models;
using Espalier.Pruning;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Training;

namespace Espalier.Recipes;

/// <summary>How recipes train: a retraining of a plan in a working folder that is removed, or the plain continuation that it is compared with.</summary>
internal static class RecipeTraining
{
    /// <summary>Retrains a model as a plan would.</summary>
    /// <param name="retraining">The retraining; its batch and length must be the source's.</param>
    /// <param name="model">What is trained.</param>
    /// <param name="source">The batch of every step.</param>
    /// <param name="seed">The recipe's seed.</param>
    /// <param name="context">Device and cancellation.</param>
    /// <param name="masks">The masks of pruned weights; null where there are none.</param>
    /// <param name="dense">The teacher of a distillation; null where there is none.</param>
    public static RetrainingResult Retrain(
        IRetraining retraining, LanguageModel model, PackedTokens source, Seed seed, RecipeContext context,
        IReadOnlyDictionary<string, SparsityMask>? masks = null, StreamedModel? dense = null)
    {
        string state = Directory.CreateTempSubdirectory("espalier-recipe-").FullName;
        try
        {
            return retraining.Retrain(new RetrainingContext
            {
                Model = model,
                Dense = dense,
                Masks = masks ?? new Dictionary<string, SparsityMask>(),
                Batches = (step, _) => source.Batch(step).to(context.Device),
                Seed = seed,
                StateFolder = state,
                Progress = SilentProgress.Instance,
                Cancellation = context.Cancellation,
            });
        }
        finally
        {
            Directory.Delete(state, recursive: true);
        }
    }

    /// <summary>Trains every parameter on next-token cross-entropy: AdamW, the rate down to 0 by a cosine.</summary>
    /// <param name="model">What is trained.</param>
    /// <param name="source">The batch of every step.</param>
    /// <param name="steps">Steps.</param>
    /// <param name="rate">The peak learning rate.</param>
    /// <param name="context">Device and cancellation.</param>
    public static void OnText(LanguageModel model, PackedTokens source, int steps, double rate, RecipeContext context)
    {
        var trainable = model.Tensors.ToList();
        trainable.ForEach(t => t.Value.requires_grad = true);
        using var loop = new TrainingLoop(new TrainingOptions { Steps = steps, LearningRate = rate, Schedule = "cosine" }, trainable,
            new LanguageModelObjective(model, (step, _) => source.Batch(step).to(context.Device)));
        loop.Run(context.Cancellation);
        trainable.ForEach(t => t.Value.requires_grad = false);
    }
}
