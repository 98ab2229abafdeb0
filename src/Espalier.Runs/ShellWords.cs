using System.Text.Json;

namespace Espalier.Runs;

/// <summary>Words of the command line as one types them.</summary>
public static class ShellWords
{
    /// <summary>The words that a run was started with; none where it was not started from a command line.</summary>
    public static IReadOnlyList<string> Of(Run run)
    {
        try
        {
            return JsonSerializer.Deserialize<string?[]>(run.Words) is { } words ? [.. words.Select(w => w ?? "")] : [];
        }
        catch (JsonException)
        {
            return [];
        }
    }

    /// <summary>The line <c>espalier …</c>, with quotes where a shell needs them.</summary>
    /// <param name="words">The words after <c>espalier</c>.</param>
    public static string Line(IEnumerable<string> words) => string.Join(' ', words.Select(Quoted).Prepend("espalier"));

    /// <summary>A word with quotes where a shell needs them.</summary>
    public static string Quoted(string word) =>
        word.Length > 0 && word.All(c => char.IsLetterOrDigit(c) || "-_./:=,@+%".Contains(c, StringComparison.Ordinal)) ? word : $"'{word.Replace("'", "'\\''", StringComparison.Ordinal)}'";
}
