using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What a metric of DSnoT is: it chooses a start mask, and within N:M groups which kept weight is given up.</summary>
public enum DSnoTMetric
{
    /// <summary>|W_ij|·sqrt(s_j).</summary>
    Wanda,

    /// <summary>|W_ij|.</summary>
    Magnitude,
}

/// <summary>
/// Dynamic Sparse No Training: moves the zeros of a finished mask, row by row, until the expected error of the row's
/// output is near zero. No gradient is used and no kept weight changes; a row has as many zeros after as before, and an
/// N:M pattern stays one. Seconds per layer; pick it behind any criterion at 60 to 70 % sparsity.
/// </summary>
/// <remarks>
/// Zhang et al., "Dynamic Sparse No Training: Training-Free Fine-tuning for Sparse LLMs". It repairs the mean of a row's
/// output and nothing else: where inputs have small means there is little to gain, and too many swaps harm. Hence
/// <see cref="CycleShare"/> and <see cref="AcceptOnlyIfBetter"/>, which are additions of ours.
/// </remarks>
[Method("dsnot", "Dynamic Sparse No Training: Training-Free Fine-tuning for Sparse LLMs",
    Family = "Pruning",
    Source = "Zhang et al., arXiv 2310.08915, ICLR 2024",
    Summary = "Swaps pruned and kept weights until each row's expected output error vanishes: no gradients, no weight changes, seconds per layer.",
    Fits = "repair of the mask; after any criterion and allocator, unstructured or N:M; before any retraining")]
public sealed partial class DSnoT : IRepair
{
    /// <summary>Most swaps per row; the paper's 50 is about 4 % of a LLaMA row at 70 % sparsity.</summary>
    public int MaxCycle
    {
        get;
        init
        {
            EspalierException.Require(value >= 0, $"dsnot.max_cycle is {value}; it is a number of swaps per row and cannot be negative.");
            field = value;
        }
    } = 50;

    /// <summary>
    /// Most swaps per row as a share of its kept weights (at least one swap is allowed), so that narrow layers are not turned
    /// over; 0.05 by default, which leaves <see cref="MaxCycle"/> in force from about 1,000 kept weights on. 1 is the paper.
    /// </summary>
    public double CycleShare
    {
        get;
        init
        {
            EspalierException.Require(value is > 0 and <= 1, FormattableString.Invariant($"dsnot.cycle_share is {value}; it is a share of a row's kept weights, above 0 and at most 1."));
            field = value;
        }
    } = 0.05;

    /// <summary>A row is left alone while its expected output error is at most this, in units of the output summed over a sequence; the paper's 0.1.</summary>
    public double Threshold
    {
        get;
        init
        {
            EspalierException.Require(value >= 0 && double.IsFinite(value), FormattableString.Invariant($"dsnot.threshold is {value}; it is an absolute error, 0 or more."));
            field = value;
        }
    } = 0.1;

    /// <summary>p: weights grow back by expected contribution divided by the input's variance to this power; the paper's 1, and 0 is off.</summary>
    public double PowVar
    {
        get;
        init
        {
            EspalierException.Require(value >= 0 && double.IsFinite(value), FormattableString.Invariant($"dsnot.pow_var is {value}; it is a power, 0 or more."));
            field = value;
        }
    } = 1;

    /// <summary>Stops a row before a swap that would turn the sign of its error; off by default as in the published code. N:M patterns always do it.</summary>
    public bool RequireSameSign { get; init; }

    /// <summary>For N:M patterns: which kept weight of a group is given up, the one of smallest |W|·sqrt(s) (default) or |W|.</summary>
    public DSnoTMetric GroupMetric { get; init; } = DSnoTMetric.Wanda;

    /// <summary>
    /// Layers left as they are: <c>mlp</c> (the published command line, default), <c>attention</c>, <c>none</c>, or a part of
    /// a weight's name such as <c>down_proj</c>.
    /// </summary>
    public string Skip
    {
        get;
        init
        {
            EspalierException.Require(!string.IsNullOrWhiteSpace(value), "dsnot.skip is empty; it is mlp, attention, none, or a part of a weight's name such as down_proj.");
            field = value;
        }
    } = "mlp";

    /// <summary>Takes back a row's swaps where they do not lower its squared output error on the calibration data. Needs the inputs' Hessian; off by default.</summary>
    public bool AcceptOnlyIfBetter { get; init; }

    /// <inheritdoc/>
    public CalibrationNeeds Needs =>
        CalibrationNeeds.InputNorms | CalibrationNeeds.InputMoments | (AcceptOnlyIfBetter ? CalibrationNeeds.Hessian : CalibrationNeeds.None);

    /// <summary>Moves zeros of one layer; see the type.</summary>
    /// <param name="layer">The dense layer with its input norms, means and variances.</param>
    /// <param name="pruned">The mask to start from. Kept weights keep its values; weights that grow back take the dense ones.</param>
    /// <param name="pattern">Unstructured of any scope, or N:M.</param>
    /// <exception cref="EspalierException">When figures of the inputs are missing or do not fit the layer.</exception>
    public PrunedLayer Repair(LayerContext layer, PrunedLayer pruned, Pattern pattern)
    {
        if (Skips(layer.Name))
        {
            return pruned;
        }

        using var scope = NewDisposeScope();
        using var _ = no_grad();
        var rules = new DSnoTRules
        {
            MaxCycle = MaxCycle, CycleShare = CycleShare, Threshold = Threshold, PowVar = PowVar, RequireSameSign = RequireSameSign,
            GroupSize = pattern is Pattern.SemiStructuredPattern groups ? groups.M : null, GroupMetric = GroupMetric,
        };
        Tensor sum = SumPerSequence(layer);
        Tensor keep = Refine(layer.Weight, pruned.Keep, sum, layer.InputNorms!, layer.WithinVariance!, rules, layer.Name).Keep;

        // What stayed keeps its value, which an earlier update may have changed; what grew back is dense again.
        Tensor weight = where(pruned.Keep, pruned.Weight, layer.Weight.detach()).masked_fill(keep.logical_not(), 0);
        if (AcceptOnlyIfBetter)
        {
            Tensor better = RowError(layer, weight).less(RowError(layer, pruned.Weight)).unsqueeze(1); // [R, 1]
            (weight, keep) = (where(better, weight, pruned.Weight), where(better, keep, pruned.Keep));
        }

        return new PrunedLayer(weight.MoveToOuterDisposeScope(), keep.MoveToOuterDisposeScope());
    }

    /// <summary>Step 4 for a layer of a plan: e, what the pruned weights are expected to add to each row's output, summed over a sequence.</summary>
    /// <param name="layer">The dense layer with its input norms, means and variances.</param>
    /// <param name="keep">A mask [out, in], bool.</param>
    /// <returns>[out], signed.</returns>
    /// <exception cref="EspalierException">When figures of the inputs are missing.</exception>
    public static Tensor RowErrors(LayerContext layer, Tensor keep)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        return layer.Weight.detach().masked_fill(keep, 0).mv(SumPerSequence(layer)).MoveToOuterDisposeScope();
    }

    // sum_j: the mean over sequences of the sum over tokens.
    private static Tensor SumPerSequence(LayerContext layer)
    {
        EspalierException.Require(layer is { InputNorms: not null, InputMean: not null, WithinVariance: not null },
            $"DSnoT needs the input norms, means and variances of {layer.Name}; give the plan calibration text.");
        return layer.InputMean! * layer.TokensPerSequence;
    }

    // ‖(W' − W)·X‖² of each row, up to the factor of H.
    private static Tensor RowError(LayerContext layer, Tensor weight)
    {
        EspalierException.Require(layer.Hessian is not null, $"dsnot.accept_only_if_better needs the Hessian of the inputs of {layer.Name}; give the plan calibration text.");
        Tensor change = weight - layer.Weight.detach();
        return (change.mm(layer.Hessian) * change).sum(1);
    }

    private bool Skips(string name)
    {
        string[] parts = name.Split('.');
        return Skip.ToLowerInvariant() switch
        {
            "none" => false,
            "mlp" => parts.Any(p => p is "mlp" or "ffn" or "feed_forward" or "fc1" or "fc2"),
            "attention" => parts.Any(p => p is "self_attn" or "attn" or "attention"),
            _ => parts.Contains(Skip, StringComparer.OrdinalIgnoreCase),
        };
    }
}
