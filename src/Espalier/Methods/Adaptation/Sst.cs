using System.Globalization;
using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Training;

namespace Espalier.Methods.Adaptation;

/// <summary>How SST draws the columns of a round.</summary>
public enum SpectralSampling
{
    /// <summary>p_i = ½(1/m + s_i/Σs): half uniform, half by s.</summary>
    Half,

    /// <summary>p_i = 1/m.</summary>
    Uniform,

    /// <summary>p_i = s_i/Σs; columns with s = 0 come last.</summary>
    Values,
}

/// <summary>
/// Sparse spectral training: every weight is held as U·diag(s)·Vᵀ; all singular values move at each step, and of the singular vectors only a sampled few, exchanged often. Pick it for
/// pre-training (or tuning) with a small optimiser state where low-rank adapters get stuck, in ordinary and in hyperbolic (Lorentz) networks.
/// </summary>
/// <remarks>The authors' code was on an anonymous host and could not be had: the steps are the card's, from the paper. Hyperbolic layers follow HyboNet: <see cref="Lorentz"/>, <see cref="LorentzLinear"/>.</remarks>
[Method("sst", "Sparse Spectral Training and Inference on Euclidean and Hyperbolic Neural Networks",
    Family = "Adaptation",
    Source = "Zhao, Zhang, Li, Liu, Cannistraci, arXiv 2405.15481",
    Summary = "Holds every weight as U·diag(s)·Vᵀ, trains all singular values and a few sampled singular vectors at a time: full-rank training with a small optimiser state.",
    Fits = "training from scratch or tuning of language models and vision nets; any optimiser; Lorentz layers; merges to dense or low-rank weights")]
public sealed partial record Sst : WeightAdaptation
{
    /// <summary>r, the active columns of each weight; null (default) takes <see cref="Share"/> of them.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int? Rank
    {
        get;
        init => field = Checked(value, value is null or >= 1, "rank", "at least 1, or left out");
    }

    /// <summary>The active share of a weight's columns where no <see cref="Rank"/> is given, rounded, at least one. Default 0.08.</summary>
    /// <exception cref="EspalierException">Outside (0, 1].</exception>
    public double Share
    {
        get;
        init => field = Checked(value, value is > 0 and <= 1, "share", "above 0 and at most 1");
    } = 0.08;

    /// <summary>T₃: steps with the same active columns. Default 200.</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Exchange
    {
        get;
        init => field = Checked(value, value >= 1, "exchange", "at least 1 step");
    } = 200;

    /// <summary>Steps after an exchange over which the learning rate rises again. Default 20.</summary>
    /// <exception cref="EspalierException">When negative.</exception>
    public int Warmup
    {
        get;
        init => field = Checked(value, value >= 0, "warmup", "0 or more steps");
    } = 20;

    /// <summary>How the columns of a round are drawn. Default <see cref="SpectralSampling.Half"/>.</summary>
    public SpectralSampling Sampling { get; init; } = SpectralSampling.Half;

    /// <summary>Whether vectors learn by gradients without the factor s. Default true.</summary>
    public bool Enhanced { get; init; } = true;

    /// <summary>Whether the gradient along a vector itself is taken out first. Default false.</summary>
    public bool Tangent { get; init; }

    /// <summary>Whether W is decomposed anew after each round. Default true.</summary>
    public bool Redecompose { get; init; } = true;

    /// <summary>Whether every parameter that is no target (embeddings, norms, biases, the head) is trained densely beside, as pre-training needs. Default true.</summary>
    public bool Rest { get; init; } = true;

    /// <summary>Step 2: the weights p [m] by which a round draws its columns. Without any s they are uniform.</summary>
    /// <param name="values">s [m].</param>
    /// <param name="sampling">The law.</param>
    public static double[] Probabilities(IReadOnlyList<double> values, SpectralSampling sampling = SpectralSampling.Half)
    {
        EspalierException.Require(values.Count > 0 && values.All(v => v >= 0 && double.IsFinite(v)), "SST draws columns by singular values, which must be finite and not negative.");
        double all = values.Sum(), even = 1.0 / values.Count;
        return [.. values.Select(s => (all > 0 ? s / all : even) is var share && sampling is SpectralSampling.Uniform ? even : sampling is SpectralSampling.Values ? share : (even + share) / 2)];
    }

    /// <summary>
    /// Step 2: all columns of a round in groups of r. Keys log(u_i)/p_i in descending order give successive weighted sampling without replacement; among equal keys the lower column comes first.
    /// </summary>
    /// <param name="probabilities">p [m].</param>
    /// <param name="uniform">u [m], each within (0, 1).</param>
    /// <param name="rank">r; the last group may be smaller.</param>
    public static IReadOnlyList<long[]> Partition(IReadOnlyList<double> probabilities, IReadOnlyList<double> uniform, int rank)
    {
        EspalierException.Require(probabilities.Count == uniform.Count && rank >= 1, $"SST needs a draw for each of the {probabilities.Count} columns and groups of at least 1, not {uniform.Count} draws and groups of {rank}.");
        double[] keys = [.. probabilities.Zip(uniform, (p, u) => Math.Log(u) / p)];
        return [.. Enumerable.Range(0, keys.Length).OrderByDescending(i => keys[i]).Select(i => (long)i).Chunk(rank)];
    }

    /// <summary>r of a weight with m columns.</summary>
    public int RankOf(long columns) => (int)Math.Clamp(Rank ?? Math.Round(Share * columns), 1, columns);

    private static T Checked<T>(T value, bool holds, string name, string wanted)
    {
        EspalierException.Require(holds, string.Create(CultureInfo.InvariantCulture, $"sst.{name} is {value}; it must be {wanted}."));
        return value;
    }
}
