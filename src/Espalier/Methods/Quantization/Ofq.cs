using Espalier.Catalogue;
using Espalier.Models.Vision;
using Espalier.Runtime;

namespace Espalier.Methods.Quantization;

/// <summary>How weights are rounded.</summary>
public enum OfqWeights
{
    /// <summary>By their own statistics, nothing learnt.</summary>
    StatsQ,

    /// <summary>With a learnt step size per output row: the usual way, the paper's baseline. Not for language models here.</summary>
    Lsq,

    /// <summary>With a learnt step size per output row on StatsQ's levels, none of which is 0. Not in the paper.</summary>
    LsqHalves,
}

/// <summary>
/// OFQ: training with rounded weights and activations at 2 to 4 bits without weights that flip back and forth. The scale of weights follows from their
/// statistics, queries and keys are rounded as their product, and at the end weights that are sure of their level are frozen.
/// </summary>
/// <remarks>s is a scale, n = 2^(b−1), q a level, z what is rounded to it, H heads, C the width.</remarks>
[Method("ofq", "Oscillation-free Quantization for Low-bit Vision Transformers", Family = "Quantization", Source = "Liu, Liu, Cheng, ICML 2023, arXiv 2302.02210",
    Summary = "Trains 2- to 4-bit weights and activations of a ViT, or 2- to 4-bit weights of any net or language model, and shows how many weights oscillate.",
    Fits = "train --method (ViT, whole); train --sparse-training (weights of any net or language model); any optimiser and schedule")]
public sealed partial record Ofq
{
    /// <summary>b of weights. Default 2.</summary>
    /// <exception cref="EspalierException">Outside 1 to 8.</exception>
    public int Bits
    {
        get;
        init => field = Checked(value, value is >= 1 and <= 8, "number of weight bits", "from 1 to 8");
    } = 2;

    /// <summary>b of activations; 0 leaves them float. Default 2.</summary>
    /// <exception cref="EspalierException">Outside 0, 2 to 8.</exception>
    public int ActivationBits
    {
        get;
        init => field = Checked(value, value is 0 or (>= 2 and <= 8), "number of activation bits", "from 2 to 8, or 0 for float");
    } = 2;

    /// <summary>b of the first and the last layer, which have learnt step sizes; 0 leaves them float. Default 8.</summary>
    /// <exception cref="EspalierException">Outside 0, 2 to 8.</exception>
    public int EdgeBits
    {
        get;
        init => field = Checked(value, value is 0 or (>= 2 and <= 8), "number of bits of the first and last layer", "from 2 to 8, or 0 for float");
    } = 8;

    /// <summary>How weights are rounded. Default <see cref="OfqWeights.StatsQ"/>.</summary>
    public OfqWeights Weights { get; init; }

    /// <summary>Rounds W_qᵀ·W_k of each head instead of W_q and W_k (ViT). Default true.</summary>
    public bool QkReparam { get; init; } = true;

    /// <summary>BR: a weight stays free while z lies so near to a threshold. Default 0.005; 0.003 to 0.01 in the paper.</summary>
    /// <exception cref="EspalierException">Outside (0, 0.5].</exception>
    public double BoundaryRange
    {
        get;
        init => field = Checked(value, value is > 0 and <= 0.5, "boundary range", "above 0 and at most 0.5");
    } = 0.005;

    /// <summary>How long confident weights are frozen, as a share of the training: with --method a second training of that length, with --sparse-training the last part of the one. Default 0.1; 0 never.</summary>
    /// <exception cref="EspalierException">Outside [0, 1].</exception>
    public double AnnealShare
    {
        get;
        init => field = Checked(value, value is >= 0 and <= 1, "share of annealing", "from 0 to 1");
    } = 0.1;

    /// <summary>The share of the float net's answers in the training target (--method); the rest are the classes. Default 0.5.</summary>
    /// <exception cref="EspalierException">Outside [0, 1].</exception>
    public double TeacherShare
    {
        get;
        init => field = Checked(value, value is >= 0 and <= 1, "share of the teacher", "from 0 to 1");
    } = 0.5;

    /// <summary>μ of the moving means that count oscillations. Default 0.01.</summary>
    /// <exception cref="EspalierException">Outside (0, 1].</exception>
    public double Momentum
    {
        get;
        init => field = Checked(value, value is > 0 and <= 1, "momentum", "above 0 and at most 1");
    } = 0.01;

    /// <summary>A weight oscillates when its moving mean is above this. Default 0.005.</summary>
    /// <exception cref="EspalierException">Outside [0, 1).</exception>
    public double OscillationBound
    {
        get;
        init => field = Checked(value, value is >= 0 and < 1, "bound of oscillation", "from 0 to below 1");
    } = 0.005;

    internal bool Reparametrises => QkReparam;

    internal void RequireRoundable(VisionModel net)
    {
        bool transformer = net.Layers.OfType<AttentionLayer>().Any();
        EspalierException.Require(transformer || (ActivationBits == 0 && !QkReparam), $"ofq rounds the activations and the query–key product of ViTs, and this net ({net.Config.ModelType}) is none; set activation_bits=0 and qk_reparam=false to round its weights.");
        EspalierException.Require(net.Weights.Count > 2, "ofq keeps the first and the last layer apart, and this net has no layer between them.");
    }

    private static T Checked<T>(T value, bool holds, string what, string wanted) => Retraining.OptionCheck.Checked(value, holds, "ofq", what, wanted);
}
