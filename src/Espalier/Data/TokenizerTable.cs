namespace Espalier.Data;

/// <summary>What a token is, by the numbers that SentencePiece and llama.cpp give.</summary>
internal enum TokenKind
{
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// <summary>A tokeniser spread out as tables, for files that carry it to other programs.</summary>
internal sealed record TokenizerTable
{
    /// <summary>Tokens are written in <see cref="ByteAlphabet"/> and joined by merges; else pieces with '▁' for a space, joined by scores.</summary>
    public required bool ByteLevel { get; init; }

    /// <summary>Tokens by id; null where an id has none.</summary>
    public required IReadOnlyList<string?> Tokens { get; init; }

    public required IReadOnlyList<TokenKind> Kinds { get; init; }

    /// <summary>Pieces join where the result has the highest score; empty for byte-level tokenisers.</summary>
    public IReadOnlyList<float> Scores { get; init; } = [];

    /// <summary>Pairs in order of rank; empty for pieces.</summary>
    public IReadOnlyList<(string Left, string Right)> Merges { get; init; } = [];

    /// <summary>The patterns that cut words; a null stands for a step that is no pattern with matches kept as they are.</summary>
    public IReadOnlyList<string?> Patterns { get; init; } = [];

    /// <summary>A word that the vocabulary has whole is taken without merging.</summary>
    public bool IgnoreMerges { get; init; }

    public bool AddsPrefixSpace { get; init; }

    /// <summary>Ids put around a text.</summary>
    public IReadOnlyList<int> Before { get; init; } = [];

    public IReadOnlyList<int> After { get; init; } = [];

    public int? UnknownId { get; init; }
}
