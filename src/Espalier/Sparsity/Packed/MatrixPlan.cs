using System.Numerics;
using System.Numerics.Tensors;
using Espalier.Runtime;

namespace Espalier.Sparsity.Packed;

/// <summary>What packing a matrix needs to know beforehand.</summary>
/// <param name="Code">How places are named.</param>
/// <param name="RowWords">Where rows begin, in words of 8 bytes; one more than there are rows.</param>
/// <param name="Zeros">How many weights are zero.</param>
internal sealed record MatrixPlan(MatrixCode Code, int[] RowWords, long Zeros)
{
    /// <summary>Looks at every weight once.</summary>
    /// <param name="weights">[rows, columns], row by row.</param>
    /// <param name="rows">The number of outputs.</param>
    /// <param name="columns">The number of inputs.</param>
    /// <param name="type">How values are stored.</param>
    /// <param name="asked">The code; null: the one that takes the fewest bytes.</param>
    public static unsafe MatrixPlan Make(float* weights, int rows, int columns, PackedType type, MatrixCode? asked)
    {
        string word = PackedTypes.WordOf(type);
        new PackOptions(type) { Code = asked }.RequireSound();
        float largest = type switch { PackedType.Float16 => 65504f, PackedType.BFloat16 => 3.38e38f, _ => float.MaxValue };
        var masks = new ulong[RowCodec.Blocks(columns)];
        var starts = new int[rows + 1];
        bool fits = MatrixCodes.Has(MatrixCode.TwoOfFour, type);
        long words = 0, zeros = (long)rows * columns;
        for (int r = 0; r < rows; r++)
        {
            var row = new ReadOnlySpan<float>(weights + (long)r * columns, columns);
            float extreme = columns == 0 ? 0 : TensorPrimitives.MaxMagnitude(row); // NaN where there is one
            EspalierException.Require(Math.Abs(extreme) <= largest, $"Row {r} holds the weight {extreme}, which {word} cannot hold; mend the checkpoint or use another type.");

            RowCodec.Masks(row, masks);
            foreach (ulong mask in masks)
            {
                fits &= TwoOfFour.Fits(mask);
                zeros -= BitOperations.PopCount(mask);
            }

            EspalierException.Require(fits || asked is not MatrixCode.TwoOfFour, $"Row {r} keeps more than two of four columns, for which the 2:4 code has no room; prune with the pattern 2:4 or use the bitmask.");
            words += RowCodec.RowBytes(MatrixCode.Bitmask, type, columns, masks) / 8;
            starts[r + 1] = (int)Math.Min(words, int.MaxValue);
        }

        long Words(MatrixCode code) => code is MatrixCode.Bitmask
            ? words : rows * RowCodec.RowBytes(code, type, columns, []) / 8 - (type is PackedType.Int8 && !RowCodec.HasRowScales(code, type) ? rows / 2 : 0);
        MatrixCode[] candidates = asked is { } one ? [one] : fits
            ? [MatrixCode.TwoOfFour, MatrixCode.Dense, MatrixCode.Bitmask] : [MatrixCode.Dense, MatrixCode.Bitmask];
        MatrixCode chosen = candidates.MinBy(Words);
        long length = RowCodec.RowBytes(chosen, type, columns, []) / 8;
        for (int r = 0; chosen is not MatrixCode.Bitmask && r < rows; r++)
        {
            starts[r + 1] = (int)Math.Min((r + 1) * length, int.MaxValue);
        }

        EspalierException.Require(starts[^1] < int.MaxValue, $"A matrix of {rows} x {columns} takes more than 16 GB as {word}; use a smaller type.");
        return new MatrixPlan(chosen, starts, zeros);
    }
}
