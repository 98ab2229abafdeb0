using System.Text;

namespace Espalier.Catalogue;

/// <summary>
/// Finds texts by what they say: BM25 (Robertson and Walker 1994) over stems, with a small list of words that mean the same
/// in this field. Small, local and the same on every machine.
/// </summary>
public sealed class DescriptionIndex
{
    // k1 and b of BM25, the values that most engines take.
    private const double Saturation = 1.2, LengthShare = 0.75;

    // A word that the asker did not write counts this share.
    private const double SynonymShare = 0.4;

    // The words of a text that say most about it are what it is compared with others by.
    private const int TellingWords = 24;

    private static readonly HashSet<string> Fillers = [.. "a an and approach are as at based be by can do for from has have how i in into is it its like me most my no not of on one or so than that the through toward towards via novel simple their them they this to up use using via we what when which while with without".Split(' ')];

    private static readonly string[][] Synonyms =
    [
        ["prune", "pruning", "sparse", "sparsity", "sparsification", "compress", "compression", "smaller", "shrink", "remove"],
        ["quantise", "quantize", "quantization", "quantisation", "integer", "int8", "int4", "low-bit", "bits"],
        ["adapt", "adaptation", "adapter", "lora", "fine-tune", "finetune", "fine-tuning", "finetuning", "peft"],
        ["retrain", "retraining", "recover", "repair", "heal"],
        ["merge", "merging", "soup", "average", "averaging"],
        ["unlearn", "unlearning", "forget", "erase", "concept"],
        ["continual", "incremental", "lifelong", "few-shot"],
        ["elastic", "nested", "matryoshka", "slimmable", "once-for-all"],
        ["image", "images", "vision", "visual", "picture"],
        ["text", "language", "llm", "llms", "transformer"],
        ["diffusion", "generation", "generative", "synthesis"],
        ["optimizer", "optimiser", "second-order", "curvature", "gradient"],
        ["fast", "faster", "speed", "efficient", "cheap", "accelerate"],
        ["field", "fields", "nerf", "radiance", "implicit", "coordinate"],
        ["rank", "ranking", "rerank", "retrieval", "recommendation"],
        ["mri", "reconstruction", "inverse", "microscopy"],
        ["distil", "distill", "distillation", "teacher", "student"],
        ["filter", "filters", "channel", "channels", "structured"],
    ];

    private static readonly Dictionary<string, HashSet<string>> Same = Relate();

    private readonly List<Dictionary<string, double>> _texts = [];
    private readonly List<double> _lengths = [];
    private readonly Dictionary<string, int> _holders = new(StringComparer.Ordinal);
    private readonly double _meanLength;

    /// <summary>Reads texts; each is known by its place.</summary>
    /// <param name="texts">The texts, each as parts with a weight: a word of a title counts more than one of a page.</param>
    public DescriptionIndex(IEnumerable<IReadOnlyList<(string Text, double Weight)>> texts)
    {
        foreach (IReadOnlyList<(string Text, double Weight)> parts in texts)
        {
            var counts = new Dictionary<string, double>(StringComparer.Ordinal);
            foreach ((string text, double weight) in parts)
            {
                foreach (string word in Words(text))
                {
                    counts[word] = counts.GetValueOrDefault(word) + weight;
                }
            }

            foreach (string word in counts.Keys)
            {
                _holders[word] = _holders.GetValueOrDefault(word) + 1;
            }

            _texts.Add(counts);
            _lengths.Add(counts.Values.Sum());
        }

        _meanLength = _lengths.Count == 0 ? 1 : Math.Max(_lengths.Average(), 1);
    }

    /// <summary>The texts that speak of something, the best first.</summary>
    /// <param name="question">Words, as a person asks.</param>
    /// <returns>Places and scores, of those above 0; equal scores by place.</returns>
    public IReadOnlyList<(int Place, double Score)> Find(string question)
    {
        var wanted = new Dictionary<string, double>(StringComparer.Ordinal);
        foreach (string word in Words(question))
        {
            wanted[word] = 1;
            foreach (string same in Same.GetValueOrDefault(word) ?? [])
            {
                wanted.TryAdd(same, SynonymShare);
            }

            // A word that is still being typed: what begins with it.
            foreach (string longer in word.Length < 3 || _holders.ContainsKey(word) ? [] : _holders.Keys.Where(k => k.StartsWith(word, StringComparison.Ordinal)))
            {
                wanted.TryAdd(longer, SynonymShare);
            }
        }

        return Rank(wanted, except: -1);
    }

    /// <summary>The texts that are most like one of them, the nearest first.</summary>
    /// <param name="place">Its place.</param>
    public IReadOnlyList<(int Place, double Score)> Like(int place) => Rank(
        _texts[place].Select(w => (w.Key, Value: Math.Log(1 + w.Value) * Rarity(w.Key))).OrderByDescending(w => w.Value).ThenBy(w => w.Key, StringComparer.Ordinal)
            .Take(TellingWords).ToDictionary(w => w.Key, w => w.Value, StringComparer.Ordinal),
        place);

    private List<(int Place, double Score)> Rank(Dictionary<string, double> wanted, int except) =>
        [.. Enumerable.Range(0, _texts.Count).Where(i => i != except).Select(i => (Place: i, Score: wanted.Sum(w => w.Value * Score(w.Key, i))))
            .Where(s => s.Score > 0).OrderByDescending(s => s.Score).ThenBy(s => s.Place)];

    // idf(w) · f (k1 + 1) / (f + k1 (1 − b + b |d| / mean|d|))
    private double Score(string word, int place) =>
        _texts[place].TryGetValue(word, out double f) ? Rarity(word) * f * (Saturation + 1) / (f + (Saturation * (1 - LengthShare + (LengthShare * _lengths[place] / _meanLength)))) : 0;

    private double Rarity(string word)
    {
        int holders = _holders.GetValueOrDefault(word);
        return Math.Log(1 + ((_texts.Count - holders + 0.5) / (holders + 0.5)));
    }

    private static IEnumerable<string> Words(string text)
    {
        var word = new StringBuilder();
        foreach (char c in text.Append(' '))
        {
            if (char.IsLetterOrDigit(c) || (c == '-' && word.Length > 0))
            {
                word.Append(char.ToLowerInvariant(c));
                continue;
            }

            string whole = word.ToString().Trim('-');
            word.Clear();
            foreach (string part in whole.Contains('-', StringComparison.Ordinal) ? [whole, whole.Replace("-", "", StringComparison.Ordinal), .. whole.Split('-')] : new[] { whole })
            {
                if (part.Length > 0 && !Fillers.Contains(part))
                {
                    yield return Stem(part);
                }
            }
        }
    }

    // Enough for plurals and for what is done to models; a word never gets shorter than three letters.
    private static string Stem(string word)
    {
        foreach ((string ending, string put) in new[] { ("isation", ""), ("ization", ""), ("ations", ""), ("ation", ""), ("ising", ""), ("izing", ""), ("ised", ""), ("ized", ""), ("ise", ""), ("ize", ""), ("ies", "y"), ("ings", ""), ("ing", ""), ("ers", ""), ("ed", ""), ("es", ""), ("er", ""), ("s", ""), ("e", "") })
        {
            if (word.Length >= ending.Length + 3 && word.EndsWith(ending, StringComparison.Ordinal) && !word.EndsWith("ss", StringComparison.Ordinal))
            {
                return word[..^ending.Length] + put;
            }
        }

        return word;
    }

    private static Dictionary<string, HashSet<string>> Relate()
    {
        var same = new Dictionary<string, HashSet<string>>(StringComparer.Ordinal);
        foreach (string[] group in Synonyms)
        {
            HashSet<string> stems = [.. group.Select(Stem)];
            foreach (string stem in stems)
            {
                (same.TryGetValue(stem, out HashSet<string>? known) ? known : same[stem] = []).UnionWith(stems);
            }
        }

        return same;
    }
}
