using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>Cuts texts into windows of tokens: random ones to calibrate on, consecutive ones to measure on.</summary>
public static class TextWindows
{
    /// <summary>How many documents are drawn for one window before the joined text is used instead.</summary>
    private const int Attempts = 200;

    /// <summary>
    /// Calibration windows by the protocol of Wanda and SparseGPT: a random document with more tokens than a window, and of it
    /// a window of exactly so many tokens, uniformly at random.
    /// </summary>
    /// <param name="dataset">The documents.</param>
    /// <param name="tokenizer">The model's tokeniser.</param>
    /// <param name="samples">How many windows.</param>
    /// <param name="length">Tokens per window.</param>
    /// <param name="seed">Decides documents and places.</param>
    /// <param name="progress">Told when no document is long enough and windows are taken from the joined text.</param>
    /// <returns>One array of token ids per window.</returns>
    /// <exception cref="EspalierException">When all documents together are shorter than a window.</exception>
    public static long[][] Random(TextDataset dataset, Tokenizer tokenizer, int samples, int length, Seed seed, IProgressSink progress)
    {
        EspalierException.Require(samples >= 1 && length >= 2, $"{samples} calibration windows of {length} tokens are not possible; at least 1 of at least 2.");
        string[] documents = [.. dataset.Documents.Where(d => d.Length > 0)];
        EspalierException.Require(documents.Length > 0, $"The data set \"{dataset.Name}\" holds no text.");
        Random random = seed.Random("calibration");
        var windows = new List<long[]>();
        int misses = 0;
        while (windows.Count < samples && misses < Attempts)
        {
            IReadOnlyList<int> tokens = tokenizer.Encode(documents[random.Next(documents.Length)]);
            if (tokens.Count <= length)
            {
                misses++;
                continue;
            }

            misses = 0;
            windows.Add(Cut(tokens, random.Next(tokens.Count - length), length));
        }

        if (windows.Count == samples)
        {
            return [.. windows];
        }

        // Short documents (sentences, reviews): their joined text has the windows that none of them has alone.
        progress.Warn($"Few documents of \"{dataset.Name}\" have more than {length} tokens; the calibration windows are cut from their joined text.");
        int[] joined = [.. Join(dataset, tokenizer)];
        EspalierException.Require(joined.Length > length, $"The data set \"{dataset.Name}\" has {joined.Length} tokens in all, fewer than one calibration window of {length}; give more text or a shorter length.");
        while (windows.Count < samples)
        {
            windows.Add(Cut(joined, random.Next(joined.Length - length), length));
        }

        return [.. windows];
    }

    /// <summary>
    /// Evaluation windows by the WikiText-2 protocol: all documents joined by two newlines, tokenised once, cut into windows
    /// that do not overlap; the remainder is dropped.
    /// </summary>
    /// <param name="dataset">The documents.</param>
    /// <param name="tokenizer">The model's tokeniser.</param>
    /// <param name="length">Tokens per window.</param>
    /// <param name="most">How many windows at most; 0 takes all.</param>
    /// <exception cref="EspalierException">When the text is shorter than a window.</exception>
    public static long[][] Consecutive(TextDataset dataset, Tokenizer tokenizer, int length, int most = 0)
    {
        EspalierException.Require(length >= 2, $"A window of {length} tokens cannot be scored; at least 2 are needed.");
        int[] tokens = [.. Join(dataset, tokenizer)];
        int count = most > 0 ? Math.Min(most, tokens.Length / length) : tokens.Length / length;
        EspalierException.Require(count > 0, $"The data set \"{dataset.Name}\" has {tokens.Length} tokens, fewer than one window of {length}; give more text or a shorter context.");
        return [.. Enumerable.Range(0, count).Select(i => Cut(tokens, i * length, length))];
    }

    private static IReadOnlyList<int> Join(TextDataset dataset, Tokenizer tokenizer) => tokenizer.Encode(string.Join("\n\n", dataset.Documents));

    private static long[] Cut(IReadOnlyList<int> tokens, int from, int length)
    {
        var window = new long[length];
        for (int t = 0; t < length; t++)
        {
            window[t] = tokens[from + t];
        }

        return window;
    }
}
