using System.Runtime.InteropServices;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>How a vocabulary is learned.</summary>
public sealed record BpeTrainerOptions
{
    /// <summary>How many tokens there shall be, special ones and the 256 bytes included. Default 2048, enough for small models.</summary>
    public int VocabularySize { get; init; } = 2048;

    /// <summary>A pair seen less often is never merged. Default 2, as a pair seen once compresses nothing.</summary>
    public int MinimumFrequency { get; init; } = 2;

    /// <summary>Tokens that get the first ids. Default: unknown, beginning and end, as in Llama.</summary>
    public IReadOnlyList<string> SpecialTokens { get; init; } = ["<unk>", "<s>", "</s>"];
}

/// <summary>
/// Learns a byte-level byte-pair vocabulary (Sennrich et al., arXiv 1508.07909; bytes and word pattern as in GPT-2):
/// merges the most frequent pair of neighbours within words until the vocabulary is full.
/// </summary>
/// <remarks>Among pairs of equal frequency the one with the lower ids is merged: same text, same vocabulary.</remarks>
public static class BpeTrainer
{
    /// <summary>Learns from documents, which are read once.</summary>
    /// <param name="documents">The text.</param>
    /// <param name="options">Sizes; null for the defaults.</param>
    /// <param name="progress">Where to say how far it is.</param>
    /// <param name="cancellation">Stops the work.</param>
    /// <exception cref="EspalierException">When the size leaves no room for the bytes, or there is no text.</exception>
    public static BpeVocabulary Train(IEnumerable<string> documents, BpeTrainerOptions? options = null, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        options ??= new BpeTrainerOptions();
        progress ??= SilentProgress.Instance;
        int basis = options.SpecialTokens.Count + 256;
        EspalierException.Require(options.VocabularySize >= basis, $"A byte-level vocabulary of {options.VocabularySize} tokens is too small: {options.SpecialTokens.Count} special tokens and 256 bytes need at least {basis}.");
        EspalierException.Require(options.SpecialTokens.Distinct().Count() == options.SpecialTokens.Count && !options.SpecialTokens.Contains(""), "The special tokens of a vocabulary must differ from each other and must not be empty.");

        List<string> tokens = [.. options.SpecialTokens, .. ByteAlphabet.InCodePointOrder.Select(c => c.ToString())];
        var pairs = new PairCounts(CountWords(documents, cancellation), tokens, options.SpecialTokens.Count);
        List<(string, string)> merges = [];
        using IProgressTask task = progress.Begin("learning merges", options.VocabularySize - basis, "merge");
        while (tokens.Count < options.VocabularySize)
        {
            cancellation.ThrowIfCancellationRequested();
            if (pairs.TakeMostFrequent(options.MinimumFrequency) is not var (left, right))
            {
                progress.Warn($"The text is too small for {options.VocabularySize} tokens: it gave {tokens.Count}.");
                break;
            }

            merges.Add((tokens[left], tokens[right]));
            tokens.Add(tokens[left] + tokens[right]);
            pairs.Merge(left, right, tokens.Count - 1);
            task.Advance();
        }

        return new BpeVocabulary(tokens, merges, options.SpecialTokens);
    }

    private static Dictionary<string, long> CountWords(IEnumerable<string> documents, CancellationToken cancellation)
    {
        var counts = new Dictionary<string, long>(StringComparer.Ordinal);
        var bySpan = counts.GetAlternateLookup<ReadOnlySpan<char>>();
        var split = new SplitStep(SplitStep.Gpt2Pattern, SplitBehavior.Isolated, invert: false);
        List<Piece> words = [];
        foreach (string document in documents)
        {
            cancellation.ThrowIfCancellationRequested();
            words.Clear();
            split.Apply(new Piece(document, 0, document.Length, true), words);
            foreach (Piece word in words)
            {
                CollectionsMarshal.GetValueRefOrAddDefault(bySpan, word.Span, out _)++;
            }
        }

        EspalierException.Require(counts.Count > 0, "A vocabulary cannot be learned from no text: the documents are empty.");
        return counts;
    }

    /// <summary>How often each pair of neighbours occurs, kept up to date while words are merged.</summary>
    private sealed class PairCounts
    {
        private readonly List<int[]> words = [];
        private readonly List<long> frequencies = [];
        private readonly Dictionary<(int Left, int Right), long> counts = [];
        private readonly Dictionary<(int Left, int Right), HashSet<int>> places = [];

        // Holds every count a pair has ever had; entries whose count is no longer true are passed over.
        private readonly PriorityQueue<(int Left, int Right), (long Count, int Left, int Right)> queue = new(Comparer<(long Count, int Left, int Right)>.Create(
            (a, b) => b.Count != a.Count ? b.Count.CompareTo(a.Count) : a.Left != b.Left ? a.Left.CompareTo(b.Left) : a.Right.CompareTo(b.Right)));

        public PairCounts(Dictionary<string, long> text, List<string> tokens, int firstByte)
        {
            Dictionary<char, int> ids = tokens.Skip(firstByte).Select((t, i) => (t[0], i + firstByte)).ToDictionary(p => p.Item1, p => p.Item2);
            foreach (var (word, frequency) in text.OrderBy(p => p.Key, StringComparer.Ordinal))
            {
                int[] symbols = [.. ByteAlphabet.Encode(word).Select(c => ids[c])];
                for (int i = 0; i + 1 < symbols.Length; i++)
                {
                    Add((symbols[i], symbols[i + 1]), frequency, words.Count);
                }

                words.Add(symbols);
                frequencies.Add(frequency);
            }

            foreach (var (pair, count) in counts)
            {
                queue.Enqueue(pair, (count, pair.Left, pair.Right));
            }
        }

        public (int Left, int Right)? TakeMostFrequent(long minimum)
        {
            while (queue.TryDequeue(out var pair, out var priority))
            {
                if (counts.GetValueOrDefault(pair) == priority.Count)
                {
                    return priority.Count >= minimum ? pair : null;
                }
            }

            return null;
        }

        /// <summary>Replaces a pair by one symbol in every word that has it.</summary>
        public void Merge(int left, int right, int merged)
        {
            HashSet<(int Left, int Right)> changed = [];
            foreach (int index in places[(left, right)])
            {
                int[] before = words[index];
                int[] after = Replace(before, left, right, merged);
                if (after.Length == before.Length)
                {
                    continue; // the pair was swallowed by an earlier merge
                }

                Recount(before, -frequencies[index], index, changed);
                Recount(after, frequencies[index], index, changed);
                words[index] = after;
            }

            counts.Remove((left, right));
            places.Remove((left, right));
            foreach (var pair in changed)
            {
                if (counts.TryGetValue(pair, out long count) && count > 0)
                {
                    queue.Enqueue(pair, (count, pair.Left, pair.Right));
                }
            }
        }

        private void Recount(int[] symbols, long frequency, int index, HashSet<(int Left, int Right)> changed)
        {
            for (int i = 0; i + 1 < symbols.Length; i++)
            {
                Add((symbols[i], symbols[i + 1]), frequency, index);
                changed.Add((symbols[i], symbols[i + 1]));
            }
        }

        private void Add((int Left, int Right) pair, long frequency, int index)
        {
            CollectionsMarshal.GetValueRefOrAddDefault(counts, pair, out _) += frequency;
            if (frequency > 0)
            {
                ref HashSet<int>? found = ref CollectionsMarshal.GetValueRefOrAddDefault(places, pair, out _);
                (found ??= []).Add(index);
            }
        }

        private static int[] Replace(int[] symbols, int left, int right, int merged)
        {
            var result = new List<int>(symbols.Length);
            for (int i = 0; i < symbols.Length; i++)
            {
                bool hit = i + 1 < symbols.Length && symbols[i] == left && symbols[i + 1] == right;
                result.Add(hit ? merged : symbols[i]);
                i += hit ? 1 : 0;
            }

            return [.. result];
        }
    }
}
