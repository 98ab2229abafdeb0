using System.Text;

namespace Espalier.Data;

/// <summary>
/// The printable alphabet of byte-level vocabularies (GPT-2): each of the 256 bytes has one visible character, so that a
/// vocabulary of byte strings can be written as text. A space is 'Ġ', a line feed 'Ċ'.
/// </summary>
internal static class ByteAlphabet
{
    private static readonly char[] characters = MakeCharacters();
    private static readonly Dictionary<char, byte> bytes = characters.Select((c, b) => (c, b)).ToDictionary(p => p.c, p => (byte)p.b);

    /// <summary>The character that stands for a byte.</summary>
    public static char ToCharacter(byte value) => characters[value];

    /// <summary>The 256 characters in the order in which byte-level vocabularies list them (by code point).</summary>
    public static IEnumerable<char> InCodePointOrder => characters.Order();

    /// <summary>Writes text as its UTF-8 bytes in this alphabet; a lone surrogate becomes U+FFFD, as in any UTF-8 encoder.</summary>
    public static string Encode(ReadOnlySpan<char> text)
    {
        byte[] utf8 = new byte[Encoding.UTF8.GetByteCount(text)];
        Encoding.UTF8.GetBytes(text, utf8);
        return string.Create(utf8.Length, utf8, static (span, source) =>
        {
            for (int i = 0; i < source.Length; i++)
            {
                span[i] = characters[source[i]];
            }
        });
    }

    /// <summary>The bytes that a token of this alphabet stands for; a token with any other character stands for its own UTF-8.</summary>
    public static byte[] Decode(string token)
    {
        byte[] result = new byte[token.Length];
        for (int i = 0; i < token.Length; i++)
        {
            if (!bytes.TryGetValue(token[i], out result[i]))
            {
                return Encoding.UTF8.GetBytes(token);
            }
        }

        return result;
    }

    private static char[] MakeCharacters()
    {
        char[] result = new char[256];
        int next = 256;
        for (int b = 0; b < 256; b++)
        {
            bool printable = b is >= '!' and <= '~' or >= 0xA1 and <= 0xAC or >= 0xAE and <= 0xFF;
            result[b] = printable ? (char)b : (char)next++;
        }

        return result;
    }
}
