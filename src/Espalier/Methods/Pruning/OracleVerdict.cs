using Espalier.Evaluation;

namespace Espalier.Methods.Pruning;

/// <summary>One retrained choice of units.</summary>
/// <param name="Combination">Which choice.</param>
/// <param name="Score">The training loss right after pruning, or another criterion's score: less is better.</param>
/// <param name="FinalLoss">The test loss after retraining.</param>
/// <param name="FinalAccuracy">The test accuracy after retraining.</param>
public sealed record OracleRun(long Combination, double Score, double FinalLoss, double FinalAccuracy);

/// <summary>Whether a score told in advance how choices end.</summary>
/// <param name="Means">The means of each choice over its repeats, by ascending number.</param>
/// <param name="Loss">Kendall's τ of score and final loss.</param>
/// <param name="Accuracy">Kendall's τ of score and final accuracy.</param>
/// <param name="AnomalyLoss">The share of choices that end with a lower loss than the one of the lowest score.</param>
/// <param name="AnomalyAccuracy">The share that ends with a higher accuracy.</param>
/// <param name="Best">The choice of the lowest score, the first of equal ones.</param>
public sealed record OracleVerdict(IReadOnlyList<OracleRun> Means, RankCorrelation Loss, RankCorrelation Accuracy, double AnomalyLoss, double AnomalyAccuracy, OracleRun Best)
{
    private const double LeastTau = 0.2, MostP = 0.05;
    private const int Decimals = 12;

    /// <summary>Whether a lower score goes with a lower final loss: τ rounded to two places above 0.2, p at most 0.05.</summary>
    public bool ValidForLoss => Math.Round(Loss.Tau, 2) > LeastTau && Loss.P <= MostP;

    /// <summary>Whether a lower score goes with a higher final accuracy.</summary>
    public bool ValidForAccuracy => Math.Round(Accuracy.Tau, 2) < -LeastTau && Accuracy.P <= MostP;

    /// <summary>Judges runs in any order, several of a choice being its repeats.</summary>
    /// <remarks>Means are rounded to 12 decimals: equal ones would otherwise differ in their last bit, and ties break by chance.</remarks>
    /// <exception cref="Runtime.EspalierException">For fewer than three choices.</exception>
    public static OracleVerdict Of(IEnumerable<OracleRun> runs)
    {
        OracleRun[] means = [.. runs.GroupBy(r => r.Combination).OrderBy(g => g.Key).Select(g => new OracleRun(
            g.Key, Mean(g.Select(r => r.Score)), Mean(g.Select(r => r.FinalLoss)), Mean(g.Select(r => r.FinalAccuracy))))];
        double[] scores = [.. means.Select(m => m.Score)];
        RankCorrelation loss = RankCorrelation.Kendall(scores, [.. means.Select(m => m.FinalLoss)]), accuracy = RankCorrelation.Kendall(scores, [.. means.Select(m => m.FinalAccuracy)]);
        OracleRun best = means.MinBy(m => m.Score)!;
        return new OracleVerdict(means, loss, accuracy, means.Count(m => m.FinalLoss < best.FinalLoss) / (double)means.Length, means.Count(m => m.FinalAccuracy > best.FinalAccuracy) / (double)means.Length, best);
    }

    private static double Mean(IEnumerable<double> values) => Math.Round(values.Average(), Decimals);
}
