using Espalier.Data;
using Espalier.Models;
using Espalier.Training;

namespace Espalier.Recipes;

/// <summary>Training on text alone, for arms that a system is compared with.</summary>
internal static class RecipeTraining
{
    /// <summary>Trains every parameter on the next token: AdamW, a cosine to 0, no warm-up.</summary>
    /// <param name="model">The model; its parameters are frozen again afterwards.</param>
    /// <param name="source">The batches, which other arms may share.</param>
    /// <param name="steps">Optimiser steps.</param>
    /// <param name="rate">The peak learning rate.</param>
    /// <param name="context">Device and cancellation.</param>
    public static void Continue(LanguageModel model, PackedTokens source, int steps, double rate, RecipeContext context)
    {
        var trainable = model.Tensors.ToList();
        trainable.ForEach(t => t.Value.requires_grad = true);
        using var loop = new TrainingLoop(new TrainingOptions { Steps = steps, LearningRate = rate, Schedule = "cosine" }, trainable,
            new LanguageModelObjective(model, (step, _) => source.Batch(step).to(context.Device)));
        loop.Run(context.Cancellation);
        trainable.ForEach(t => t.Value.requires_grad = false);
    }

    /// <summary>A folder for the state of a retraining, removed afterwards.</summary>
    public static void WithState(Action<string> train)
    {
        string state = Directory.CreateTempSubdirectory("espalier-recipe-").FullName;
        try
        {
            train(state);
        }
        finally
        {
            Directory.Delete(state, recursive: true);
        }
    }
}
