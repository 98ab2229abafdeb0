using System.Buffers;
using System.Text;

namespace Espalier.Data;

/// <summary>
/// Turns ids into text while they are generated: bytes of a character whose end has not come yet are held back, so that
/// what is shown never has to be taken back. Malformed bytes become U+FFFD.
/// </summary>
public sealed class TokenDecoder
{
    private readonly Tokenizer tokenizer;
    private readonly bool skipSpecialTokens;
    private byte[] pending = [];
    private bool atStart = true;

    internal TokenDecoder(Tokenizer tokenizer, bool skipSpecialTokens)
    {
        this.tokenizer = tokenizer;
        this.skipSpecialTokens = skipSpecialTokens;
    }

    /// <summary>Takes the next id.</summary>
    /// <returns>The text that is certain now; empty when the id gave none or ended amid a character.</returns>
    /// <exception cref="Runtime.EspalierException">When the vocabulary has no such id.</exception>
    public string Push(int id)
    {
        if (skipSpecialTokens && tokenizer.IsSpecial(id))
        {
            return "";
        }

        ReadOnlySpan<byte> bytes = tokenizer.BytesOf(id);
        if (atStart && bytes.Length > 0)
        {
            atStart = false;
            if (tokenizer.DropsFirstSpace && bytes[0] == (byte)' ')
            {
                bytes = bytes[1..];
            }
        }

        if (pending.Length > 0)
        {
            bytes = (byte[])[.. pending, .. bytes];
        }

        int complete = CompleteLength(bytes);
        pending = bytes[complete..].ToArray();
        return Encoding.UTF8.GetString(bytes[..complete]);
    }

    /// <summary>Ends the text: what was held back, as U+FFFD since its end never came. The decoder can be used again.</summary>
    public string Flush()
    {
        string rest = Encoding.UTF8.GetString(pending);
        pending = [];
        atStart = true;
        return rest;
    }

    /// <summary>The length without a last character whose bytes are right so far but not all there.</summary>
    private static int CompleteLength(ReadOnlySpan<byte> bytes)
    {
        for (int back = 1; back <= Math.Min(3, bytes.Length); back++)
        {
            if ((bytes[^back] & 0xC0) != 0x80)
            {
                bool cutShort = Rune.DecodeFromUtf8(bytes[^back..], out _, out _) == OperationStatus.NeedMoreData;
                return cutShort ? bytes.Length - back : bytes.Length;
            }
        }

        return bytes.Length;
    }
}
