using Espalier.Runtime;

namespace Espalier.Sparsity.Packed;

/// <summary>How the kept weights of a packed matrix are stored.</summary>
public enum PackedType
{
    /// <summary>32-bit floats, unchanged.</summary>
    Float32,

    /// <summary>bfloat16.</summary>
    BFloat16,

    /// <summary>IEEE half precision.</summary>
    Float16,

    /// <summary>8-bit integers; one float32 scale per row, or (dense) one bfloat16 scale per 64 columns.</summary>
    Int8,

    /// <summary>4-bit integers with one bfloat16 scale per 64 columns, or (dense) per 32.</summary>
    Int4,
}

/// <summary>The words for <see cref="PackedType"/>: in files, on the command line.</summary>
public static class PackedTypes
{
    private static readonly (string Word, PackedType Type)[] Words =
    [
        ("f32", PackedType.Float32), ("bf16", PackedType.BFloat16), ("f16", PackedType.Float16), ("int8", PackedType.Int8), ("int4", PackedType.Int4),
    ];

    /// <summary>All words.</summary>
    public static string Known => string.Join(", ", Words.Select(w => w.Word));

    /// <summary>The word for a type.</summary>
    public static string WordOf(PackedType type) => Words.First(w => w.Type == type).Word;

    /// <summary>The type that a word stands for.</summary>
    /// <exception cref="EspalierException">For a word that stands for none.</exception>
    public static PackedType Parse(string word) => Words.Any(w => w.Word == word)
        ? Words.First(w => w.Word == word).Type
        : throw new EspalierException($"'{word}' is no type of packed values; use one of {Known}.");

    /// <summary>Whether values are integers, and products therefore use inputs rounded to 8 bits.</summary>
    public static bool IsInteger(PackedType type) => type is PackedType.Int8 or PackedType.Int4;

    /// <summary>The most that logits of a packed model may differ from its source's, as ‖difference‖ / ‖source‖; what <see cref="Packer"/> holds.</summary>
    public static double Tolerance(PackedType type) => type switch
    {
        PackedType.Float32 => 1e-6,
        PackedType.BFloat16 => 4e-3,
        PackedType.Float16 => 5e-4,
        PackedType.Int8 => 5e-2,
        _ => 5e-1,
    };
}
