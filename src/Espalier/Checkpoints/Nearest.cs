namespace Espalier.Checkpoints;

/// <summary>The known name that a mistyped one was probably meant to be.</summary>
internal static class Nearest
{
    /// <summary>" (did you mean 'x'?)", or nothing when no name is close.</summary>
    /// <param name="name">What was asked for.</param>
    /// <param name="known">What there is.</param>
    public static string To(string name, IReadOnlyList<string> known)
    {
        string? best = null;
        int distance = Math.Max(2, name.Length / 4);
        foreach (string candidate in known)
        {
            // A suffix is the usual difference: "model.layers.0..." against "layers.0...".
            int now = candidate.EndsWith('.' + name, StringComparison.Ordinal) || name.EndsWith('.' + candidate, StringComparison.Ordinal)
                ? 1
                : Math.Abs(candidate.Length - name.Length) >= distance ? distance : Distance(name, candidate);
            if (now < distance)
            {
                (best, distance) = (candidate, now);
            }
        }

        return best is null ? string.Empty : $" (did you mean '{best}'?)";
    }

    /// <summary>Levenshtein's distance.</summary>
    private static int Distance(string a, string b)
    {
        int[] row = Enumerable.Range(0, b.Length + 1).ToArray();
        for (int i = 1; i <= a.Length; i++)
        {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.Length; j++)
            {
                int replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
                diagonal = row[j];
                row[j] = Math.Min(replaced, Math.Min(row[j], row[j - 1]) + 1);
            }
        }

        return row[^1];
    }
}
