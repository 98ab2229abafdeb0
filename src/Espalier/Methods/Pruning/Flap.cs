using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What FLAP ranks the inputs of a linear map by.</summary>
public enum FlapMetric
{
    /// <summary>Fluctuation alone: f_j.</summary>
    Ifv,

    /// <summary>Weighted fluctuation: f_j·Σ_i W_ij². The paper's choice.</summary>
    Wifv,

    /// <summary>Weighted norm: mean_i |W_ij|·sqrt(s_j), the structured form of Wanda.</summary>
    Wifn,
}

/// <summary>
/// FLAP: fluctuation-based adaptive structured pruning. An input that hardly fluctuates around its mean can be replaced
/// by that mean, which a bias carries: so heads and neurons of small weighted fluctuation go, layers give what the
/// standardised scores say, and a bias repairs what the removed ones used to add. No retraining.
/// </summary>
/// <remarks>
/// An et al., "Fluctuation-based Adaptive Structured Pruning for Large Language Models". Figures and metric:
/// <see cref="FlapAccumulator"/>, <see cref="Metric(FlapStatistics, Tensor, FlapMetric, bool, string)"/>; search over layers:
/// <see cref="Search"/>, <see cref="Choose"/>; repair: <see cref="Compensate"/>. A structured plan takes all three. As the criterion of a plan with masks it
/// scores whole input channels, so that every row of a layer loses the same ones.
/// </remarks>
[Method("flap", "Fluctuation-based Adaptive Structured Pruning for Large Language Models",
    Family = "Pruning",
    Source = "An, Zhao, Yu, Tang, Wang, arXiv 2312.11983, AAAI 2024",
    Summary = "Removes attention heads and neurons that fluctuate least, chooses each layer's width, and repairs outputs with a bias: no retraining.",
    Fits = "criterion of weights, heads and neurons; allocator and bias repair (structured plans, and any mask); before perp or distillation")]
public sealed partial class Flap : ICriterion
{
    /// <summary>What inputs are ranked by; WIFV by default.</summary>
    public FlapMetric Ranking { get; init; } = FlapMetric.Wifv;

    /// <summary>How the budget is spread over heads, neurons and layers; AL-AM by default.</summary>
    public FlapStructure Structure { get; init; } = FlapStructure.AlAm;

    /// <summary>The number of heads to remove over the whole network, for the structures AL-MM and UL-MM; −1 where it is not used.</summary>
    public int RemoveHeads { get; init; } = -1;

    /// <summary>Heads that every layer keeps at least; 1.</summary>
    public int MinimumHeads
    {
        get;
        init => field = Positive(value, "minimum_heads");
    } = 1;

    /// <summary>Neurons that every layer keeps at least; 8.</summary>
    public int MinimumNeurons
    {
        get;
        init => field = Positive(value, "minimum_neurons");
    } = 8;

    /// <summary>The neurons that a layer keeps are rounded up to a multiple of this, for speed (an addition of ours); 8, and 1 rounds nothing.</summary>
    public int NeuronMultiple
    {
        get;
        init => field = Positive(value, "neuron_multiple");
    } = 8;

    /// <inheritdoc/>
    public CalibrationNeeds Needs => Ranking is FlapMetric.Wifn ? CalibrationNeeds.InputNorms : CalibrationNeeds.InputMoments;

    /// <inheritdoc/>
    public Scope DefaultScope => Scope.Row;

    /// <summary>
    /// The metric of each input channel, standardised over the layer to z and the same for every row: z + sqrt(z² + 1), above 0.
    /// That changes no ranking within a layer and makes layers comparable in one global ranking.
    /// </summary>
    /// <remarks>
    /// The fluctuation is the variance over all tokens, which ranks as f does up to the weights of the windows. No bias is
    /// added on this way; attention metrics are squared as in the paper.
    /// </remarks>
    public Tensor Score(LayerContext layer)
    {
        Tensor? figure = Ranking is FlapMetric.Wifn ? layer.InputNorms : layer.InputVariance;
        EspalierException.Require(figure is not null, $"FLAP needs the {(Ranking is FlapMetric.Wifn ? "norms" : "variances")} of the inputs of {layer.Name}; give the plan calibration text.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        bool attention = layer.Name.Split('.').Any(p => p is "self_attn" or "attn" or "attention");
        Tensor channel = Metric(figure, layer.Weight, Ranking, attention, layer.Name); // [in]
        Tensor z = Standardise(channel.unsqueeze(0)); // [1, in], float64

        // One increasing map for all layers makes it positive, as a global ranking needs.
        Tensor score = z + (z.pow(2) + 1).sqrt();
        return score.to(ScalarType.Float32).expand(layer.Weight.shape).contiguous().MoveToOuterDisposeScope();
    }

    /// <summary>The metric of step 2.</summary>
    /// <param name="statistics">What was seen of the inputs; at least two windows, else nothing fluctuates.</param>
    /// <param name="W">[R, C].</param>
    /// <param name="kind">Which.</param>
    /// <param name="attention">Whether the map is an attention's output projection: its metric is squared.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <returns>[C], float32.</returns>
    /// <exception cref="EspalierException">For fewer than two windows, or figures of another width.</exception>
    public static Tensor Metric(FlapStatistics statistics, Tensor W, FlapMetric kind, bool attention, string layer = "the layer")
    {
        EspalierException.Require(statistics.Windows >= 2,
            $"FLAP saw {statistics.Windows} window of inputs of {layer}; fluctuation needs at least 2 calibration samples.");
        return Metric(kind is FlapMetric.Wifn ? statistics.Scaler : statistics.Fluctuation, W, kind, attention, layer);
    }

    /// <summary>
    /// Step 4: removes input columns and makes the bias that stands in for them, b = Σ over removed j of mean_j·W[:, j].
    /// </summary>
    /// <param name="W">[R, C]: o_proj or down_proj.</param>
    /// <param name="baseline">mean [C] of the inputs.</param>
    /// <param name="keep">[C / <paramref name="headDim"/>], bool: heads, or neurons where headDim is 1.</param>
    /// <param name="headDim">Columns per entry of <paramref name="keep"/>.</param>
    /// <param name="existingBias">The map's own bias [R], null where it has none.</param>
    /// <param name="addToExisting">Adds to an existing bias. The published code would replace it, which is refused here.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <returns>bias [R] and W without the removed columns, in W's element type.</returns>
    /// <exception cref="EspalierException">When widths do not fit, or a bias exists and may not be added to.</exception>
    public static (Tensor Bias, Tensor Pruned) Compensate(
        Tensor W, Tensor baseline, Tensor keep, int headDim = 1, Tensor? existingBias = null, bool addToExisting = false, string layer = "the layer")
    {
        EspalierException.Require(headDim > 0 && W.dim() == 2 && W.shape[1] % headDim == 0,
            $"A head width of {headDim} does not divide the inputs of {layer}, [{string.Join(", ", W.shape)}]; take head_dim from the model's config.");
        EspalierException.Require(baseline.numel() == W.shape[1] && keep.numel() * headDim == W.shape[1],
            $"{layer} has {W.shape[1]} inputs, but {baseline.numel()} means and a choice over {keep.numel()} × {headDim} inputs were given; they must come from the same layer.");
        EspalierException.Require(existingBias is null || addToExisting,
            $"{layer} has a bias already, which FLAP's would replace; allow adding to it.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor columns = keep.to(W.device).to(ScalarType.Bool).reshape(-1).repeat_interleave(headDim);
        Tensor removed = baseline.detach().to(W.device).to(ScalarType.Float64).reshape(-1).masked_fill(columns, 0);
        Tensor bias = W.detach().to(ScalarType.Float64).mv(removed);
        bias = existingBias is null ? bias : bias + existingBias.detach().to(ScalarType.Float64);
        Tensor kept = columns.nonzero().reshape(-1);
        return (bias.to(W.dtype).MoveToOuterDisposeScope(), W.detach().index_select(1, kept).MoveToOuterDisposeScope());
    }

    /// <summary>
    /// The search with this object's options, and every layer left with its minimum: what a structured plan cuts by.
    /// </summary>
    /// <param name="attentionMetric">[layers, units·columns of a unit], squared already.</param>
    /// <param name="neuronMetric">[layers, F].</param>
    /// <param name="ratio">The share of block parameters to remove, in (0, 1).</param>
    /// <param name="units">What a head is.</param>
    /// <param name="hidden">The model's width.</param>
    /// <returns>What stays, with the share that is really kept.</returns>
    public FlapChoice Choose(Tensor attentionMetric, Tensor neuronMetric, double ratio, FlapUnits units, long hidden)
    {
        using var scope = NewDisposeScope();
        FlapChoice found = Search(attentionMetric, neuronMetric, new FlapSearch { Structure = Structure, Ratio = ratio, Units = units, RemoveHeads = RemoveHeads, Hidden = hidden });
        Tensor heads = KeepAtLeast(found.KeepHeads, found.HeadScore, MinimumHeads, 1);
        Tensor neurons = KeepAtLeast(found.KeepNeurons, found.NeuronScore, MinimumNeurons, NeuronMultiple);
        return found with
        {
            KeepHeads = heads.MoveToOuterDisposeScope(), KeepNeurons = neurons.MoveToOuterDisposeScope(),
            HeadScore = found.HeadScore.MoveToOuterDisposeScope(), NeuronScore = found.NeuronScore.MoveToOuterDisposeScope(),
            KeptFraction = KeptFraction(heads, neurons, units),
        };
    }

    // figure: f for IFV and WIFV, s for WIFN.
    private static Tensor Metric(Tensor figure, Tensor W, FlapMetric kind, bool attention, string layer)
    {
        EspalierException.Require(W.dim() == 2 && figure.numel() == W.shape[1],
            $"{layer} has {(W.dim() == 2 ? W.shape[1] : W.numel())} inputs, but {figure.numel()} figures were given; they must come from the same layer.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor w = W.detach().to(ScalarType.Float64);
        Tensor x = figure.detach().reshape(-1).to(ScalarType.Float64);
        Tensor metric = kind switch
        {
            FlapMetric.Ifv => x,
            FlapMetric.Wifv => x * w.pow(2).sum([0]),
            _ => w.abs().mean([0]) * x.sqrt(),
        };
        EspalierException.Require(metric.isfinite().all().item<bool>(), $"The importance of the inputs of {layer} holds NaN or infinite values; its weights or its calibration inputs are damaged.");
        return (attention ? metric.pow(2) : metric).to(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    private static int Positive(int value, string option)
    {
        EspalierException.Require(value >= 1, $"flap.{option} is {value}; it must be 1 or more.");
        return value;
    }
}
