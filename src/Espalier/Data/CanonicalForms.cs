using System.Globalization;
using System.Text;

namespace Espalier.Data;

/// <summary>Unicode's canonical normalisation forms C and D (UAX #15), for tokenisers that ask for them (Qwen).</summary>
/// <remarks><see cref="string.Normalize()"/> leaves text as it is where globalisation is invariant, as it is in this project's programs.</remarks>
internal static class CanonicalForms
{
    // Hangul syllables are composed by arithmetic (Unicode, section 3.12).
    private const int SyllableBase = 0xAC00, LeadBase = 0x1100, VowelBase = 0x1161, TailBase = 0x11A7;
    private const int Leads = 19, Vowels = 21, Tails = 28;

    private static readonly Lazy<Tables> tables = new(Tables.Read);

    /// <summary>Form D: every character taken apart, marks in their canonical order.</summary>
    public static string Decompose(string text)
    {
        // Below U+00C0 nothing decomposes.
        return text.AsSpan().IndexOfAnyExceptInRange('\0', '\u00BF') < 0 ? text : ToText(Decomposed(text));
    }

    /// <summary>Form C: taken apart, then put together as far as possible.</summary>
    public static string Compose(string text)
    {
        // Below U+0300 there are no marks, and every character is composed already.
        if (text.AsSpan().IndexOfAnyExceptInRange('\0', '\u02FF') < 0)
        {
            return text;
        }

        List<int> codes = Decomposed(text);
        int starter = -1, lastClass = 0, kept = 0;
        for (int i = 0; i < codes.Count; i++)
        {
            // What is kept is written over what was read: never ahead of i.
            int code = codes[i], combining = ClassOf(code);
            // A mark is blocked from its starter by another one of the same or a higher class between them.
            bool reaches = starter >= 0 && (kept - 1 == starter || lastClass < combining);
            if (reaches && Composite(codes[starter], code) is { } composed)
            {
                codes[starter] = composed;
                continue;
            }

            if (combining == 0)
            {
                starter = kept;
            }

            lastClass = combining;
            codes[kept++] = code;
        }

        codes.RemoveRange(kept, codes.Count - kept);
        return ToText(codes);
    }

    private static List<int> Decomposed(string text)
    {
        var codes = new List<int>(text.Length);
        foreach (Rune rune in text.EnumerateRunes())
        {
            AddDecomposed(rune.Value, codes);
        }

        // Marks in a row are sorted by class; the sort is stable, as insertion moves past greater ones only.
        for (int i = 1; i < codes.Count; i++)
        {
            int combining = ClassOf(codes[i]);
            for (int j = i; combining > 0 && j > 0 && ClassOf(codes[j - 1]) > combining; j--)
            {
                (codes[j - 1], codes[j]) = (codes[j], codes[j - 1]);
            }
        }

        return codes;
    }

    private static void AddDecomposed(int code, List<int> codes)
    {
        int syllable = code - SyllableBase;
        if (syllable is >= 0 and < Leads * Vowels * Tails)
        {
            codes.Add(LeadBase + (syllable / (Vowels * Tails)));
            codes.Add(VowelBase + (syllable / Tails % Vowels));
            if (syllable % Tails > 0)
            {
                codes.Add(TailBase + (syllable % Tails));
            }
        }
        else if (tables.Value.Decompositions.TryGetValue(code, out int[]? parts))
        {
            foreach (int part in parts)
            {
                AddDecomposed(part, codes);
            }
        }
        else
        {
            codes.Add(code);
        }
    }

    private static int? Composite(int first, int second)
    {
        if (first is >= LeadBase and < LeadBase + Leads && second is >= VowelBase and < VowelBase + Vowels)
        {
            return SyllableBase + ((((first - LeadBase) * Vowels) + (second - VowelBase)) * Tails);
        }

        int syllable = first - SyllableBase;
        if (syllable is >= 0 and < Leads * Vowels * Tails && syllable % Tails == 0 && second is > TailBase and < TailBase + Tails)
        {
            return first + (second - TailBase);
        }

        return tables.Value.Composites.TryGetValue((first, second), out int composed) ? composed : null;
    }

    private static int ClassOf(int code) => code < 0x300 ? 0 : tables.Value.Classes.GetValueOrDefault(code);

    private static string ToText(List<int> codes)
    {
        var text = new StringBuilder(codes.Count);
        foreach (int code in codes)
        {
            text.Append(new Rune(code));
        }

        return text.ToString();
    }

    /// <summary>The tables of canonical.txt.</summary>
    private sealed record Tables(Dictionary<int, int[]> Decompositions, Dictionary<(int, int), int> Composites, Dictionary<int, int> Classes)
    {
        public static Tables Read()
        {
            using Stream stream = typeof(CanonicalForms).Assembly.GetManifestResourceStream("Espalier.Data.canonical.txt")!;
            using var reader = new StreamReader(stream);
            var result = new Tables([], [], []);
            while (reader.ReadLine() is { } line)
            {
                string[] fields = line.Split(' ');
                if (fields[0] == "C")
                {
                    for (int code = Hex(fields[1]); code <= Hex(fields[2]); code++)
                    {
                        result.Classes[code] = int.Parse(fields[3], CultureInfo.InvariantCulture);
                    }
                }
                else if (fields[0] is "D" or "X")
                {
                    int[] parts = [.. fields[2..].Select(Hex)];
                    result.Decompositions[Hex(fields[1])] = parts;
                    if (fields[0] == "D")
                    {
                        result.Composites[(parts[0], parts[1])] = Hex(fields[1]);
                    }
                }
            }

            return result;
        }

        private static int Hex(string digits) => int.Parse(digits, NumberStyles.HexNumber, CultureInfo.InvariantCulture);
    }
}
