using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Data;

/// <summary>What stands between documents that are joined into one stream for training.</summary>
public enum DocumentBoundary
{
    /// <summary>Nothing.</summary>
    None,

    /// <summary>The beginning token before each document.</summary>
    Begin,

    /// <summary>The end token after each document.</summary>
    End,

    /// <summary>Both.</summary>
    BeginAndEnd,
}

/// <summary>Turns documents into one stream of ids and cuts it into windows of a context length.</summary>
public static class TokenWindows
{
    /// <summary>What the WikiText perplexity protocol puts between lines.</summary>
    public const string PerplexitySeparator = "\n\n";

    /// <summary>
    /// Joins all documents, empty ones too, into one text and tokenises that once, with the tokeniser's own special tokens
    /// around the whole: the WikiText perplexity protocol.
    /// </summary>
    public static int[] FromJoinedText(IEnumerable<string> documents, Tokenizer tokenizer, string separator = PerplexitySeparator) =>
        [.. tokenizer.Encode(string.Join(separator, documents))];

    /// <summary>Tokenises each document by itself and joins the ids, for training.</summary>
    /// <param name="documents">The text; empty documents are left out.</param>
    /// <param name="tokenizer">The model's tokeniser.</param>
    /// <param name="boundary">What stands between documents. Default: both, as each document is a text of its own.</param>
    /// <param name="cancellation">Stops the work.</param>
    /// <exception cref="EspalierException">When the tokeniser lacks the token that the boundary needs.</exception>
    public static int[] FromDocuments(IEnumerable<string> documents, Tokenizer tokenizer, DocumentBoundary boundary = DocumentBoundary.BeginAndEnd, CancellationToken cancellation = default)
    {
        bool begins = boundary is DocumentBoundary.Begin or DocumentBoundary.BeginAndEnd;
        bool ends = boundary is DocumentBoundary.End or DocumentBoundary.BeginAndEnd;
        EspalierException.Require(!begins || tokenizer.BeginId is not null, $"The tokeniser has no beginning token, which the document boundary {boundary} needs: use End or None.");
        EspalierException.Require(!ends || tokenizer.EndId is not null, $"The tokeniser has no end token, which the document boundary {boundary} needs: use Begin or None.");
        List<int> ids = [];
        foreach (string document in documents.Where(d => d.Length > 0))
        {
            cancellation.ThrowIfCancellationRequested();
            if (begins)
            {
                ids.Add(tokenizer.BeginId!.Value);
            }

            ids.AddRange(tokenizer.Encode(document, addSpecialTokens: false));
            if (ends)
            {
                ids.Add(tokenizer.EndId!.Value);
            }
        }

        return [.. ids];
    }

    /// <summary>Cuts a stream into floor(tokens / length) windows one after the other; the rest is dropped.</summary>
    /// <param name="tokens">The stream.</param>
    /// <param name="length">Tokens in a window.</param>
    /// <param name="maximum">At most so many windows, from the start; null for all.</param>
    /// <returns>[windows, length] int64; the caller disposes it.</returns>
    /// <exception cref="EspalierException">When the stream is shorter than one window.</exception>
    public static Tensor NonOverlapping(ReadOnlySpan<int> tokens, int length, int? maximum = null)
    {
        RequireLength(length);
        RequireOneWindow(tokens.Length, length);
        int count = Math.Min(tokens.Length / length, maximum ?? int.MaxValue);
        EspalierException.Require(count > 0, $"The number of windows must be positive, not {maximum}.");
        return ToTensor(tokens[..(count * length)], count, length);
    }

    /// <summary>Evaluation windows by the perplexity protocol, in managed memory: documents joined, tokenised once, cut one window after the other.</summary>
    /// <param name="dataset">The documents.</param>
    /// <param name="tokenizer">The model's tokeniser.</param>
    /// <param name="length">Tokens in a window.</param>
    /// <param name="most">At most so many windows; 0 takes all.</param>
    /// <exception cref="EspalierException">When the text is shorter than one window.</exception>
    public static long[][] ForPerplexity(TextDataset dataset, Tokenizer tokenizer, int length, int most = 0) =>
        ToArrays(NonOverlapping(FromJoinedText(dataset.Documents, tokenizer), length, most > 0 ? most : null));

    /// <summary>Windows [count, length] as arrays; the tensor is disposed.</summary>
    public static long[][] ToArrays(Tensor windows)
    {
        using Tensor owned = windows;
        long[] flat = owned.data<long>().ToArray();
        int length = (int)owned.shape[1];
        return [.. Enumerable.Range(0, (int)owned.shape[0]).Select(i => flat[(i * length)..((i + 1) * length)])];
    }

    /// <summary>Puts ids into a tensor.</summary>
    internal static Tensor ToTensor(ReadOnlySpan<int> ids, int rows, int length)
    {
        long[] wide = new long[ids.Length];
        for (int i = 0; i < wide.Length; i++)
        {
            wide[i] = ids[i];
        }

        return tensor(wide, [rows, length], ScalarType.Int64);
    }

    internal static void RequireLength(int length) => EspalierException.Require(length > 0, $"The length of a window must be positive, not {length}.");

    internal static void RequireOneWindow(int tokens, int length) =>
        EspalierException.Require(tokens >= length, $"The text has {tokens} tokens, fewer than one window of {length}: take more text or a shorter context.");
}

/// <summary>Orders that a seed fixes.</summary>
public static class Shuffle
{
    /// <summary>0 … count − 1 in an order that seed and purpose fix.</summary>
    public static int[] Indices(int count, Seed seed, string purpose)
    {
        int[] order = [.. Enumerable.Range(0, count)];
        seed.Random(purpose).Shuffle(order);
        return order;
    }

    /// <summary>The items in an order that seed and purpose fix.</summary>
    public static IReadOnlyList<T> Items<T>(IReadOnlyList<T> items, Seed seed, string purpose) => [.. Indices(items.Count, seed, purpose).Select(i => items[i])];
}
