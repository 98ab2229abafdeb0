using System.Globalization;
using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Training;
using static TorchSharp.torch;

namespace Espalier.Methods.Adaptation;

/// <summary>
/// SVFit: of each weight only the r largest singular values are trained; the singular vectors stay as they are. Pick it when the adapter must be tiny (r numbers a layer)
/// and a good start matters more than capacity.
/// </summary>
/// <remarks>No official code was found; from the abstract and introduction, with the card's reconstructions: scope, the rule for r, no decay of s, s neither clamped nor sorted.</remarks>
[Method("svfit", "SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values",
    Family = "Adaptation",
    Source = "Sun et al., arXiv 2409.05926",
    Summary = "Trains only the largest singular values of each weight, r numbers a layer, and keeps the singular vectors: the smallest adapter there is.",
    Fits = "adaptation of language models and vision nets; any optimiser; merges exactly, on pruned weights masked")]
public sealed partial record SvFit : WeightAdaptation
{
    /// <summary>r, the trained singular values of each weight; null (default) takes as many as <see cref="Fraction"/> needs.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int? Rank
    {
        get;
        init
        {
            EspalierException.Require(value is null or >= 1, $"svfit.rank is {value}; it is a number of singular values, at least 1.");
            field = value;
        }
    }

    /// <summary>The share of Σ σ^<see cref="Power"/> that the trained singular values of a weight hold, where no <see cref="Rank"/> is given. Default 0.99.</summary>
    /// <exception cref="EspalierException">Outside (0, 1].</exception>
    public double Fraction
    {
        get;
        init
        {
            EspalierException.Require(value is > 0 and <= 1, string.Create(CultureInfo.InvariantCulture, $"svfit.fraction is {value}; it is a share of the matrix's information, above 0 and at most 1."));
            field = value;
        }
    } = 0.99;

    /// <summary>2 (default) measures information by σ², 1 by σ.</summary>
    /// <exception cref="EspalierException">For others.</exception>
    public int Power
    {
        get;
        init
        {
            EspalierException.Require(value is 1 or 2, $"svfit.power is {value}; it is 1 or 2.");
            field = value;
        }
    } = 2;

    /// <summary>Whether z in s = σ(1 + z) is trained, which evens the learning rate out over large and small σ. Default false.</summary>
    public bool Relative { get; init; }

    /// <summary>Step 7: the smallest r whose share of Σ σ^power reaches the fraction (less 1e-12), in float64.</summary>
    /// <param name="values">σ, descending.</param>
    /// <param name="fraction">The share.</param>
    /// <param name="power">The power.</param>
    /// <exception cref="EspalierException">When there is no value or all are zero: the share is then 0/0.</exception>
    public static int RankFor(IReadOnlyList<double> values, double fraction, double power)
    {
        EspalierException.Require(values.Count > 0 && values.All(v => v >= 0 && double.IsFinite(v)), "The energy rule needs singular values, finite and not negative.");
        double[] powers = [.. values.Select(v => Math.Pow(v, power))];
        double all = powers.Sum(), sum = 0;
        EspalierException.Require(all > 0, "All singular values are 0, so no share of them can be reached; leave this weight out.");
        EspalierException.Require(fraction <= 1, string.Create(CultureInfo.InvariantCulture, $"A fraction of {fraction} cannot be reached; it is at most 1."));
        for (int r = 1; r <= powers.Length; r++)
        {
            sum += powers[r - 1];
            if (sum / all >= fraction - 1e-12)
            {
                return r;
            }
        }

        return powers.Length;
    }

    /// <summary>r of a weight.</summary>
    /// <param name="svd">Its decomposition.</param>
    /// <param name="name">Its name, for the sentences.</param>
    /// <param name="progress">Warned where the split is ambiguous: σ_r = σ_(r+1).</param>
    /// <returns>r, or 0 for a weight that is all zero, which is warned of.</returns>
    /// <exception cref="EspalierException">When <see cref="Rank"/> is larger than the weight allows.</exception>
    public int RankOf(ThinSvd svd, string name, IProgressSink? progress = null)
    {
        EspalierException.Require(Rank is not { } wanted || wanted <= svd.Count, $"svfit.rank is {Rank}, but {name} has only {svd.Count} singular values; take at most {svd.Count}, or give a fraction.");
        using var scope = NewDisposeScope();
        double[] values = [.. svd.S.cpu().data<double>()];
        if (values[0] == 0)
        {
            progress?.Warn($"{name} is all zero and has no singular value to train; it is left as it is.");
            return 0;
        }

        int rank = Rank ?? RankFor(values, Fraction, Power);
        if (rank < values.Length && values[rank - 1] - values[rank] <= 1e-12 * values[0] && values[rank] > 0)
        {
            progress?.Warn($"{name}: singular values {rank} and {rank + 1} are equal, so which of them is trained is the library's choice; another rank would be unambiguous.");
        }

        return rank;
    }
}
