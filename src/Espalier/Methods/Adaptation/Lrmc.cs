using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>How the half steps of the alternation solve their regressions.</summary>
public enum LrmcSolver
{
    /// <summary>A few sweeps of conjugate gradients from the last round's answer: O(|Ω|·k) a sweep.</summary>
    Approximate,

    /// <summary>Normal equations and Cholesky, column by column: O(|Ω|·k²) a round. The classical method.</summary>
    Exact,
}

/// <summary>
/// Low-rank matrix completion: fills a matrix in from few known entries as Û·Vᵀ, by turns solving for one factor with the other held orthonormal. The
/// regressions are solved only roughly, in time nearly that of reading the entries; convergence survives it.
/// </summary>
/// <remarks>M is m × n, Ω the known entries, k the rank, T the rounds, s the rows of a sketch.</remarks>
[Method("lrmc", "Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time", Family = "Adaptation", Source = "Gu, Song, Yin, Zhang, ICLR 2024, arXiv 2302.11068",
    Summary = "Completes a matrix from few known entries by alternating rough regressions: ratings, images, pruned weights.",
    Fits = "espalier complete; C#: any masked low-rank fit; repair with a bias behind any criterion (rarely worth it)")]
public sealed partial record Lrmc : IBiasRepair
{
    private const double RepairRidge = 0.1;

    /// <summary>k. Default 10.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Rank
    {
        get;
        init => field = Checked(value, value >= 1, "rank", "at least 1");
    } = 10;

    /// <summary>T, the most rounds. Default 15.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Rounds
    {
        get;
        init => field = Checked(value, value >= 1, "number of rounds", "at least 1");
    } = 15;

    /// <summary>How regressions are solved. Default <see cref="LrmcSolver.Approximate"/>.</summary>
    public LrmcSolver Solver { get; init; } = LrmcSolver.Approximate;

    /// <summary>Sweeps of a half step. 0 (default) takes as many as the accuracy min(0.1, 0.3 · present change of the space) needs, 2 to 20, and gives a column that gains less than twofold a sweep to the sketch.</summary>
    /// <exception cref="EspalierException">Outside 0 to 100.</exception>
    public int Sweeps
    {
        get;
        init => field = Checked(value, value is >= 0 and <= 100, "number of sweeps", "from 0 (as many as needed) to 100");
    }

    /// <summary>s, the rows of a sketch. 0 (default) is max(4k, k + 10).</summary>
    /// <exception cref="EspalierException">Negative.</exception>
    public int SketchRows
    {
        get;
        init => field = Checked(value, value >= 0, "number of sketch rows", "0 (by the rank) or more");
    }

    /// <summary>λ: λ·‖v‖² is added to every regression. Default 0; ratings and other noisy data need some, as a share of a row's known part (0.01 to 1).</summary>
    /// <exception cref="EspalierException">Negative or not finite.</exception>
    public double Ridge
    {
        get;
        init => field = Checked(value, value >= 0 && double.IsFinite(value), "ridge", "0 or more");
    }

    /// <summary>Takes a mean and an offset of each row and column off before the completion and adds them afterwards (ratings). Default false.</summary>
    public bool Offsets { get; init; }

    /// <summary>μ: rows of the first singular vectors that are longer than 2μ·√(k/m) start at 0. Null (default) keeps all; 2 in the theory.</summary>
    /// <exception cref="EspalierException">0 or less.</exception>
    public double? Clip
    {
        get;
        init => field = Checked(value, value is null or > 0, "clip", "above 0, for example 2, or left out");
    }

    /// <summary>Gives every half step entries of its own, as the proof wants it. Default false: all entries every time.</summary>
    public bool Split { get; init; }

    /// <summary>Ends when a round changes the residual on the known entries, as a share of their norm, by less. Default 1e-7.</summary>
    /// <exception cref="EspalierException">Negative.</exception>
    public double Tolerance
    {
        get;
        init => field = Checked(value, value >= 0, "tolerance", "0 or more");
    } = 1e-7;

    /// <summary>The seed of sketches, of the split and of the start.</summary>
    public long Seed { get; init; }

    /// <summary>Threads; 0 (default) takes all cores. The result is the same.</summary>
    /// <exception cref="EspalierException">Negative.</exception>
    public int Threads
    {
        get;
        init => field = Checked(value, value >= 0, "number of threads", "0 (all) or more");
    }

    /// <inheritdoc/>
    CalibrationNeeds IRepair.Needs => CalibrationNeeds.InputMoments;

    /// <summary>Completes a matrix.</summary>
    /// <param name="entries">What is known of it.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <exception cref="EspalierException">When the rank does not fit the matrix.</exception>
    public MatrixCompletion Complete(KnownEntries entries, CancellationToken cancellation = default)
    {
        LrmcEquations.RequireRank(Rank, [entries.Rows, entries.Columns]);
        EntryOffsets? offsets = Offsets ? EntryOffsets.Fit(entries) : null;
        return new LrmcRun(this, offsets?.Remove(entries) ?? entries, cancellation).Run(offsets);
    }

    /// <summary>Fills in what was removed from a weight, from what was kept: W where kept, Û·Vᵀ elsewhere. The result is dense.</summary>
    /// <param name="weight">W [out, in].</param>
    /// <param name="keep">[out, in], bool: true is known.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>[out, in], float32, in the caller's scope.</returns>
    public Tensor CompleteWeight(Tensor weight, Tensor keep, CancellationToken cancellation = default)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Lrmc fitting = this with { Rank = (int)Math.Min(Rank, Math.Min(weight.shape[0], weight.shape[1])) };
        Tensor low = fitting.Complete(KnownEntries.Of(weight, keep), cancellation).ToTensor().to(weight.device);
        return where(keep.to(ScalarType.Bool), weight.detach().to(ScalarType.Float32), low).MoveToOuterDisposeScope();
    }

    /// <summary>A pruned weight as it is, with a bias that stands for what the completion puts in the removed places: (Û·Vᵀ there)·mean input. Zeros stay.</summary>
    /// <inheritdoc/>
    public PrunedLayer Repair(LayerContext layer, PrunedLayer pruned, Pattern pattern)
    {
        EspalierException.Require(layer.InputMean is not null, $"lrmc needs the mean inputs of {layer.Name}; give calibration data.");
        return pruned with { BiasChange = Bias(pruned.Weight, pruned.Keep, layer.InputMean) };
    }

    // The removed weights are guessed from the kept ones, never read; what has no kept one beside it is guessed as 0.
    private Tensor Bias(Tensor pruned, Tensor keep, Tensor mean)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        if (!keep.any().item<bool>())
        {
            return zeros(pruned.shape[0], device: pruned.device).MoveToOuterDisposeScope();
        }

        // Kept entries are no random sample, and few for the rank in small layers: without a ridge the guesses would have no bound.
        Lrmc bounded = Ridge > 0 ? this : this with { Ridge = RepairRidge };
        Tensor guessed = bounded.CompleteWeight(pruned, keep).masked_fill(keep, 0);
        return guessed.to(ScalarType.Float64).mv(mean.to(ScalarType.Float64)).to(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    private static T Checked<T>(T value, bool holds, string what, string wanted) => Retraining.OptionCheck.Checked(value, holds, "lrmc", what, wanted);
}
