using System.Globalization;
using System.Text;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>A tokeniser put together from the parts of a <c>tokenizer.json</c>: added tokens, normaliser, pre-tokeniser, byte-pair model, template.</summary>
internal sealed class BytePairTokenizer : Tokenizer
{
    private const long MostUnused = 1 << 20;

    private readonly BytePairTokenizerParts parts;
    private readonly AddedTokenMatcher rawMatcher, normalizedMatcher;
    private readonly Dictionary<string, int> ids;
    private readonly string?[] tokens;
    private readonly byte[]?[] bytes;
    private readonly bool[] special;

    public BytePairTokenizer(BytePairTokenizerParts parts)
    {
        this.parts = parts;
        rawMatcher = new AddedTokenMatcher(parts.AddedTokens.Where(t => !t.Normalized));
        normalizedMatcher = new AddedTokenMatcher(parts.AddedTokens.Where(t => t.Normalized).Select(t => t with { Content = parts.Normalize(t.Content) }));
        ids = new Dictionary<string, int>(parts.Vocabulary, StringComparer.Ordinal);
        foreach (AddedToken token in parts.AddedTokens)
        {
            ids[token.Content] = token.Id;
        }

        // Tables go up to the largest id, so one token with a huge one would take all memory.
        long largest = ids.Values.Append(-1).Max();
        EspalierException.Require(largest < MostUnused + (16L * ids.Count) && ids.Values.All(id => id >= 0),
            $"The tokeniser gives a token the id {(largest < MostUnused ? ids.Values.Min() : largest)}, though it has only {ids.Count} tokens; the file is damaged, fetch it again.");
        int size = (int)largest + 1;
        tokens = new string?[size];
        bytes = new byte[size][];
        special = new bool[size];
        foreach (var (token, id) in parts.Vocabulary)
        {
            tokens[id] = token;
            bytes[id] = parts.ByteLevel ? ByteAlphabet.Decode(token) : PieceBytes(token);
        }

        foreach (AddedToken token in parts.AddedTokens)
        {
            tokens[token.Id] = token.Content;
            bytes[token.Id] = Encoding.UTF8.GetBytes(token.Content);
            special[token.Id] = token.Special;
        }
    }

    /// <inheritdoc/>
    public override int VocabularySize => tokens.Length;

    /// <inheritdoc/>
    internal override bool DropsFirstSpace => parts.DropsFirstSpace;

    /// <inheritdoc/>
    public override int? IdOf(string token) => ids.TryGetValue(token, out int id) ? id : null;

    /// <inheritdoc/>
    public override string? TokenOf(int id) => (uint)id < (uint)tokens.Length ? tokens[id] : null;

    /// <inheritdoc/>
    public override bool IsSpecial(int id) => (uint)id < (uint)special.Length && special[id];

    /// <inheritdoc/>
    internal override ReadOnlySpan<byte> BytesOf(int id) => (uint)id < (uint)bytes.Length && bytes[id] is { } found ? found : throw NoSuchId(id);

    /// <inheritdoc/>
    internal override TokenizerTable ToTable()
    {
        BytePairOptions options = parts.Model.Options;
        EspalierException.Require(parts.ByteLevel || options.ByteFallback, "The tokeniser is neither byte-level BPE nor one of pieces with byte fallback; only these two kinds can be carried to other programs.");
        EspalierException.Require(options.SubwordPrefix.Length == 0 && options.WordSuffix.Length == 0, "The tokeniser marks the parts of words by a prefix or suffix, which other programs cannot be told of.");
        (int Left, int Right, int Merged)[] merges = [.. parts.Model.Merges];
        var scores = new float[parts.ByteLevel ? 0 : tokens.Length];
        for (int rank = merges.Length - 1; rank >= 0 && !parts.ByteLevel; rank--)
        {
            scores[merges[rank].Merged] = -rank; // a piece that several pairs make keeps the best
        }

        return new TokenizerTable
        {
            ByteLevel = parts.ByteLevel,
            Tokens = tokens,
            Kinds = [.. tokens.Select((_, id) => KindOf(id))],
            Scores = scores,
            Merges = parts.ByteLevel ? [.. merges.Select(m => (tokens[m.Left]!, tokens[m.Right]!))] : [],
            Patterns = [.. parts.PreTokenizer.Where(step => step is not (PrefixSpaceStep or MetaspaceStep)).Select(step => (step as SplitStep)?.Isolating)],
            IgnoreMerges = options.IgnoreMerges,
            AddsPrefixSpace = parts.ByteLevel ? parts.PreTokenizer.Any(step => step is PrefixSpaceStep) : parts.DropsFirstSpace,
            Before = parts.Before,
            After = parts.After,
            UnknownId = parts.Model.UnknownId,
        };
    }

    private TokenKind KindOf(int id)
    {
        AddedToken? added = parts.AddedTokens.FirstOrDefault(t => t.Id == id);
        return tokens[id] is not { } token ? TokenKind.Unused
            : !parts.ByteLevel && id == parts.Model.UnknownId ? TokenKind.Unknown
            : added is not null ? added.Special ? TokenKind.Control : TokenKind.UserDefined
            : !parts.ByteLevel && token is ['<', '0', 'x', _, _, '>'] ? TokenKind.Byte
            : TokenKind.Normal;
    }

    private protected override IReadOnlyList<int> EncodeText(string text, bool addSpecialTokens)
    {
        var result = new List<int>(text.Length / 3 + 4);
        if (addSpecialTokens)
        {
            result.AddRange(parts.Before);
        }

        foreach (var (start, end, token) in rawMatcher.Split(text))
        {
            if (token is not null)
            {
                result.Add(token.Id);
            }
            else
            {
                string stretch = start == 0 && end == text.Length ? text : text[start..end];
                EncodeStretch(parts.Normalize(stretch), first: start == 0, result);
            }
        }

        if (addSpecialTokens)
        {
            result.AddRange(parts.After);
        }

        return result;
    }

    private void EncodeStretch(string text, bool first, List<int> result)
    {
        foreach (var (start, end, token) in normalizedMatcher.Split(text))
        {
            if (token is not null)
            {
                result.Add(token.Id);
                continue;
            }

            List<Piece> pieces = [new Piece(text, start, end - start, first && start == 0)];
            foreach (PreTokenizerStep step in parts.PreTokenizer)
            {
                var cut = new List<Piece>(pieces.Count == 1 ? text.Length / 5 + 1 : pieces.Count);
                foreach (Piece piece in pieces)
                {
                    step.Apply(piece, cut);
                }

                pieces = cut;
            }

            foreach (Piece piece in pieces)
            {
                parts.Model.Encode(piece.Span, result);
            }
        }
    }

    /// <summary>A SentencePiece-like token: '▁' is a space and &lt;0xNN&gt; a byte.</summary>
    internal static byte[] PieceBytes(string token) =>
        token is ['<', '0', 'x', _, _, '>'] && byte.TryParse(token.AsSpan(3, 2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out byte value)
            ? [value]
            : Encoding.UTF8.GetBytes(token.Replace('▁', ' '));
}

/// <summary>The parts of a byte-pair tokeniser.</summary>
internal sealed record BytePairTokenizerParts
{
    public required IReadOnlyDictionary<string, int> Vocabulary { get; init; }

    public required BytePairModel Model { get; init; }

    public IReadOnlyList<AddedToken> AddedTokens { get; init; } = [];

    public Func<string, string> Normalize { get; init; } = text => text;

    public IReadOnlyList<PreTokenizerStep> PreTokenizer { get; init; } = [];

    /// <summary>Ids put before a text when special tokens are asked for.</summary>
    public IReadOnlyList<int> Before { get; init; } = [];

    /// <summary>Ids put after it.</summary>
    public IReadOnlyList<int> After { get; init; } = [];

    /// <summary>Tokens are written in <see cref="ByteAlphabet"/>.</summary>
    public bool ByteLevel { get; init; }

    /// <summary>Decoding drops the space that encoding put first.</summary>
    public bool DropsFirstSpace { get; init; }
}
