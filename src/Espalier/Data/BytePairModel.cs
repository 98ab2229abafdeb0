using System.Collections.Concurrent;
using System.Text;

namespace Espalier.Data;

/// <summary>
/// Byte-pair encoding of one pre-token: symbols are merged, lowest rank first and leftmost among equals, until no pair
/// of neighbours is in the list of merges.
/// </summary>
/// <remarks>
/// Microsoft.ML.Tokenizers' BpeTokenizer knows neither <c>ignore_merges</c> (Llama-3) nor <c>byte_fallback</c> (Llama-2,
/// Mistral), matches its pre-tokenising pattern on UTF-16 units (so letters outside the basic plane split differently),
/// and keeps a small cache; hence this core of our own. The tests hold it against that class where both apply.
/// </remarks>
internal sealed class BytePairModel
{
    // A word longer than this is rare enough that caching it costs more than it saves.
    private const int LongestCachedWord = 48;
    private const int CachedWords = 1 << 18;

    private readonly IReadOnlyDictionary<string, int> vocabulary;
    private readonly Dictionary<long, (int Rank, int Id)> merges;
    private readonly BytePairOptions options;
    private readonly int? unknownId;
    private readonly int[]? byteFallback;
    private readonly ConcurrentDictionary<string, int[]> cache = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, int[]>.AlternateLookup<ReadOnlySpan<char>> cacheBySpan;

    /// <summary>Makes a model.</summary>
    /// <param name="vocabulary">Tokens as written in the file and their ids.</param>
    /// <param name="merges">Pairs in order of rank; pairs whose parts or result are not in the vocabulary are ignored.</param>
    /// <param name="options">The switches of the file.</param>
    public BytePairModel(IReadOnlyDictionary<string, int> vocabulary, IEnumerable<(string Left, string Right)> merges, BytePairOptions options)
    {
        this.vocabulary = vocabulary;
        this.options = options;
        this.merges = new Dictionary<long, (int, int)>();
        int rank = 0;
        foreach (var (left, right) in merges)
        {
            string suffix = options.SubwordPrefix.Length > 0 && right.StartsWith(options.SubwordPrefix, StringComparison.Ordinal) ? right[options.SubwordPrefix.Length..] : right;
            if (vocabulary.TryGetValue(left, out int a) && vocabulary.TryGetValue(right, out int b) && vocabulary.TryGetValue(left + suffix, out int merged))
            {
                this.merges.TryAdd(Key(a, b), (rank, merged));
            }

            rank++;
        }

        unknownId = options.UnknownToken is { } unknown && vocabulary.TryGetValue(unknown, out int id) ? id : null;
        byteFallback = options.ByteFallback ? FallbackIds(vocabulary) : null;
        cacheBySpan = cache.GetAlternateLookup<ReadOnlySpan<char>>();
    }

    /// <summary>The switches of the file.</summary>
    public BytePairOptions Options => options;

    /// <summary>The id of the unknown token, if there is one.</summary>
    public int? UnknownId => unknownId;

    /// <summary>The ids of every pair and of what it becomes, in order of rank.</summary>
    public IEnumerable<(int Left, int Right, int Merged)> Merges =>
        merges.OrderBy(m => m.Value.Rank).Select(m => ((int)(m.Key >> 32), (int)(m.Key & uint.MaxValue), m.Value.Id));

    /// <summary>Appends the ids of one pre-token.</summary>
    public void Encode(ReadOnlySpan<char> word, List<int> ids)
    {
        if (word.Length > LongestCachedWord)
        {
            ids.AddRange(EncodeUncached(word));
            return;
        }

        if (!cacheBySpan.TryGetValue(word, out int[]? known))
        {
            known = EncodeUncached(word);
            if (cache.Count < CachedWords)
            {
                cacheBySpan.TryAdd(word, known);
            }
        }

        ids.AddRange(known);
    }

    private int[] EncodeUncached(ReadOnlySpan<char> word)
    {
        string written = options.ByteLevel ? ByteAlphabet.Encode(word) : word.ToString();
        if (options.IgnoreMerges && vocabulary.TryGetValue(written, out int whole))
        {
            return [whole];
        }

        return Merge(Symbols(written));
    }

    /// <summary>The ids of the single characters, with the fallbacks for those that the vocabulary lacks.</summary>
    private List<int> Symbols(string written)
    {
        var symbols = new List<int>(written.Length);
        bool afterUnknown = false;
        Span<byte> utf8 = stackalloc byte[4];
        int index = 0;
        foreach (Rune rune in written.EnumerateRunes())
        {
            string symbol = rune.ToString();
            bool last = index + rune.Utf16SequenceLength >= written.Length;
            string spelled = (index > 0 ? options.SubwordPrefix : "") + symbol + (last ? options.WordSuffix : "");
            index += rune.Utf16SequenceLength;
            if (vocabulary.TryGetValue(spelled, out int id))
            {
                symbols.Add(id);
                afterUnknown = false;
            }
            else if (byteFallback is not null)
            {
                int count = rune.EncodeToUtf8(utf8);
                foreach (byte b in utf8[..count])
                {
                    symbols.Add(byteFallback[b]);
                }

                afterUnknown = false;
            }
            else if (unknownId is { } unknown)
            {
                if (!(afterUnknown && options.FuseUnknown))
                {
                    symbols.Add(unknown);
                }

                afterUnknown = true;
            }
        }

        return symbols;
    }

    /// <summary>Merges a linked list of symbols, driven by a queue of candidate pairs: n log n, also for a whole text as one word.</summary>
    private int[] Merge(List<int> symbols)
    {
        int count = symbols.Count;
        int[] id = [.. symbols], previous = new int[count], next = new int[count];
        var queue = new PriorityQueue<(int Left, int Right, int LeftId, int RightId), long>();
        for (int i = 0; i < count; i++)
        {
            previous[i] = i - 1;
            next[i] = i + 1 < count ? i + 1 : -1;
        }

        void Propose(int left, int right)
        {
            if (left >= 0 && right >= 0 && merges.TryGetValue(Key(id[left], id[right]), out var merge))
            {
                queue.Enqueue((left, right, id[left], id[right]), ((long)merge.Rank << 32) | (uint)left);
            }
        }

        for (int i = 0; i + 1 < count; i++)
        {
            Propose(i, i + 1);
        }

        while (queue.TryDequeue(out var pair, out _))
        {
            // A symbol that was swallowed has id -1, and a grown one another id: then the proposal is stale.
            if (id[pair.Left] != pair.LeftId || next[pair.Left] != pair.Right || id[pair.Right] != pair.RightId)
            {
                continue;
            }

            id[pair.Left] = merges[Key(pair.LeftId, pair.RightId)].Id;
            id[pair.Right] = -1;
            next[pair.Left] = next[pair.Right];
            if (next[pair.Left] >= 0)
            {
                previous[next[pair.Left]] = pair.Left;
            }

            Propose(previous[pair.Left], pair.Left);
            Propose(pair.Left, next[pair.Left]);
        }

        return [.. id.Where(i => i >= 0)];
    }

    /// <summary>The ids of &lt;0x00&gt; … &lt;0xFF&gt;; null when the vocabulary lacks any, for then the file's own loader does not fall back either.</summary>
    private static int[]? FallbackIds(IReadOnlyDictionary<string, int> vocabulary)
    {
        int[] ids = new int[256];
        for (int b = 0; b < 256; b++)
        {
            if (!vocabulary.TryGetValue($"<0x{b:X2}>", out ids[b]))
            {
                return null;
            }
        }

        return ids;
    }

    private static long Key(int left, int right) => ((long)left << 32) | (uint)right;
}

/// <summary>The switches of a byte-pair model.</summary>
internal sealed record BytePairOptions
{
    /// <summary>Pre-tokens are spelled in <see cref="ByteAlphabet"/> before they are looked up.</summary>
    public bool ByteLevel { get; init; }

    /// <summary>A character that the vocabulary lacks is spelled as &lt;0xNN&gt; tokens.</summary>
    public bool ByteFallback { get; init; }

    /// <summary>A pre-token that is itself in the vocabulary is taken whole, whatever the merges say.</summary>
    public bool IgnoreMerges { get; init; }

    /// <summary>A run of unknown characters gives one unknown token.</summary>
    public bool FuseUnknown { get; init; }

    /// <summary>The token of unknown characters; null when they are dropped.</summary>
    public string? UnknownToken { get; init; }

    /// <summary>What stands before every symbol of a word but the first ("##"); mostly empty.</summary>
    public string SubwordPrefix { get; init; } = "";

    /// <summary>What stands after the last symbol of a word ("&lt;/w&gt;"); mostly empty.</summary>
    public string WordSuffix { get; init; } = "";
}
