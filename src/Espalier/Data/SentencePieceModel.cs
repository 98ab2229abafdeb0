using Espalier.Runtime;
using Microsoft.ML.Tokenizers;

namespace Espalier.Data;

/// <summary>A tokeniser from a SentencePiece <c>tokenizer.model</c> (Llama-2, Mistral, T5), carried by Microsoft.ML.Tokenizers.</summary>
internal sealed class SentencePieceModel : Tokenizer
{
    private readonly SentencePieceTokenizer pieces;
    private readonly string?[] tokens;
    private readonly byte[]?[] bytes;
    private readonly HashSet<int> special;
    private readonly bool addBegin, addEnd;

    private readonly string path;

    private SentencePieceModel(string path, SentencePieceTokenizer pieces, bool addBegin, bool addEnd)
    {
        this.path = path;
        this.pieces = pieces;
        this.addBegin = addBegin;
        this.addEnd = addEnd;
        tokens = new string?[pieces.Vocabulary.Values.Max() + 1];
        bytes = new byte[tokens.Length][];
        foreach (var (token, id) in pieces.Vocabulary)
        {
            tokens[id] = token;
            bytes[id] = BytePairTokenizer.PieceBytes(token);
        }

        special = [pieces.UnknownId, pieces.BeginningOfSentenceId, pieces.EndOfSentenceId];
    }

    /// <summary>Reads a model; whether a beginning is added is said by the configuration beside it (default: yes for Llama, no end).</summary>
    public static SentencePieceModel Read(string path, SpecialTokens special)
    {
        try
        {
            using FileStream stream = File.OpenRead(path);
            SentencePieceTokenizer pieces = SentencePieceTokenizer.Create(stream, addBeginningOfSentence: false, addEndOfSentence: false);
            bool isT5 = special.Class.StartsWith("T5", StringComparison.Ordinal);
            bool begins = special.AddBegin ?? (!isT5 && pieces.Vocabulary.ContainsKey("<s>"));
            return new SentencePieceModel(path, pieces, begins, special.AddEnd ?? isT5)
            {
                BeginId = pieces.Vocabulary.ContainsKey(pieces.BeginningOfSentenceToken) ? pieces.BeginningOfSentenceId : special.BeginId,
                EndId = pieces.Vocabulary.ContainsKey(pieces.EndOfSentenceToken) ? pieces.EndOfSentenceId : special.EndId,
                PadId = special.Pad is { } pad && pieces.Vocabulary.TryGetValue(pad, out int id) ? id : null,
            };
        }
        catch (Exception fault) when (fault is Google.Protobuf.InvalidProtocolBufferException or not (EspalierException or IOException or UnauthorizedAccessException or OutOfMemoryException))
        {
            // The protobuf reader and the tokeniser throw many kinds; all mean that the bytes are no model of a known kind.
            throw new EspalierException($"\"{path}\" is no SentencePiece model that can be read (BPE and Unigram can): {fault.Message.TrimEnd('.')}; fetch the file again.", fault);
        }
    }

    /// <inheritdoc/>
    public override int VocabularySize => tokens.Length;

    /// <inheritdoc/>
    internal override bool DropsFirstSpace => pieces.AddDummyPrefix;

    /// <inheritdoc/>
    public override int? IdOf(string token) => pieces.Vocabulary.TryGetValue(token, out int id) ? id : null;

    /// <inheritdoc/>
    public override string? TokenOf(int id) => (uint)id < (uint)tokens.Length ? tokens[id] : null;

    /// <inheritdoc/>
    public override bool IsSpecial(int id) => special.Contains(id);

    /// <inheritdoc/>
    internal override ReadOnlySpan<byte> BytesOf(int id) => (uint)id < (uint)bytes.Length && bytes[id] is { } found ? found : throw NoSuchId(id);

    /// <inheritdoc/>
    internal override TokenizerTable ToTable()
    {
        (List<(string Text, float Score, TokenKind Kind)> read, bool unigram) = ReadScores();
        EspalierException.Require(!unigram, $"\"{path}\" is a Unigram model, whose words are chosen as a whole and not joined piece by piece; only BPE models can be carried to other programs.");
        return new TokenizerTable
        {
            ByteLevel = false,
            Tokens = [.. read.Select(p => p.Text)],
            Kinds = [.. read.Select(p => p.Kind)],
            Scores = [.. read.Select(p => p.Score)],
            AddsPrefixSpace = pieces.AddDummyPrefix,
            Before = addBegin ? [pieces.BeginningOfSentenceId] : [],
            After = addEnd ? [pieces.EndOfSentenceId] : [],
            UnknownId = pieces.UnknownId,
        };
    }

    // The library that encodes passes over things that this stricter reader does not.
    private (List<(string Text, float Score, TokenKind Kind)> Pieces, bool Unigram) ReadScores()
    {
        try
        {
            return SentencePieceScores.Read(path);
        }
        catch (Google.Protobuf.InvalidProtocolBufferException fault)
        {
            throw new EspalierException($"\"{path}\" is a damaged SentencePiece model ({fault.Message.TrimEnd('.')}); fetch the file again.", fault);
        }
    }

    private protected override IReadOnlyList<int> EncodeText(string text, bool addSpecialTokens) =>
        pieces.EncodeToIds(text, addBeginningOfSentence: addSpecialTokens && addBegin, addEndOfSentence: addSpecialTokens && addEnd, considerPreTokenization: false, considerNormalization: true);
}
