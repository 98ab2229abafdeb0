using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Evaluation;

/// <summary>How well a language model predicts a text.</summary>
/// <param name="Value">The perplexity: exp of <paramref name="LogPerplexity"/>.</param>
/// <param name="LogPerplexity">The mean over the windows of each window's mean cross-entropy, in nats.</param>
/// <param name="Segments">The windows scored.</param>
/// <param name="Tokens">The tokens predicted: one fewer than its length for each window.</param>
/// <param name="StandardErrorOfLog">The standard error of <paramref name="LogPerplexity"/> over the windows; NaN for a single one.</param>
public sealed record PerplexityResult(double Value, double LogPerplexity, int Segments, long Tokens, double StandardErrorOfLog);

/// <summary>
/// The WikiText-2 perplexity protocol that Wanda, SparseGPT, PERP, DSnoT and GBLM share: the text is cut into windows that do not
/// overlap, each is scored alone over its length − 1 predictions, and perplexity is exp of the mean of the windows' means.
/// </summary>
public static class Perplexity
{
    /// <summary>Windows are batched up to about this many tokens where the caller names no batch.</summary>
    private const long TokensPerBatch = 2048;

    /// <summary>Cuts tokens into windows; what is left at the end is dropped.</summary>
    /// <param name="tokens">Token ids [tokens], int64.</param>
    /// <param name="windowLength">The length of a window; the protocol takes the model's maximum context.</param>
    /// <returns>[windows, length], a view of <paramref name="tokens"/>.</returns>
    /// <exception cref="EspalierException">When a window is shorter than two tokens or the text shorter than a window.</exception>
    public static Tensor Windows(Tensor tokens, long windowLength)
    {
        EspalierException.Require(windowLength >= 2, $"A window of {windowLength} tokens predicts nothing; perplexity needs windows of at least 2.");
        long count = tokens.numel() / windowLength;
        EspalierException.Require(count > 0,
            $"The text has {tokens.numel()} tokens, fewer than one window of {windowLength}; evaluate on a longer text or with shorter windows.");
        return tokens.flatten().narrow(0, 0, count * windowLength).view(count, windowLength);
    }

    /// <summary>The perplexity of logits that are already there.</summary>
    /// <param name="logits">[windows, length, vocabulary]: position t of window k predicts token k·length + t + 1; the last of a window is not scored.</param>
    /// <param name="tokens">The text [at least windows · length], int64.</param>
    /// <param name="windowLength">The length of a window.</param>
    /// <exception cref="EspalierException">When shapes do not fit, or a window's loss is not finite.</exception>
    public static PerplexityResult FromLogits(Tensor logits, Tensor tokens, long windowLength)
    {
        using var scope = NewDisposeScope();
        Tensor windows = Windows(tokens, windowLength);
        EspalierException.Require(logits.dim() == 3 && logits.shape[0] <= windows.shape[0] && logits.shape[1] == windowLength,
            $"Logits of shape [{string.Join(", ", logits.shape)}] do not belong to {windows.shape[0]} windows of {windowLength} tokens.");
        var meter = new PerplexityMeter();
        meter.Add(logits, windows.narrow(0, 0, logits.shape[0]));
        return meter.Result;
    }

    /// <summary>The perplexity of a model in memory.</summary>
    /// <remarks>Logits are made for a few positions at a time, so that a large vocabulary needs no large memory.</remarks>
    /// <param name="model">The model.</param>
    /// <param name="windows">[windows, length], int64, on any device.</param>
    /// <param name="batch">Windows in one forward pass; null takes as many as make about 2048 tokens.</param>
    /// <param name="progress">Told window by window; null for silence.</param>
    /// <param name="cancellation">Stops between two batches.</param>
    /// <exception cref="EspalierException">When there is no window, or a window's loss is not finite.</exception>
    public static PerplexityResult Evaluate(LanguageModel model, Tensor windows, int? batch = null, IProgressSink? progress = null, CancellationToken cancellation = default)
    {
        Device device = model.Tensors.First().Value.device;
        return Evaluate(windows, batch, progress, cancellation, (meter, ids) =>
        {
            Tensor onDevice = ids.to(device);
            meter.Add(model.HiddenStates(onDevice), onDevice, model.Head.Forward);
        });
    }

    /// <summary>The perplexity of anything that gives logits.</summary>
    /// <param name="logits">Ids [batch, length] to logits [batch, length, vocabulary].</param>
    /// <param name="windows">[windows, length], int64.</param>
    /// <param name="batch">Windows in one call; null takes as many as make about 2048 tokens.</param>
    /// <param name="progress">Told window by window; null for silence.</param>
    /// <param name="cancellation">Stops between two batches.</param>
    /// <exception cref="EspalierException">When there is no window, or a window's loss is not finite.</exception>
    public static PerplexityResult Evaluate(Func<Tensor, Tensor> logits, Tensor windows, int? batch = null, IProgressSink? progress = null, CancellationToken cancellation = default) =>
        Evaluate(windows, batch, progress, cancellation, (meter, ids) => meter.Add(logits(ids), ids));

    private static PerplexityResult Evaluate(Tensor windows, int? batch, IProgressSink? progress, CancellationToken cancellation, Action<PerplexityMeter, Tensor> score)
    {
        EspalierException.Require(windows.dim() == 2 && windows.shape[0] > 0 && windows.shape[1] >= 2,
            $"Windows of shape [{string.Join(", ", windows.shape)}] cannot be scored; perplexity needs [windows, length] with at least one window of two tokens.");
        EspalierException.Require(batch is null or > 0, $"A batch of {batch} windows is not possible; use at least 1, or leave it out.");
        long count = windows.shape[0];
        long size = batch ?? Math.Max(1, TokensPerBatch / windows.shape[1]);
        using var inference = no_grad();
        using IProgressTask task = (progress ?? SilentProgress.Instance).Begin("measuring perplexity", count, "window");
        var meter = new PerplexityMeter();
        for (long first = 0; first < count; first += size)
        {
            cancellation.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            long taken = Math.Min(size, count - first);
            score(meter, windows.narrow(0, first, taken));
            task.Advance(taken);
        }

        return meter.Result;
    }
}
