using System.Text;
using System.Text.RegularExpressions;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>
/// Text to token ids and back, as the files beside a model say. Safe to use from several threads.
/// </summary>
/// <remarks>
/// Read are: <c>tokenizer.json</c> with a BPE model (GPT-2, OPT, Llama-3, Qwen; Llama-2 and Mistral with byte fallback),
/// <c>tokenizer.model</c> (SentencePiece) and <c>vocab.json</c> with <c>merges.txt</c>.
/// </remarks>
public abstract class Tokenizer
{
    /// <summary>The id that begins a text ("&lt;s&gt;"); null when the model has none.</summary>
    public int? BeginId { get; internal init; }

    /// <summary>The id that ends a text ("&lt;/s&gt;"); null when the model has none.</summary>
    public int? EndId { get; internal init; }

    /// <summary>The id that fills up batches; null when the model has none.</summary>
    public int? PadId { get; internal init; }

    /// <summary>One more than the largest id.</summary>
    public abstract int VocabularySize { get; }

    /// <summary>True when decoding drops the one space that encoding put before the text (SentencePiece's models).</summary>
    internal virtual bool DropsFirstSpace => false;

    /// <summary>Loads the tokeniser of a model.</summary>
    /// <param name="folder">The model's folder, or a <c>tokenizer.json</c> or <c>tokenizer.model</c> itself.</param>
    /// <exception cref="EspalierException">When there is none, or none of a supported kind, or it is damaged.</exception>
    public static Tokenizer Load(string folder) => TokenizerFiles.Load(folder);

    /// <summary>The ids of a text. Special tokens written in the text are recognised.</summary>
    /// <param name="text">Any text; a lone surrogate is read as U+FFFD. Empty text gives no ids, not even a beginning.</param>
    /// <param name="addSpecialTokens">Add what the model's own files put around a text (mostly a beginning, often nothing).</param>
    /// <exception cref="EspalierException">When a pattern of the tokeniser's file does not come to an end.</exception>
    public IReadOnlyList<int> Encode(string text, bool addSpecialTokens = true)
    {
        ArgumentNullException.ThrowIfNull(text);
        try
        {
            return text.Length == 0 ? [] : EncodeText(text, addSpecialTokens);
        }
        catch (RegexMatchTimeoutException fault)
        {
            throw new EspalierException($"The tokeniser's pattern {fault.Pattern} did not come to an end within {fault.MatchTimeout.TotalSeconds:0} seconds; do not trust this tokeniser.", fault);
        }
    }

    /// <summary>The text of some ids.</summary>
    /// <param name="ids">Ids of the vocabulary.</param>
    /// <param name="skipSpecialTokens">Leave out markup such as "&lt;/s&gt;".</param>
    /// <exception cref="EspalierException">When the vocabulary has no such id.</exception>
    public string Decode(IEnumerable<int> ids, bool skipSpecialTokens = true)
    {
        TokenDecoder decoder = StartDecoding(skipSpecialTokens);
        var text = new StringBuilder();
        foreach (int id in ids)
        {
            text.Append(decoder.Push(id));
        }

        return text.Append(decoder.Flush()).ToString();
    }

    /// <summary>A decoder for ids that come one by one.</summary>
    /// <param name="skipSpecialTokens">Leave out markup such as "&lt;/s&gt;".</param>
    public TokenDecoder StartDecoding(bool skipSpecialTokens = true) => new(this, skipSpecialTokens);

    /// <summary>The id of a token as the vocabulary writes it ("Ġthe"); null when there is none.</summary>
    public abstract int? IdOf(string token);

    /// <summary>The token of an id as the vocabulary writes it; null when there is none.</summary>
    public abstract string? TokenOf(int id);

    /// <summary>Whether an id is markup.</summary>
    public abstract bool IsSpecial(int id);

    /// <summary>The UTF-8 bytes that an id stands for, perhaps part of a character only.</summary>
    internal abstract ReadOnlySpan<byte> BytesOf(int id);

    /// <summary>The tokeniser as tables.</summary>
    /// <exception cref="EspalierException">When it works in a way that tables cannot carry.</exception>
    internal abstract TokenizerTable ToTable();

    private protected abstract IReadOnlyList<int> EncodeText(string text, bool addSpecialTokens);

    private protected EspalierException NoSuchId(int id) =>
        new($"The id {id} is not in the tokeniser's vocabulary of {VocabularySize}: the ids come from another model or the model's vocabulary is larger than its tokeniser's.");
}
