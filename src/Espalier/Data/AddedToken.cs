using System.Buffers;
using System.Text;

namespace Espalier.Data;

/// <summary>A token that is found in the text itself, before any splitting ("&lt;/s&gt;", "&lt;|im_start|&gt;").</summary>
internal sealed record AddedToken(string Content, int Id)
{
    /// <summary>It is markup: decoding leaves it out when asked.</summary>
    public bool Special { get; init; }

    /// <summary>It is looked for after normalisation.</summary>
    public bool Normalized { get; init; }

    /// <summary>It must not touch a letter or digit.</summary>
    public bool SingleWord { get; init; }

    /// <summary>It swallows white space before it.</summary>
    public bool StripLeft { get; init; }

    /// <summary>It swallows white space after it.</summary>
    public bool StripRight { get; init; }
}

/// <summary>Finds added tokens in a text: the leftmost one, the longest among those that start there.</summary>
internal sealed class AddedTokenMatcher
{
    private readonly SearchValues<string>? search;
    private readonly AddedToken[] byLength;

    /// <summary>Makes a matcher of some tokens; empty ones are ignored.</summary>
    public AddedTokenMatcher(IEnumerable<AddedToken> tokens)
    {
        byLength = [.. tokens.Where(t => t.Content.Length > 0).OrderByDescending(t => t.Content.Length).ThenBy(t => t.Id)];
        search = byLength.Length == 0 ? null : SearchValues.Create([.. byLength.Select(t => t.Content)], StringComparison.Ordinal);
    }

    /// <summary>Cuts a text into stretches of plain text (Token null) and added tokens; plain stretches are never empty.</summary>
    public IEnumerable<(int Start, int End, AddedToken? Token)> Split(string text)
    {
        int done = 0, from = 0;
        while (search is not null && from < text.Length)
        {
            int hit = text.AsSpan(from).IndexOfAny(search);
            if (hit < 0)
            {
                break;
            }

            int start = from + hit;
            AddedToken? token = byLength.FirstOrDefault(t => string.CompareOrdinal(text, start, t.Content, 0, t.Content.Length) == 0 && Stands(text, start, t));
            if (token is null)
            {
                from = start + 1;
                continue;
            }

            int end = start + token.Content.Length;
            while (token.StripLeft && start > done && char.IsWhiteSpace(text[start - 1]))
            {
                start--;
            }

            while (token.StripRight && end < text.Length && char.IsWhiteSpace(text[end]))
            {
                end++;
            }

            if (start > done)
            {
                yield return (done, start, null);
            }

            yield return (start, end, token);
            done = from = end;
        }

        if (done < text.Length)
        {
            yield return (done, text.Length, null);
        }
    }

    private static bool Stands(string text, int start, AddedToken token)
    {
        if (!token.SingleWord)
        {
            return true;
        }

        int end = start + token.Content.Length;
        bool touchesLeft = start > 0 && Rune.DecodeLastFromUtf16(text.AsSpan(0, start), out Rune left, out _) == OperationStatus.Done && IsWord(left);
        bool touchesRight = end < text.Length && Rune.DecodeFromUtf16(text.AsSpan(end), out Rune right, out _) == OperationStatus.Done && IsWord(right);
        return !touchesLeft && !touchesRight;
    }

    private static bool IsWord(Rune rune) => Rune.IsLetterOrDigit(rune) || rune.Value == '_';
}
