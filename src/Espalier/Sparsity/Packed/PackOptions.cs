using Espalier.Runtime;

namespace Espalier.Sparsity.Packed;

/// <summary>How a model is packed.</summary>
/// <param name="Type">How kept weights of blocks are stored.</param>
public sealed record PackOptions(PackedType Type)
{
    /// <summary>The word that leaves token table and head as they are.</summary>
    public const string Keep = "keep";

    /// <summary>How places are named in blocks; null: per matrix the code that takes the fewest bytes.</summary>
    public MatrixCode? Code { get; init; }

    /// <summary>How the token table and an untied head are stored, dense; null leaves them as they are. Default: int8 beside integers, else the type of the blocks.</summary>
    public PackedType? HeadType { get; init; } = PackedTypes.IsInteger(Type) ? PackedType.Int8 : Type;

    /// <summary>
    /// Whether the weights that follow a ReLU are stored by input, so that decoding never reads those of inactive neurons. Default: yes for floats. Integers
    /// have a scale per row, which would then be an input's: no, so that what was quantised per output comes back bit by bit. No effect with other activations or the 2:4 code.
    /// </summary>
    public bool SkipInactive { get; init; } = !PackedTypes.IsInteger(Type);

    /// <summary>As in "int4 (head int8)".</summary>
    internal string Words => $"{PackedTypes.WordOf(Type)}{(HeadType is { } head && head != Type ? $" (head {PackedTypes.WordOf(head)})" : "")}";

    /// <summary>Refuses what cannot be, before a weight is read.</summary>
    /// <exception cref="EspalierException">For a code that the type does not have.</exception>
    public void RequireSound() => EspalierException.Require(Code is null || MatrixCodes.Has(Code.Value, Type),
        $"There is no 2:4 code of {PackedTypes.WordOf(Type)}; use int8 or int4, or the bitmask.");
}
