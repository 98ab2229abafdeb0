namespace Espalier.Methods.Adaptation;

/// <summary>Steps 7 and 8: learning rates of pre-training and fine-tuning.</summary>
public static class UnipSchedules
{
    /// <summary>Layer-wise decay: decay^(depth + 1 − id), id 0 being patch embedding, class token and positions, j + 1 block j, depth + 1 everything else.</summary>
    /// <param name="depth">Blocks.</param>
    /// <param name="decay">Per layer; 0.85 in the paper.</param>
    /// <returns>depth + 2 multipliers.</returns>
    public static IReadOnlyList<double> LayerScales(int depth, double decay) => [.. Enumerable.Range(0, depth + 2).Select(id => Math.Pow(decay, depth + 1 - id))];

    /// <summary>Pre-training: linear from 0 over the warm-up, then half a cosine to the least rate.</summary>
    /// <param name="epoch">Epochs so far, with fractions.</param>
    /// <param name="rate">The peak: blr · effective batch / 256.</param>
    /// <param name="warmup">Epochs of warm-up.</param>
    /// <param name="epochs">All epochs.</param>
    /// <param name="least">The rate at the end.</param>
    public static double Pretraining(double epoch, double rate, double warmup, double epochs, double least) => epoch < warmup
        ? rate * epoch / warmup
        : least + ((rate - least) * 0.5 * (1 + Math.Cos(Math.PI * (epoch - warmup) / (epochs - warmup))));

    /// <summary>Fine-tuning: linear to the least rate, over a warm-up that starts at a small share.</summary>
    /// <param name="iteration">Iterations so far.</param>
    /// <param name="rate">The peak.</param>
    /// <param name="iterations">All iterations.</param>
    /// <param name="warmup">Iterations of warm-up.</param>
    /// <param name="warmupRatio">The share at its start.</param>
    /// <param name="least">The rate at the end.</param>
    public static double FineTuning(double iteration, double rate, double iterations, double warmup, double warmupRatio, double least)
    {
        double regular = ((rate - least) * (1 - (iteration / iterations))) + least;
        return iteration < warmup ? regular * (1 - ((1 - (iteration / warmup)) * (1 - warmupRatio))) : regular;
    }
}
