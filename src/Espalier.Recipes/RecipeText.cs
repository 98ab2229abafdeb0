using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>The model and texts of a language-model recipe: the default model with its own, or another model with IMDb reviews.</summary>
/// <param name="Folder">The model's folder.</param>
/// <param name="Training">Training text as tokens.</param>
/// <param name="Calibration">Documents to calibrate on.</param>
/// <param name="Tokenizer">The model's tokeniser.</param>
/// <param name="EvaluationWindows">Windows of held-out text.</param>
public sealed record RecipeText(string Folder, int[] Training, TextDataset Calibration, Tokenizer Tokenizer, long[][] EvaluationWindows)
{
    /// <summary>Documents that are enough for minutes of retraining.</summary>
    private const int TrainingDocuments = 2000;

    /// <summary>The evaluation windows [windows, length] in the caller's scope.</summary>
    public Tensor Windows => stack([.. EvaluationWindows.Select(w => tensor(w))]);

    /// <summary>Finds model and texts.</summary>
    /// <param name="context">Names another model where wanted; that one is measured on IMDb reviews.</param>
    /// <param name="windows">Evaluation windows.</param>
    /// <param name="windowLength">Tokens per window.</param>
    public static RecipeText For(RecipeContext context, int windows, int windowLength)
    {
        bool own = context.Model is null;
        string folder = own ? Assets.DefaultModel : Hub.Resolve(context.Model!, context.Progress, context.Cancellation);
        Tokenizer tokenizer = Tokenizer.Load(folder);
        TextDataset training = Open(own ? Assets.TrainingText : "stanfordnlp/imdb:plain_text:train", context);
        TextDataset heldOut = Open(own ? Assets.HeldOutText : "stanfordnlp/imdb:plain_text:test", context);
        // Reviews are drawn from the whole set, which is sorted by its labels.
        string[] documents = [.. training.Documents];
        new Seed(0).Random("recipe documents").Shuffle(documents);
        string[] unseen = [.. heldOut.Documents];
        new Seed(0).Random("recipe evaluation").Shuffle(unseen);
        return new RecipeText(
            folder,
            LanguageModelTraining.Join(documents.Take(TrainingDocuments), tokenizer),
            TextDataset.FromDocuments(documents, training.Name),
            tokenizer,
            TextWindows.Consecutive(TextDataset.FromDocuments([.. unseen.Take(TrainingDocuments)], heldOut.Name), tokenizer, windowLength, windows));
    }

    private static TextDataset Open(string reference, RecipeContext context) =>
        TextDataset.Open(DataReference.Parse(reference), id => Hub.ResolveDataset(id, context.Progress, cancellation: context.Cancellation));
}
