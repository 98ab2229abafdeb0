using System.Buffers;
using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace Espalier.Data;

/// <summary>A stretch of text on its way to becoming pre-tokens.</summary>
/// <param name="Source">The string it lies in.</param>
/// <param name="Start">Where it begins there.</param>
/// <param name="Length">How many UTF-16 units it has.</param>
/// <param name="First">It begins the whole text.</param>
internal readonly record struct Piece(string Source, int Start, int Length, bool First)
{
    public ReadOnlySpan<char> Span => Source.AsSpan(Start, Length);
}

/// <summary>One step of pre-tokenisation: cuts or rewrites a piece.</summary>
internal abstract class PreTokenizerStep
{
    /// <summary>Appends what becomes of a piece.</summary>
    public abstract void Apply(Piece piece, List<Piece> output);
}

/// <summary>What happens to the matches of a splitting pattern.</summary>
internal enum SplitBehavior
{
    /// <summary>A match is a piece of its own.</summary>
    Isolated,

    /// <summary>A match is dropped.</summary>
    Removed,

    /// <summary>A match ends the piece before it.</summary>
    MergedWithPrevious,

    /// <summary>A match begins the piece after it.</summary>
    MergedWithNext,

    /// <summary>Neighbouring matches are one piece.</summary>
    Contiguous,
}

/// <summary>Cuts a piece by a regular expression that sees code points, not UTF-16 units.</summary>
internal sealed class SplitStep(string pattern, SplitBehavior behavior, bool invert) : PreTokenizerStep
{
    /// <summary>The pattern of GPT-2, OPT and every ByteLevel pre-tokeniser.</summary>
    public const string Gpt2Pattern = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    /// <summary>The pattern, where its matches stay as pieces of their own; else null.</summary>
    public string? Isolating => behavior == SplitBehavior.Isolated && !invert ? pattern : null;

    private readonly Regex regex = new(pattern, RegexOptions.Compiled | RegexOptions.CultureInvariant, TimeSpan.FromSeconds(5));

    /// <inheritdoc/>
    public override void Apply(Piece piece, List<Piece> output)
    {
        var cuts = new Cuts(piece, output, behavior);
        int[]? starts = null;
        ReadOnlySpan<char> seen = piece.Span;
        if (seen.IndexOfAnyInRange('\uD800', '\uDFFF') >= 0)
        {
            (string shadow, starts) = Shadow(seen);
            seen = shadow;
        }

        int done = 0;
        foreach (ValueMatch match in regex.EnumerateMatches(seen))
        {
            if (match.Length == 0)
            {
                continue;
            }

            int start = starts is null ? match.Index : starts[match.Index];
            int end = starts is null ? match.Index + match.Length : starts[match.Index + match.Length];
            cuts.Add(done, start, isMatch: invert);
            cuts.Add(start, end, isMatch: !invert);
            done = end;
        }

        cuts.Add(done, piece.Length, isMatch: invert);
        cuts.Finish();
    }

    /// <summary>
    /// One character of the basic plane for each code point, of the same Unicode category, so that \p{L} and its kin
    /// judge letters and signs outside the basic plane as they would on code points. Also where each one starts.
    /// </summary>
    private static (string Shadow, int[] Starts) Shadow(ReadOnlySpan<char> text)
    {
        var shadow = new StringBuilder(text.Length);
        var starts = new List<int>(text.Length + 1);
        int index = 0;
        while (index < text.Length)
        {
            starts.Add(index);
            bool valid = Rune.DecodeFromUtf16(text[index..], out Rune rune, out int consumed) == OperationStatus.Done;
            shadow.Append(valid && rune.IsBmp ? (char)rune.Value : valid ? StandIn(Rune.GetUnicodeCategory(rune)) : '\uFFFD');
            index += consumed;
        }

        starts.Add(text.Length);
        return (shadow.ToString(), [.. starts]);
    }

    private static char StandIn(UnicodeCategory category) => category switch
    {
        UnicodeCategory.UppercaseLetter => 'Þ',
        UnicodeCategory.LowercaseLetter => 'þ',
        UnicodeCategory.TitlecaseLetter => 'ǅ',
        UnicodeCategory.ModifierLetter => 'ʰ',
        UnicodeCategory.OtherLetter => 'ƻ',
        UnicodeCategory.NonSpacingMark => '\u0300',
        UnicodeCategory.SpacingCombiningMark => '\u0903',
        UnicodeCategory.EnclosingMark => '\u0488',
        UnicodeCategory.DecimalDigitNumber => '٠',
        UnicodeCategory.LetterNumber => 'Ⅰ',
        UnicodeCategory.OtherNumber => '¼',
        UnicodeCategory.ConnectorPunctuation => '‿',
        UnicodeCategory.DashPunctuation => '‐',
        UnicodeCategory.OtherPunctuation => '‡',
        UnicodeCategory.MathSymbol => '±',
        UnicodeCategory.CurrencySymbol => '¤',
        UnicodeCategory.ModifierSymbol => '¨',
        UnicodeCategory.OtherSymbol => '©',
        UnicodeCategory.Format => '\u200B',
        UnicodeCategory.PrivateUse => '\uE000',
        _ => '\uFFFE', // unassigned, like everything else that is left outside the basic plane
    };

    /// <summary>Collects consecutive stretches and joins those that the behaviour says belong together.</summary>
    private struct Cuts(Piece piece, List<Piece> output, SplitBehavior behavior)
    {
        private int start, end;
        private bool open, openIsMatch;

        public void Add(int from, int to, bool isMatch)
        {
            if (from == to)
            {
                return;
            }

            bool joins = open && behavior switch
            {
                SplitBehavior.MergedWithPrevious => isMatch && !openIsMatch,
                SplitBehavior.MergedWithNext => openIsMatch && !isMatch,
                SplitBehavior.Contiguous => openIsMatch == isMatch,
                _ => false,
            };
            if (!joins)
            {
                Finish();
                if (behavior == SplitBehavior.Removed && isMatch)
                {
                    return;
                }

                start = from;
                open = true;
            }

            end = to;
            openIsMatch = isMatch;
        }

        public void Finish()
        {
            if (open)
            {
                output.Add(new Piece(piece.Source, piece.Start + start, end - start, piece.First && start == 0));
                open = false;
            }
        }
    }
}

/// <summary>Puts a space before a piece that does not begin with white space (<c>add_prefix_space</c>).</summary>
internal sealed class PrefixSpaceStep : PreTokenizerStep
{
    /// <inheritdoc/>
    public override void Apply(Piece piece, List<Piece> output)
    {
        bool has = piece.Length > 0 && char.IsWhiteSpace(piece.Span[0]);
        output.Add(has ? piece : new Piece(string.Concat(" ", piece.Span), 0, piece.Length + 1, piece.First));
    }
}

/// <summary>When a metaspace is put before a piece.</summary>
internal enum PrependScheme
{
    /// <summary>Before every piece.</summary>
    Always,

    /// <summary>Only where the whole text begins.</summary>
    First,

    /// <summary>Nowhere.</summary>
    Never,
}

/// <summary>SentencePiece's way with spaces: written as '▁', one put before the text, and words cut before each.</summary>
internal sealed class MetaspaceStep(char replacement, PrependScheme prepend, bool split) : PreTokenizerStep
{
    /// <inheritdoc/>
    public override void Apply(Piece piece, List<Piece> output)
    {
        string text = piece.Span.ToString().Replace(' ', replacement);
        bool wanted = prepend == PrependScheme.Always || (prepend == PrependScheme.First && piece.First);
        if (wanted && !text.StartsWith(replacement))
        {
            text = replacement + text;
        }

        int start = 0;
        while (split && start < text.Length)
        {
            int next = text.IndexOf(replacement, start + 1);
            if (next < 0)
            {
                break;
            }

            output.Add(new Piece(text, start, next - start, piece.First && start == 0));
            start = next;
        }

        output.Add(new Piece(text, start, text.Length - start, piece.First && start == 0));
    }
}
