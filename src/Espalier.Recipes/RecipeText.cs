using Espalier.Checkpoints;
using Espalier.Data;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Recipes;

/// <summary>The model and texts of a language-model recipe: the default model with its own, or another model with IMDb reviews.</summary>
/// <param name="Folder">The model's folder.</param>
/// <param name="TrainingTokens">Training text as tokens, made when first asked for.</param>
/// <param name="Calibration">Documents to calibrate on.</param>
/// <param name="Tokenizer">The model's tokeniser.</param>
/// <param name="Windows">Windows of held-out text [windows, length].</param>
public sealed record RecipeText(string Folder, Lazy<int[]> TrainingTokens, TextDataset Calibration, Tokenizer Tokenizer, Tensor Windows) : IDisposable
{
    /// <summary>Documents that are enough for minutes of retraining.</summary>
    private const int TrainingDocuments = 2000;

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
            new Lazy<int[]>(() => TokenWindows.FromDocuments(documents.Take(TrainingDocuments), tokenizer)),
            TextDataset.FromDocuments(documents, training.Name),
            tokenizer,
            TokenWindows.NonOverlapping(TokenWindows.FromJoinedText(unseen.Take(TrainingDocuments), tokenizer), windowLength, windows));
    }

    /// <summary>Training text as tokens.</summary>
    public int[] Training => TrainingTokens.Value;

    /// <inheritdoc/>
    public void Dispose() => Windows.Dispose();

    private static TextDataset Open(string reference, RecipeContext context) =>
        TextDataset.Open(DataReference.Parse(reference), id => Hub.ResolveDataset(id, context.Progress, cancellation: context.Cancellation));
}
