using Espalier.Runtime;

namespace Espalier.Sparsity.Packed;

/// <summary>How a packed matrix says which of its columns are stored.</summary>
public enum MatrixCode
{
    /// <summary>A bit per column.</summary>
    Bitmask,

    /// <summary>Nothing is said: every column is stored.</summary>
    Dense,

    /// <summary>Two of each four columns are stored, named by three bits; for int8 and int4.</summary>
    TwoOfFour,
}

/// <summary>The words for <see cref="MatrixCode"/>: in files, on the command line.</summary>
public static class MatrixCodes
{
    private static readonly (string Word, MatrixCode Code)[] Words =
        [("bitmask", MatrixCode.Bitmask), ("dense", MatrixCode.Dense), ("2:4", MatrixCode.TwoOfFour)];

    /// <summary>All words.</summary>
    public static string Known => string.Join(", ", Words.Select(w => w.Word));

    /// <summary>The word for a code.</summary>
    public static string WordOf(MatrixCode code) => Words.First(w => w.Code == code).Word;

    /// <summary>The code that a word stands for.</summary>
    /// <exception cref="EspalierException">For a word that stands for none.</exception>
    public static MatrixCode Parse(string word) => Words.Any(w => w.Word == word)
        ? Words.First(w => w.Word == word).Code
        : throw new EspalierException($"'{word}' is no code of packed matrices; use one of {Known}.");

    /// <summary>Whether there is such a matrix: 2:4 would save next to nothing beside values of 16 bits and more, so that only integers have it.</summary>
    public static bool Has(MatrixCode code, PackedType type) => code is not MatrixCode.TwoOfFour || PackedTypes.IsInteger(type);
}
