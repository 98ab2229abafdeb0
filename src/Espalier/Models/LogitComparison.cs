using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>How far the logits of a written model, opened anew, are from those of what it was written from, on one short sequence.</summary>
/// <param name="Largest">The largest difference.</param>
/// <param name="Relative">‖read − meant‖ / ‖meant‖.</param>
internal readonly record struct LogitComparison(double Largest, double Relative)
{
    private const int Length = 16;

    /// <summary>Passes the sequence through both, block by block.</summary>
    /// <param name="meant">What was written.</param>
    /// <param name="read">What lies on the disk.</param>
    /// <param name="device">Where to compute; null is the CPU.</param>
    public static LogitComparison Between(StreamedModel meant, StreamedModel read, Device? device = null)
    {
        using var scope = NewDisposeScope();
        return Between(meant.Logits(Ids(meant.Config), device), read.Logits(Ids(meant.Config), device));
    }

    /// <summary>The same for a model in memory.</summary>
    public static LogitComparison Between(LanguageModel meant, StreamedModel read, Device device)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        return Between(meant.Logits(tensor(Ids(meant.Config), device: device).unsqueeze(0)), read.Logits(Ids(meant.Config), device));
    }

    private static LogitComparison Between(Tensor meant, Tensor read)
    {
        Tensor difference = read - meant;
        return new LogitComparison(difference.abs().max().item<float>(), difference.norm().item<float>() / Math.Max(1e-30, meant.norm().item<float>()));
    }

    private static long[] Ids(ModelConfig config) =>
        [.. Enumerable.Range(0, Math.Min(Length, config.MaxPositions)).Select(i => (long)(i * 7919 % config.VocabSize))];
}
