namespace Espalier.Runtime;

/// <summary>Finds the word that a mistyped one was meant to be.</summary>
public static class NearestWord
{
    /// <summary>The known word with the fewest edits, or null where none is near (more than a third of the letters differ).</summary>
    /// <param name="word">What was written.</param>
    /// <param name="known">The words that exist.</param>
    public static string? To(string word, IEnumerable<string> known)
    {
        int allowed = Math.Max(1, word.Length / 3);
        return known
            .Select(candidate => (candidate, edits: Edits(word.ToLowerInvariant(), candidate.ToLowerInvariant())))
            .Where(c => c.edits <= allowed)
            .OrderBy(c => c.edits)
            .Select(c => c.candidate)
            .FirstOrDefault();
    }

    /// <summary>" Did you mean 'x'?", or nothing where no known word is near: ready to follow a sentence.</summary>
    public static string Suggest(string word, IEnumerable<string> known) =>
        To(word, known) is { } near ? $" Did you mean '{near}'?" : "";

    /// <summary>Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.</summary>
    private static int Edits(string a, string b)
    {
        var d = new int[a.Length + 1, b.Length + 1];
        for (int i = 0; i <= a.Length; i++)
        {
            d[i, 0] = i;
        }

        for (int j = 0; j <= b.Length; j++)
        {
            d[0, j] = j;
        }

        for (int i = 1; i <= a.Length; i++)
        {
            for (int j = 1; j <= b.Length; j++)
            {
                int cost = a[i - 1] == b[j - 1] ? 0 : 1;
                d[i, j] = Math.Min(Math.Min(d[i - 1, j] + 1, d[i, j - 1] + 1), d[i - 1, j - 1] + cost);
                if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                {
                    d[i, j] = Math.Min(d[i, j], d[i - 2, j - 2] + 1);
                }
            }
        }

        return d[a.Length, b.Length];
    }
}
