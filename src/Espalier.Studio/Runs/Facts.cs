using System.Globalization;
using System.Text;
using Espalier.Runs;

namespace Espalier.Studio.Runs;

/// <summary>What a result says, in words for a page: names of fields as words, numbers with as many digits as one reads.</summary>
internal static class Facts
{
    // Where things lie and which programs load them is shown elsewhere on the page.
    private static readonly string[] Elsewhere = ["folder", "out", "output", "readers.", "files.", "options."];

    /// <summary>Names and values.</summary>
    /// <param name="outcome"><see cref="Run.Outcome"/>.</param>
    /// <param name="most">How many at most.</param>
    public static IReadOnlyList<(string Name, string Value)> Of(string outcome, int most = 24) =>
        [.. OutcomeFigures.Of(outcome).Where(f => !Elsewhere.Any(e => f.Key == e || (e.EndsWith('.') && f.Key.StartsWith(e, StringComparison.Ordinal)))).Take(most).Select(f => (Words(f.Key), Value(f.Value)))];

    /// <summary>"bestLoss" is "best loss", "models.dense.tokensPerSecond" "models, dense: tokens per second".</summary>
    internal static string Words(string path)
    {
        string[] parts = [.. path.Split('.').Select(Plain)];
        return parts.Length == 1 ? parts[0] : $"{string.Join(", ", parts[..^1])}: {parts[^1]}";
    }

    /// <summary>A number with at most five digits that count and groups of thousands; other words as they are.</summary>
    internal static string Value(string value) => value switch
    {
        "true" => "yes",
        "false" => "no",
        _ when long.TryParse(value, CultureInfo.InvariantCulture, out long whole) => whole.ToString("N0", CultureInfo.InvariantCulture),
        _ when double.TryParse(value, CultureInfo.InvariantCulture, out double number) => Math.Abs(number) >= 1000 ? number.ToString("N0", CultureInfo.InvariantCulture) : number.ToString("G4", CultureInfo.InvariantCulture),
        _ => value,
    };

    private static string Plain(string name)
    {
        var words = new StringBuilder();
        foreach (char c in name)
        {
            if (char.IsUpper(c) && words.Length > 0 && words[^1] != ' ' && !char.IsUpper(words[^1]))
            {
                words.Append(' ');
            }

            words.Append(words.Length == 0 || name.Contains(' ', StringComparison.Ordinal) || name.Skip(1).Any(char.IsLower) is false ? c : char.ToLowerInvariant(c));
        }

        return words.ToString();
    }
}
