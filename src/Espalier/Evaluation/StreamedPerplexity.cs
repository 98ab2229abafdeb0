using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Evaluation;

/// <summary>
/// Perplexity of a model that need not fit into memory: all windows go through the embedding, then through one block
/// after the other, then through the head. Same figure as <see cref="Perplexity"/> gives for a model in memory.
/// </summary>
public static class StreamedPerplexity
{
    /// <summary>Scores windows of equal length, each alone.</summary>
    /// <param name="model">The model.</param>
    /// <param name="windows">Token ids, one array per window.</param>
    /// <param name="device">Where to compute.</param>
    /// <param name="name">What to call the work ("perplexity, dense").</param>
    /// <param name="progress">Where progress is told.</param>
    /// <param name="spillFolder">A folder for the hidden states; null keeps them in memory.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <exception cref="EspalierException">When there is no window, or the model answers with something that is not a number.</exception>
    public static PerplexityResult Evaluate(
        StreamedModel model, long[][] windows, Device device, string name, IProgressSink progress, string? spillFolder, CancellationToken cancellation)
    {
        EspalierException.Require(windows.Length > 0, "There is no evaluation window: the text is shorter than one context.");
        int length = windows[0].Length, atOnce = Math.Max(1, 2048 / length);
        using IProgressTask task = progress.Begin(name, model.Config.LayerCount + 2, "part");
        using ActivationStore hidden = ActivationStore.Create(windows.Length, length, model.Config.HiddenSize, device, spillFolder);
        using var _ = no_grad();
        using (var part = NewDisposeScope())
        using (Embedding embedding = model.LoadEmbedding(device))
        {
            for (int i = 0; i < windows.Length; i++)
            {
                using var scope = NewDisposeScope();
                hidden.Write(i, embedding.Forward(tensor(windows[i], device: device).unsqueeze(0), 0));
            }
        }

        task.Advance();
        for (int b = 0; b < model.Config.LayerCount; b++)
        {
            using var part = NewDisposeScope();
            using DecoderBlock block = model.LoadBlock(b, device);
            for (int from = 0; from < windows.Length; from += atOnce)
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = NewDisposeScope();
                hidden.Write(from, block.Forward(hidden.Read(from, Math.Min(atOnce, windows.Length - from))));
            }

            NativeMemory.Trim();

            task.Advance();
        }

        var meter = new PerplexityMeter();
        using (var part = NewDisposeScope())
        using (OutputHead head = model.LoadHead(device))
        {
            for (int i = 0; i < windows.Length; i++)
            {
                cancellation.ThrowIfCancellationRequested();
                using var scope = NewDisposeScope();
                meter.Add(hidden.Read(i, 1), tensor(windows[i], device: device).unsqueeze(0), head.Forward);
            }
        }

        task.Advance();
        return meter.Result;
    }
}
