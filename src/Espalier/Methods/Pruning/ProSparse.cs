using Espalier.Catalogue;
using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>The activation of a feed-forward part, as <see cref="ProSparse"/> knows them.</summary>
public enum FeedForwardActivation
{
    /// <summary>max(z, 0).</summary>
    Relu,

    /// <summary>z where z ≥ t, else 0; not shifted by t.</summary>
    FatRelu,

    /// <summary>z·σ(z): has no zeros, and so no sparse form.</summary>
    Silu,
}

/// <summary>
/// ProSparse: turns a SwiGLU or GELU language model into a ReLU model whose feed-forward activations are mostly zero, so
/// that inference may skip most of their rows without changing the result.
/// </summary>
/// <remarks>
/// Song et al., "ProSparse". Three steps: (1) ReLU replaces the activation and training goes on; (2) an L1 penalty on
/// x1 = act(x Wsᵀ) ∘ (x W1ᵀ) joins the loss, its factor rising along sine stages (<see cref="ActivationPenaltySchedule"/>,
/// <see cref="ActivationTap"/>); (3) after training the threshold of the ReLU moves up to t (<see cref="ApplyThreshold"/>).
/// <see cref="SparseFeedForward"/> then computes active neurons only. The penalty is summed over neurons, averaged over
/// tokens (a reconstruction: the paper leaves the reduction open) and summed over layers.
/// Letters: N tokens, D hidden, F neurons.
/// </remarks>
[Method("prosparse", "ProSparse: Introducing and Enhancing Intrinsic Activation Sparsity within Large Language Models",
    Family = "Pruning",
    Source = "Song, Han, Zhang et al., arXiv 2402.13516, COLING 2025",
    Summary = "Trains a language model to have mostly zero feed-forward activations, which inference then skips exactly.",
    Fits = "retraining: ReLU in place of the activation, staged L1 penalty on activations, thresholded ReLU; composes with weight pruning and quantisation")]
public sealed partial class ProSparse
{
    /// <summary>Step 1: the same model with ReLU in every feed-forward part. Load the weights with it, and train on.</summary>
    public static ModelConfig Substitute(ModelConfig config) => config.WithActivation("relu");

    /// <summary>Step 2: a tap on the last map of every block's feed-forward part, in order; dispose them when training ends.</summary>
    public static IReadOnlyList<ActivationTap> Watch(IEnumerable<DecoderBlock> blocks) => [.. blocks.Select(b => new ActivationTap(b.Linears[^1].Linear))];

    /// <summary>Step 3: the thresholded ReLU in every block of a ReLU model, in memory and in its configuration. The weights stay as they are.</summary>
    /// <param name="model">A model whose activation is ReLU.</param>
    /// <param name="threshold">t, 0 or more; 0 leaves ReLU.</param>
    /// <exception cref="EspalierException">When the activation is another.</exception>
    public static void ApplyThreshold(LanguageModel model, double threshold)
    {
        RequireThreshold(threshold);
        EspalierException.Require(model.Config.Activation == "relu",
            $"The model's activation is {model.Config.Activation}, and only a ReLU has a threshold to move; train it with ReLU first (ProSparse.Substitute).");
        if (threshold > 0)
        {
            model.SetActivation(Activations.FatReluName, threshold);
        }
    }

    /// <summary>The loss that ProSparse trains: L + λ(t)·Σ over layers of ‖x1‖₁, with x1 as the taps saw it in the last forward pass.</summary>
    /// <param name="loss">L, with its graph.</param>
    /// <param name="taps">One per feed-forward part.</param>
    /// <param name="factor">λ(t) of this step.</param>
    /// <returns>A scalar with its graph. The taps are empty afterwards.</returns>
    public static Tensor PenalisedLoss(Tensor loss, IEnumerable<ActivationTap> taps, double factor)
    {
        using var scope = NewDisposeScope();
        Tensor total = loss.alias();
        foreach (ActivationTap tap in taps)
        {
            Tensor l1 = tap.Take();
            total = factor == 0 ? total : total + l1 * factor;
        }

        return total.MoveToOuterDisposeScope();
    }

    /// <summary>The activation of the gate's output.</summary>
    /// <param name="z">Any shape.</param>
    /// <param name="activation">Which.</param>
    /// <param name="threshold">t, not negative; only <see cref="FeedForwardActivation.FatRelu"/> uses it.</param>
    /// <returns>Of z's shape. The gradient is 1 where z ≥ t for the thresholded ReLU, and 0 at z = 0 for ReLU.</returns>
    public static Tensor Activate(Tensor z, FeedForwardActivation activation, double threshold = 0)
    {
        RequireThreshold(threshold);
        using var scope = NewDisposeScope();
        return (activation switch
        {
            FeedForwardActivation.FatRelu => Activations.FatRelu(z, threshold),
            FeedForwardActivation.Silu => z.silu(),
            _ => z.relu(),
        }).MoveToOuterDisposeScope();
    }

    /// <summary>The gated feed-forward part, dense: x1 = act(x Wsᵀ) ∘ (x W1ᵀ), y = x1 W2ᵀ.</summary>
    /// <param name="X">[N, D].</param>
    /// <param name="Ws">The gate [F, D].</param>
    /// <param name="W1">[F, D].</param>
    /// <param name="W2">[D, F].</param>
    /// <param name="activation">act.</param>
    /// <param name="threshold">t of the thresholded ReLU.</param>
    /// <returns>y [N, D] and x1 [N, F], with their graph.</returns>
    public static (Tensor Y, Tensor X1) FeedForward(Tensor X, Tensor Ws, Tensor W1, Tensor W2, FeedForwardActivation activation, double threshold = 0)
    {
        EspalierException.Require(Ws.shape.AsSpan().SequenceEqual(W1.shape) && W2.shape[1] == W1.shape[0] && X.shape[^1] == Ws.shape[1],
            $"The gate [{string.Join(", ", Ws.shape)}], W1 [{string.Join(", ", W1.shape)}] and W2 [{string.Join(", ", W2.shape)}] do not make one feed-forward part of inputs of width {X.shape[^1]}.");
        using var scope = NewDisposeScope();
        Tensor x1 = Activate(nn.functional.linear(X, Ws), activation, threshold) * nn.functional.linear(X, W1);
        Tensor y = nn.functional.linear(x1, W2);
        return (y.MoveToOuterDisposeScope(), x1.MoveToOuterDisposeScope());
    }

    /// <summary>The penalty of one layer: ‖x1‖₁ summed over neurons, averaged over tokens.</summary>
    /// <param name="x1">[..., F]; leading dimensions are tokens.</param>
    /// <param name="tokens">Which tokens count, of the leading dimensions, bool; null for all (padding must not).</param>
    /// <returns>A scalar with its graph; the gradient of |0| is 0.</returns>
    public static Tensor ActivationL1(Tensor x1, Tensor? tokens = null)
    {
        using var scope = NewDisposeScope();
        Tensor perToken = x1.abs().sum(-1);
        Tensor mean = tokens is null ? perToken.mean() : perToken.masked_fill(tokens.logical_not(), 0).sum() / tokens.sum().clamp_min(1);
        return mean.MoveToOuterDisposeScope();
    }

    /// <summary>The share of exact zeros, in [0, 1].</summary>
    /// <param name="x1">Any shape.</param>
    public static double ActivationSparsity(Tensor x1)
    {
        using Tensor active = x1.count_nonzero();
        return x1.numel() == 0 ? 0 : 1 - (double)active.item<long>() / x1.numel();
    }

    /// <summary>How many neurons are active for no token at all.</summary>
    /// <param name="x1">[..., F] of a whole probe set.</param>
    public static long DeadNeurons(Tensor x1)
    {
        using var scope = NewDisposeScope();
        return x1.reshape(-1, x1.shape[^1]).ne(0).any(0).logical_not().sum().item<long>();
    }

    /// <summary>How well a predictor finds the active neurons, counted over all entries. Active is x1 ≠ 0.</summary>
    /// <param name="x1">[N, F].</param>
    /// <param name="predictedActive">[N, F], bool.</param>
    /// <returns>The share of active entries that were predicted (1 where nothing is active), and the predicted and true shares of inactive entries.</returns>
    public static (double Recall, double PredictedSparsity, double TrueSparsity) PredictorMetrics(Tensor x1, Tensor predictedActive)
    {
        EspalierException.Require(x1.shape.AsSpan().SequenceEqual(predictedActive.shape),
            $"The activations are [{string.Join(", ", x1.shape)}], the predictions [{string.Join(", ", predictedActive.shape)}]; they must have one shape.");
        using var scope = NewDisposeScope();
        Tensor active = x1.ne(0), predicted = predictedActive.to(ScalarType.Bool);
        long truly = active.sum().item<long>(), found = active.logical_and(predicted).sum().item<long>();
        return (truly == 0 ? 1 : (double)found / truly, ActivationSparsity(predicted), ActivationSparsity(active));
    }

    internal static void RequireThreshold(double threshold) =>
        EspalierException.Require(threshold >= 0 && double.IsFinite(threshold), $"A threshold of {threshold} is not possible; a thresholded ReLU needs 0 or more, such as 0.01.");
}
