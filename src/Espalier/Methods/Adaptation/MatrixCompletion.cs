using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace Espalier.Methods.Adaptation;

/// <summary>One round of the alternation.</summary>
/// <param name="Residual">‖P_Ω(X − M)‖ / ‖P_Ω(M)‖ after it.</param>
/// <param name="Change">How far the space of U moved, ‖(I − UUᵀ)U_new‖.</param>
/// <param name="Sweeps">The mean number of sweeps of a regression; 0 where they were exact.</param>
/// <param name="Seconds">Wall-clock time.</param>
public sealed record CompletionRound(double Residual, double Change, double Sweeps, double Seconds);

/// <summary>A completed matrix X = Û·Vᵀ, with the offsets that were taken off it.</summary>
public sealed class MatrixCompletion
{
    private readonly float[] _left, _right;
    private readonly EntryOffsets? _offsets;

    internal MatrixCompletion(int rows, int columns, int rank, float[] left, float[] right, EntryOffsets? offsets) =>
        (Rows, Columns, Rank, _left, _right, _offsets) = (rows, columns, rank, left, right, offsets);

    /// <summary>m.</summary>
    public int Rows { get; }

    /// <summary>n.</summary>
    public int Columns { get; }

    /// <summary>k.</summary>
    public int Rank { get; }

    /// <summary>Round by round.</summary>
    public required IReadOnlyList<CompletionRound> Steps { get; init; }

    /// <summary>Rows and columns without a known entry: they are 0, or their offset.</summary>
    public required int Empty { get; init; }

    /// <summary>Rows and columns with fewer known entries than the rank: many answers fit them, and the one of least norm (or the ridge's) was taken.</summary>
    public required int Thin { get; init; }

    /// <summary>Regressions that gained too little a sweep and were given to the sketch, over all rounds.</summary>
    public required long Sketched { get; init; }

    /// <summary>Û [m, k] row by row.</summary>
    public ReadOnlySpan<float> Left => _left;

    /// <summary>V [n, k] row by row, with orthonormal columns.</summary>
    public ReadOnlySpan<float> Right => _right;

    /// <summary>The entry of X.</summary>
    public double this[int row, int column] =>
        (_offsets?.At(row, column) ?? 0) + TensorPrimitives.Dot(_left.AsSpan(row * Rank, Rank), _right.AsSpan(column * Rank, Rank));

    /// <summary>X [m, n], float32; only where it fits into memory.</summary>
    public Tensor ToTensor()
    {
        using var scope = NewDisposeScope();
        Tensor x = tensor(_left, [Rows, Rank]).mm(tensor(_right, [Columns, Rank]).t());
        if (_offsets is not null)
        {
            x = x + tensor([.. _offsets.Rows.Select(r => (float)(r + _offsets.Mean))]).unsqueeze(1) + tensor([.. _offsets.Columns.Select(c => (float)c)]);
        }

        return x.MoveToOuterDisposeScope();
    }

    /// <summary>The root of the mean squared error on entries of the same matrix.</summary>
    /// <param name="entries">Entries that were held out.</param>
    /// <param name="least">Predictions below become this; null leaves them.</param>
    /// <param name="most">Predictions above become this.</param>
    public double Rmse(KnownEntries entries, double? least = null, double? most = null)
    {
        double sum = 0;
        foreach ((int i, int j, float value) in entries.List())
        {
            double guess = Math.Min(Math.Max(this[i, j], least ?? double.NegativeInfinity), most ?? double.PositiveInfinity);
            sum += (guess - value) * (guess - value);
        }

        return Math.Sqrt(sum / entries.Count);
    }
}
