namespace Espalier.Training;

/// <summary>What came out of a training run.</summary>
/// <param name="Losses">The mean loss of each step, from step 0 (also those before a resume).</param>
/// <param name="Seconds">The time in training, over all parts of a resumed run.</param>
/// <param name="StoppedEarly">Whether a hook ended the run before its last step.</param>
public sealed record TrainingResult(IReadOnlyList<double> Losses, double Seconds, bool StoppedEarly)
{
    /// <summary>The steps done.</summary>
    public int Steps => Losses.Count;

    /// <summary>The lowest loss of a step; NaN when no step was done.</summary>
    public double BestLoss => Losses.Count == 0 ? double.NaN : Losses.Min();

    /// <summary>The step of the lowest loss, from 0; −1 when no step was done.</summary>
    public int BestStep => Losses.Count == 0 ? -1 : Losses.Index().MinBy(l => l.Item).Index;

    /// <summary>What a sparse training left; null where training was none.</summary>
    public SparseTrainingReport? Sparse { get; init; }

    /// <summary>The loss of the last step; NaN when no step was done.</summary>
    public double FinalLoss => Losses.Count == 0 ? double.NaN : Losses[^1];
}
