using System.Text;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Data;

/// <summary>
/// Draws calibration windows as Wanda, SparseGPT and their kin do: pick a random document, pass it over unless it has
/// more tokens than a window, take a uniformly random window of it.
/// </summary>
/// <remarks>
/// Where documents are too short (lines of WikiText), windows come from all documents joined by a space, as those papers'
/// code does for WikiText; the progress is warned of it.
/// </remarks>
public static class CalibrationSampler
{
    // So many documents in a row that are too short mean that long ones are rare or absent.
    private const int Tries = 1000;

    /// <summary>Draws windows.</summary>
    /// <param name="dataset">Where the documents come from; all are held in memory.</param>
    /// <param name="tokenizer">The model's tokeniser; its own special tokens stand around each document.</param>
    /// <param name="samples">How many windows. The papers use 128; beyond about 16 little changes.</param>
    /// <param name="length">Tokens in a window, mostly the model's context.</param>
    /// <param name="seed">Fixes the draw.</param>
    /// <param name="progress">Where to warn that documents are too short.</param>
    /// <param name="cancellation">Stops the work.</param>
    /// <returns>[samples, length] int64; the caller disposes it.</returns>
    /// <exception cref="EspalierException">When all documents together are shorter than one window.</exception>
    public static Tensor Sample(TextDataset dataset, Tokenizer tokenizer, int samples, int length, Seed seed, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        EspalierException.Require(samples > 0, $"The number of calibration windows must be positive, not {samples}.");
        TokenWindows.RequireLength(length);
        string[] documents = [.. dataset.Documents];
        EspalierException.Require(documents.Length > 0, $"The data set \"{dataset.Name}\" is empty: it has no document to calibrate on.");
        Random random = seed.Random("calibration windows");
        var draw = new DocumentDraw(documents, tokenizer, length, random);
        int[] ids = new int[samples * length];
        int[]? joined = null;
        for (int i = 0; i < samples; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            int[]? source = joined ?? draw.LongDocument();
            if (source is null)
            {
                (progress ?? SilentProgress.Instance).Warn($"No document of more than {length} tokens was found in \"{dataset.Name}\" ({Tries} tries): {samples - i} of {samples} calibration windows are taken from the documents joined by spaces.");
                source = joined = TokenWindows.FromJoinedText(documents, tokenizer, " ");
                TokenWindows.RequireOneWindow(joined.Length, length);
            }

            int start = random.Next(source.Length - length + 1);
            source.AsSpan(start, length).CopyTo(ids.AsSpan(i * length));
        }

        return TokenWindows.ToTensor(ids, samples, length);
    }

    /// <summary>Picks random documents until one is long enough.</summary>
    private sealed class DocumentDraw(string[] documents, Tokenizer tokenizer, int length, Random random)
    {
        // What a document was found to be: its ids, or null when too short.
        private readonly Dictionary<int, int[]?> known = [];

        public int[]? LongDocument()
        {
            for (int attempt = 0; attempt < Tries; attempt++)
            {
                int index = random.Next(documents.Length);
                if (!known.TryGetValue(index, out int[]? ids))
                {
                    // No tokeniser here gives more ids than a text has bytes, but for a beginning, an end and a dummy space.
                    bool hopeless = Encoding.UTF8.GetByteCount(documents[index]) + 3 <= length;
                    int[] all = hopeless ? [] : [.. tokenizer.Encode(documents[index])];
                    known[index] = ids = all.Length > length ? all : null;
                }

                if (ids is not null)
                {
                    return ids;
                }
            }

            return null;
        }
    }
}
