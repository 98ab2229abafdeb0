using System.Text.RegularExpressions;

namespace Espalier.Studio.Runs;

/// <summary>What a word of a request may be: an id on the hub, never a path.</summary>
internal static partial class HubWords
{
    /// <summary>A model: org/name, with a revision if need be.</summary>
    public static bool IsModel(string word) => Model().IsMatch(word);

    /// <summary>A data set: org/name:config:split.</summary>
    public static bool IsData(string word) => Data().IsMatch(word);

    /// <summary>Whether a program could take a word for the path of a file elsewhere.</summary>
    public static bool IsPath(string word) => word.Contains('/', StringComparison.Ordinal) || word.Contains('\\', StringComparison.Ordinal) || word is "." or ".." || word.StartsWith('~') || Path.IsPathRooted(word)
        || (word.Length > 1 && char.IsAsciiLetter(word[0]) && word[1] == ':');

    [GeneratedRegex(@"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[\w.-]{1,64})?$")]
    private static partial Regex Model();

    [GeneratedRegex(@"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(:[\w.-]{1,64}){0,2}$")]
    private static partial Regex Data();
}
