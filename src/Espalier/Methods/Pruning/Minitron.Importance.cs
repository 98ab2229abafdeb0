using Espalier.Runtime;
using Espalier.Sparsity;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>How many values become one.</summary>
public enum MinitronAggregation
{
    /// <summary>The mean of |x|.</summary>
    Mean,

    /// <summary>sqrt(Σ x²): a sum, not a mean.</summary>
    L2,

    /// <summary>The population variance of the signed values.</summary>
    Var,
}

/// <summary>The importance of channels.</summary>
/// <param name="PerLayer">[layers, C], float32.</param>
/// <param name="Score">[C], float32: the sum over layers, one ranking for the whole network.</param>
/// <param name="Ranking">[C], int64: channel numbers, best first, the lower first among equals.</param>
public sealed record WidthRanking(Tensor PerLayer, Tensor Score, Tensor Ranking);

/// <summary>The importance of attention heads.</summary>
/// <param name="ChannelScore">[H·d], float32: channels of the output projection's input, aggregated by (L2, mean).</param>
/// <param name="HeadScore">[H]: L2 norm over a head's channels of <paramref name="ChannelScore"/>.</param>
/// <param name="PaperScore">[H]: L2 norm of the head's output per token, mean over tokens, L2 over samples.</param>
/// <param name="OrderWithinGroup">[groups, H/groups], int64: head numbers of the network, best first by <paramref name="HeadScore"/>. The same number is kept in every group.</param>
/// <param name="GroupScore">[groups]: L2 norm over the heads of a group, for dropping whole groups.</param>
public sealed record HeadRanking(Tensor ChannelScore, Tensor HeadScore, Tensor PaperScore, Tensor OrderWithinGroup, Tensor GroupScore);

/// <summary>
/// Collects the importance of the channels of one place of a network (a norm's output, the input of the second
/// feed-forward matrix, of an output projection) over batches. Keeps one row per sample.
/// </summary>
/// <param name="batch">How samples become one.</param>
/// <param name="sequence">How the tokens of a sample become one; done first.</param>
public sealed class MinitronAccumulator(MinitronAggregation batch, MinitronAggregation sequence) : IUnitWatch
{
    private readonly List<Tensor> _samples = []; // each [b, C], float32

    /// <summary>How many samples were seen.</summary>
    public long Samples => _samples.Sum(s => s.shape[0]);

    /// <summary>Adds a batch.</summary>
    /// <param name="activations">[batch, tokens, C].</param>
    /// <exception cref="EspalierException">For another shape or width, or values that are not finite.</exception>
    public void Observe(Tensor activations)
    {
        EspalierException.Require(activations.dim() == 3 && activations.shape[1] > 0 && (_samples.Count == 0 || _samples[0].shape[1] == activations.shape[2]),
            $"Activations of the shape [batch, tokens, {(_samples.Count == 0 ? "channels" : _samples[0].shape[1])}] are needed, not [{string.Join(", ", activations.shape)}].");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor rows = Minitron.Aggregate(activations.detach().to(ScalarType.Float32), 1, sequence);
        EspalierException.Require(rows.isfinite().all().item<bool>(), "A calibration activation is not a finite number; the model itself overflows or holds NaN.");
        _samples.Add(rows.cpu().DetachFromDisposeScope());
    }

    /// <summary>The importance so far, [C], float32; a new tensor in the caller's scope.</summary>
    /// <exception cref="EspalierException">When nothing was seen.</exception>
    public Tensor Score()
    {
        EspalierException.Require(_samples.Count > 0, "No calibration sample was seen; the calibration data is empty.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        return Minitron.Aggregate(cat(_samples).to(ScalarType.Float64), 0, batch).to(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _samples.ForEach(s => s.Dispose());
        _samples.Clear();
    }
}

public sealed partial class Minitron
{
    private const double SmallestNorm = 1e-8;

    /// <summary>Step 2: how important channels are, from what flows through them.</summary>
    /// <param name="activations">[layers, batch, tokens, C]; one layer for neurons, every input and pre-feed-forward norm for the embedding's channels.</param>
    /// <param name="batch">How samples become one.</param>
    /// <param name="sequence">How tokens become one; done first.</param>
    /// <exception cref="EspalierException">For another shape, or values that are not finite.</exception>
    public static WidthRanking WidthImportance(
        Tensor activations, MinitronAggregation batch = MinitronAggregation.L2, MinitronAggregation sequence = MinitronAggregation.Mean)
    {
        EspalierException.Require(activations.dim() == 4 && activations.shape[..3].All(n => n > 0),
            $"The importance of channels needs activations of the shape [layers, batch, tokens, channels], not [{string.Join(", ", activations.shape)}].");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor perLayer = Aggregate(Aggregate(Finite(activations), 2, sequence), 1, batch); // [L, C]
        Tensor score = perLayer.sum([0]).to(ScalarType.Float32);
        return new WidthRanking(perLayer.to(ScalarType.Float32).MoveToOuterDisposeScope(), score.MoveToOuterDisposeScope(), BestFirst(score).MoveToOuterDisposeScope());
    }

    /// <summary>Step 2, heads: ranks query heads within the groups that share a key and value head.</summary>
    /// <param name="activations">[batch, tokens, H·d]: the inputs of the output projection.</param>
    /// <param name="heads">H.</param>
    /// <param name="groups">Key-value heads; group k holds heads k·H/groups and following.</param>
    /// <param name="headDim">d.</param>
    /// <exception cref="EspalierException">When the numbers do not fit the activations or each other.</exception>
    public static HeadRanking HeadImportance(Tensor activations, int heads, int groups, int headDim)
    {
        EspalierException.Require(activations.dim() == 3 && activations.shape[..2].All(n => n > 0) && activations.shape[2] == (long)heads * headDim,
            $"{heads} heads of width {headDim} need activations of the shape [batch, tokens, {(long)heads * headDim}], not [{string.Join(", ", activations.shape)}].");
        EspalierException.Require(groups > 0 && heads % groups == 0, $"{heads} heads do not divide into {groups} groups; take both from the model's config.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor x = Finite(activations);
        Tensor channel = Aggregate(Aggregate(x, 1, MinitronAggregation.Mean), 0, MinitronAggregation.L2);                     // [H·d]
        Tensor head = Aggregate(channel.reshape(heads, headDim), 1, MinitronAggregation.L2);                                  // [H]
        Tensor perToken = Aggregate(x.reshape(x.shape[0], x.shape[1], heads, headDim), 3, MinitronAggregation.L2);            // [B, T, H]
        Tensor paper = Aggregate(Aggregate(perToken, 1, MinitronAggregation.Mean), 0, MinitronAggregation.L2);                // [H]
        Tensor byGroup = head.to(ScalarType.Float32).reshape(groups, -1);                                                     // [groups, H/groups]
        Tensor first = arange(0, heads, heads / groups, ScalarType.Int64, head.device).unsqueeze(1);
        return new HeadRanking(
            Out(channel), Out(head), Out(paper), (BestFirst(byGroup) + first).MoveToOuterDisposeScope(),
            Out(Aggregate(head.reshape(groups, -1), 1, MinitronAggregation.L2)));

        static Tensor Out(Tensor t) => t.to(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    /// <summary>Step 3: BI = 1 − mean cos(x_in, x_out). A block, or a run of blocks, that hardly turns the residual stream can go.</summary>
    /// <param name="input">[batch, tokens, C]: what enters the (first) block.</param>
    /// <param name="output">[batch, tokens, C]: what leaves the (last) one; the residual stream, not a sub-layer's output.</param>
    /// <returns>In [0, 2], the mean over all tokens; norms below 1e-8 count as 1e-8.</returns>
    public static double BlockImportance(Tensor input, Tensor output)
    {
        EspalierException.Require(input.dim() == 3 && input.numel() > 0 && input.shape.AsSpan().SequenceEqual(output.shape),
            $"What enters and leaves a block must be of one shape [batch, tokens, channels], not [{string.Join(", ", input.shape)}] and [{string.Join(", ", output.shape)}].");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor a = Finite(input), b = Finite(output);
        Tensor norms = Norm(a) * Norm(b);
        return 1 - ((a * b).sum(-1) / norms).mean().item<double>();

        static Tensor Norm(Tensor x) => x.pow(2).sum(-1).sqrt().clamp_min(SmallestNorm);
    }

    /// <summary>The layers to drop: those of lowest importance, the lower number first among equals, in ascending order.</summary>
    /// <param name="importance">One per layer: <see cref="BlockImportance"/>, or the rise of the perplexity without the layer.</param>
    /// <param name="count">How many; at least one layer stays.</param>
    public static IReadOnlyList<int> LayersToDrop(IReadOnlyList<double> importance, int count)
    {
        EspalierException.Require(count >= 0 && count < importance.Count, $"{count} of {importance.Count} layers cannot be dropped; at least one must stay.");
        EspalierException.Require(importance.All(double.IsFinite), "The importance of a layer is not a finite number; the model or the calibration data is damaged.");
        return [.. Enumerable.Range(0, importance.Count).OrderBy(i => importance[i]).Take(count).Order()];
    }

    /// <summary>The sizes of an iterative cut: equal steps from one size to another, rounded to whole units.</summary>
    /// <param name="from">The size before the first round.</param>
    /// <param name="to">The size after the last.</param>
    /// <param name="rounds">T, at least 1; the paper finds one round enough.</param>
    public static IReadOnlyList<long> SizesByRound(long from, long to, int rounds)
    {
        EspalierException.Require(rounds >= 1 && to >= 1 && to <= from, $"{rounds} rounds from {from} to {to} are not possible; there must be at least one, and sizes shrink.");
        return [.. Enumerable.Range(1, rounds).Select(r => from - (long)Math.Round((double)(from - to) * r / rounds))];
    }

    /// <summary>
    /// Step 4, head residual: what removed heads held is added to kept ones. Kept head i (from 1) with partner
    /// j = 2K − i + 1 &lt;= L becomes h_i + (h_i − h_j). Query heads only where key and value heads are shared.
    /// </summary>
    /// <param name="W">[L, d, C]: heads sorted by importance, the best first.</param>
    /// <param name="keep">K.</param>
    /// <param name="progress">Warned where more than half of the heads go: then heads have no partner each, and the kept ones stay as they are.</param>
    /// <returns>[K, d, C].</returns>
    public static Tensor HeadResidual(Tensor W, int keep, IProgressSink? progress = null)
    {
        EspalierException.Require(W.dim() == 3 && keep >= 1 && keep <= W.shape[0],
            $"Keeping {keep} heads of a weight [{string.Join(", ", W.shape)}] is not possible; it must be [heads, head width, inputs] with at least as many heads.");
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        int heads = (int)W.shape[0];
        Tensor kept = W.detach().narrow(0, 0, keep).clone();
        if (heads > 2 * keep)
        {
            progress?.Warn($"{heads} heads were cut to {keep}; the head residual needs at least half of them and was left out.");
        }
        else
        {
            for (int i = 2 * keep - heads + 1; i <= keep; i++)
            {
                Tensor h = W[i - 1].detach();
                kept[i - 1] = h + (h - W[2 * keep - i].detach());
            }
        }

        return kept.MoveToOuterDisposeScope();
    }

    /// <summary>Reduces one dimension.</summary>
    internal static Tensor Aggregate(Tensor x, long dimension, MinitronAggregation how)
    {
        using var scope = NewDisposeScope();
        Tensor reduced = how switch
        {
            MinitronAggregation.Mean => x.abs().mean([dimension]),
            MinitronAggregation.L2 => x.pow(2).sum([dimension]).sqrt(),
            _ => (x - x.mean([dimension], keepdim: true)).pow(2).mean([dimension]),
        };
        return reduced.MoveToOuterDisposeScope();
    }

    // Ranked as float32, so that channels that are equal but for the order of summation stay in order.
    private static Tensor BestFirst(Tensor score) => score.sort(dim: -1, descending: true, stable: true).Indices;

    private static Tensor Finite(Tensor activations)
    {
        Tensor x = activations.detach().to(ScalarType.Float64);
        EspalierException.Require(x.isfinite().all().item<bool>(), "The activations hold NaN or infinite values; the model overflows or is damaged.");
        return x;
    }
}
