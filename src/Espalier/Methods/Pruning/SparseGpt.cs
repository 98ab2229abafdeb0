using System.Globalization;
using Espalier.Catalogue;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>
/// SparseGPT: one-shot pruning with second-order compensation. Columns are pruned one after the other, and the weights
/// to the right absorb the error, by the inverse Hessian of the layer's inputs. Better than Wanda at 2:4 and at high
/// sparsity, slower and hungrier for memory.
/// </summary>
/// <remarks>
/// Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot". As a criterion alone it
/// scores W²/U_jj²; as a repair alone it updates the weights under any other criterion's mask; as both it is the published
/// sweep, whose unstructured threshold is taken over blocks of columns and removes one weight a block more than floor.
/// As a quantiser it rounds the kept weights in that sweep, and the columns to the right absorb that error as well.
/// The factorisation runs on the CPU in float64 up to 4096 inputs and in float32 above.
/// </remarks>
[Method("sparsegpt", "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    Family = "Pruning",
    Source = "Frantar, Alistarh, arXiv 2301.00774, ICML 2023",
    Summary = "Prunes column by column and lets the remaining weights absorb the error; best at 2:4 and high sparsity.",
    Fits = "criterion, repair and quantiser, alone or as one sweep; unstructured or N:M; any allocator and retraining")]
public sealed partial class SparseGpt : IJointQuantiser
{
    /// <summary>Up to this many inputs the factorisation runs in float64.</summary>
    private const long DoubleColumns = 4096;

    /// <summary>Up to this many weights the sweep runs in float64 too, where that costs nothing.</summary>
    private const long DoubleWeights = 1 << 18;

    /// <summary>The number of columns swept before the rest is updated, and the width over which unstructured thresholds adapt. Default 128 (the paper's).</summary>
    /// <exception cref="EspalierException">Below 1.</exception>
    public int Blocksize
    {
        get;
        init
        {
            EspalierException.Require(value >= 1, $"A block size of {value} is not possible; it is the number of columns swept together, for example 128.");
            field = value;
        }
    } = 128;

    /// <summary>The share of the mean diagonal that is added to the Hessian's diagonal. Default 0.01 (the paper's).</summary>
    /// <exception cref="EspalierException">When negative or not finite.</exception>
    public double Percdamp
    {
        get;
        init
        {
            EspalierException.Require(value >= 0 && double.IsFinite(value), string.Create(CultureInfo.InvariantCulture, $"A damping of {value} is not possible; it is a share of the mean diagonal, for example 0.01."));
            field = value;
        }
    } = 0.01;

    /// <summary>The most memory that one layer's Hessian may take, in bytes. Default 8 GiB: 32,768 inputs.</summary>
    public long HessianLimit { get; init; } = 8L << 30;

    /// <summary>Told when a layer needed more damping than asked for.</summary>
    internal IProgressSink Progress { get; init; } = SilentProgress.Instance;

    /// <inheritdoc cref="ICriterion.Needs"/>
    public CalibrationNeeds Needs => CalibrationNeeds.Hessian;

    /// <inheritdoc/>
    public Scope DefaultScope => Scope.Layer;

    /// <summary>W²/U_jj², without any compensation; weights of inputs that were always 0 score 0.</summary>
    public Tensor Score(LayerContext layer)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using InverseHessianFactor factor = Factor(HessianOf(layer), layer.Weight, layer.Name);
        Tensor score = layer.Weight.detach().cpu().to(factor.U.dtype).square() / factor.U.diagonal().square();
        return score.masked_fill(factor.Dead, 0).to(ScalarType.Float32).to(layer.Weight.device).MoveToOuterDisposeScope();
    }

    /// <summary>The sweep with the mask of another criterion: kept weights absorb the error, the mask stays.</summary>
    public PrunedLayer Repair(LayerContext layer, PrunedLayer pruned, Pattern pattern)
    {
        using var scope = NewDisposeScope();
        SparseGptResult result = Update(layer.Weight, HessianOf(layer), pruned.Keep, layer.Name);
        return new PrunedLayer(result.Weight.MoveToOuterDisposeScope(), pruned.Keep);
    }

    /// <inheritdoc/>
    public PrunedLayer Repair(LayerContext layer, PrunedLayer pruned, PackedType type) => Rounded(layer, layer.Weight, pruned, type);

    /// <summary>The sweep of what is left: rounding alone leaves an error, and the kept weights absorb it. Weights that are 0 stay 0.</summary>
    public PrunedLayer Quantise(LayerContext layer, PrunedLayer pruned, PackedType type) => Rounded(layer, pruned.Weight, pruned, type);

    /// <inheritdoc/>
    public PrunedLayer Prune(LayerContext layer, Pattern pattern, double sparsity) => Prune(layer, pattern, sparsity, null);

    /// <inheritdoc/>
    public PrunedLayer Prune(LayerContext layer, Pattern pattern, double sparsity, PackedType type) => Prune(layer, pattern, sparsity, (PackedType?)type);

    private PrunedLayer Rounded(LayerContext layer, Tensor weight, PrunedLayer pruned, PackedType type)
    {
        using var scope = NewDisposeScope();
        SparseGptResult result = Update(weight, HessianOf(layer), pruned.Keep.logical_and(weight.ne(0)), layer.Name, type);
        return pruned with { Weight = result.Weight.MoveToOuterDisposeScope() };
    }

    private PrunedLayer Prune(LayerContext layer, Pattern pattern, double sparsity, PackedType? type)
    {
        using var scope = NewDisposeScope();
        if (type is { } grid && pattern is Pattern.UnstructuredPattern && sparsity == 0)
        {
            PrunedLayer whole = Rounded(layer, layer.Weight, new PrunedLayer(layer.Weight, ones_like(layer.Weight, ScalarType.Bool)), grid);
            return new PrunedLayer(whole.Weight.MoveToOuterDisposeScope(), whole.Keep.MoveToOuterDisposeScope());
        }

        Tensor H = HessianOf(layer);
        if (pattern is Pattern.SemiStructuredPattern groups)
        {
            EspalierException.Require(layer.Weight.shape[1] % groups.M == 0,
                $"{layer.Name} has {layer.Weight.shape[1]} inputs, which do not divide into groups of {groups.M}; leave the layer out, or use an unstructured pattern.");
        }

        SparseGptResult result = pattern is Pattern.SemiStructuredPattern p
            ? PruneGroups(layer.Weight, H, p.M - p.N, p.M, layer.Name, type)
            : PruneFreely(layer.Weight, H, sparsity, layer.Name, type);
        return new PrunedLayer(result.Weight.MoveToOuterDisposeScope(), result.Keep.MoveToOuterDisposeScope());
    }

    /// <summary>The published sweep, unstructured: in every block of columns the scores up to index floor(numel·sparsity) go.</summary>
    /// <param name="W">[R, C], finite; stays as it is.</param>
    /// <param name="H">The raw Hessian [C, C] (2/N)·Σ x xᵀ: no dead-input fix, no damping.</param>
    /// <param name="sparsity">In [0, 1).</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <param name="grid">int8 or int4 rounds the kept weights in the same sweep; null rounds nothing.</param>
    public SparseGptResult PruneFreely(Tensor W, Tensor H, double sparsity, string layer = "the layer", PackedType? grid = null)
    {
        MaskSelection.PruneCount(0, sparsity);
        return Sweep(W, H, new SweepRule(Sparsity: sparsity, Grid: grid), layer);
    }

    /// <summary>The published sweep, N:M: of every <paramref name="m"/> columns of a block, as they then are, <paramref name="pruneN"/> go.</summary>
    /// <param name="W">[R, C], finite; stays as it is.</param>
    /// <param name="H">The raw Hessian [C, C].</param>
    /// <param name="pruneN">How many of each group are removed, at least 1.</param>
    /// <param name="m">The size of a group; divides the block size, unless one block holds all columns.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <param name="grid">int8 or int4 rounds the kept weights in the same sweep; null rounds nothing.</param>
    public SparseGptResult PruneGroups(Tensor W, Tensor H, int pruneN, int m, string layer = "the layer", PackedType? grid = null)
    {
        EspalierException.Require(pruneN >= 1 && pruneN <= m, $"Pruning {pruneN} of every {m} weights of {layer} is not possible; the first must lie between 1 and the second.");
        EspalierException.Require(Blocksize % m == 0 || Blocksize >= W.shape[^1],
            $"A block size of {Blocksize} does not divide into groups of {m}, and groups restart at each block; use a multiple of {m}, such as {Math.Max(1, Blocksize / m) * m}.");
        return Sweep(W, H, new SweepRule(PruneN: pruneN, M: m, Grid: grid), layer);
    }

    /// <summary>The sweep with a fixed mask; its result does not depend on the block size.</summary>
    /// <param name="W">The dense weight [R, C]; stays as it is.</param>
    /// <param name="H">The raw Hessian [C, C].</param>
    /// <param name="keep">[R, C], bool: true stays.</param>
    /// <param name="layer">The layer's name, for messages.</param>
    /// <param name="grid">int8 or int4 rounds the kept weights in the same sweep; null rounds nothing.</param>
    public SparseGptResult Update(Tensor W, Tensor H, Tensor keep, string layer = "the layer", PackedType? grid = null)
    {
        EspalierException.Require(keep.shape.AsSpan().SequenceEqual(W.shape), $"The mask of {layer} is [{string.Join(", ", keep.shape)}], its weight [{string.Join(", ", W.shape)}]; they must be of one shape.");
        return Sweep(W, H, new SweepRule(Given: keep, Grid: grid), layer);
    }

    private SparseGptResult Sweep(Tensor W, Tensor H, SweepRule rule, string layer)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        EspalierException.Require(W.isfinite().all().item<bool>(), $"The weights of {layer} hold NaN or infinite values; the checkpoint is damaged.");
        using InverseHessianFactor factor = Factor(H, W, layer);
        bool wide = factor.U.dtype is ScalarType.Float64 && (W.numel() <= DoubleWeights || W.dtype is ScalarType.Float64);
        ScalarType type = wide ? ScalarType.Float64 : ScalarType.Float32;
        Tensor swept = W.detach().cpu().to(type, copy: true).contiguous().masked_fill_(factor.Dead, 0);
        Tensor U = factor.U.to(type).contiguous();
        Tensor? unrounded = null;
        if (rule.Grid is not null)
        {
            unrounded = swept.clone();
            Run(unrounded, rule with { Grid = null });
        }

        (Tensor keep, Tensor losses) = Run(swept, rule);
        return new SparseGptResult(
            swept.to(W.dtype).to(W.device).MoveToOuterDisposeScope(), keep.to(W.device).MoveToOuterDisposeScope(),
            losses.MoveToOuterDisposeScope(), factor.Damping, factor.Dead.sum().item<long>());

        (Tensor Keep, Tensor Losses) Run(Tensor weights, SweepRule how) => wide
            ? new SparseGptSweep<double>(weights, U, how, layer, unrounded).Run(Blocksize)
            : new SparseGptSweep<float>(weights, U, how, layer, unrounded).Run(Blocksize);
    }

    private InverseHessianFactor Factor(Tensor H, Tensor W, string layer)
    {
        EspalierException.Require(W.dim() == 2 && H.dim() == 2 && H.shape[1] == W.shape[1],
            $"The weight of {layer} is [{string.Join(", ", W.shape)}] and its Hessian [{string.Join(", ", H.shape)}]; the Hessian must be square, as wide as the weight has inputs.");
        long columns = W.shape[1];
        EspalierException.Require(8.0 * columns * columns <= HessianLimit,
            $"The Hessian of {layer} with {columns} inputs takes {Text.Bytes(8 * columns * columns)}, above the limit of {Text.Bytes(HessianLimit)}; raise hessian_limit, or use Wanda for this model.");
        InverseHessianFactor factor = InverseHessianFactor.Compute(H, Percdamp, columns <= DoubleColumns ? ScalarType.Float64 : ScalarType.Float32, layer);
        if (factor.Raised > 0)
        {
            Progress.Warn(string.Create(CultureInfo.InvariantCulture,
                $"The Hessian of {layer} was not positive definite with a damping of {Percdamp}; it was raised to {factor.Damping}."));
        }

        return factor;
    }

    private static Tensor HessianOf(LayerContext layer) => layer.Hessian
        ?? throw new EspalierException($"SparseGPT needs the Hessian of {layer.Name}; give the plan calibration text.");
}

/// <summary>What the sweep made of one layer.</summary>
/// <param name="Weight">[R, C], exactly 0 where pruned.</param>
/// <param name="Keep">[R, C], bool: true stays.</param>
/// <param name="LossRows">[R], float64: Σ err²/2 over each row's columns, the growth of the output error by the quadratic model.</param>
/// <param name="Damping">The damping used in the end; above the one asked for where the Hessian was not positive definite.</param>
/// <param name="DeadColumns">How many inputs were always 0.</param>
public sealed record SparseGptResult(Tensor Weight, Tensor Keep, Tensor LossRows, double Damping, long DeadColumns);
