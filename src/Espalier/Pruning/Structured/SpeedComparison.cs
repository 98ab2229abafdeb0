using System.Diagnostics;
using Espalier.Models;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Pruning.Structured;

/// <summary>How fast the model and the one that was cut from it answer on this machine: the forward pass of one batch, whole models in memory.</summary>
/// <param name="DenseTokensPerSecond">Of the model before.</param>
/// <param name="CutTokensPerSecond">Of the smaller one.</param>
/// <param name="Batch">Sequences per forward pass.</param>
/// <param name="Tokens">Tokens per sequence.</param>
/// <param name="Repeats">Passes of each, in turns; the figures are medians.</param>
/// <param name="Threads">Threads that computed.</param>
public sealed record SpeedComparison(double DenseTokensPerSecond, double CutTokensPerSecond, int Batch, int Tokens, int Repeats, int Threads)
{
    private const int Sequences = 4, MostTokens = 128, FewestPasses = 5, MostPasses = 25;

    /// <summary>Passes are added until they took so long together: short ones need more of them for a steady median.</summary>
    private static readonly TimeSpan Enough = TimeSpan.FromSeconds(4);

    /// <summary>How many times faster the smaller model is.</summary>
    public double Gain => CutTokensPerSecond / DenseTokensPerSecond;

    /// <summary>Measures both models in turns, so that what else the machine does meets both.</summary>
    /// <param name="dense">The model before.</param>
    /// <param name="cut">The smaller one, with the same vocabulary.</param>
    /// <param name="device">Where they live.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public static SpeedComparison Measure(LanguageModel dense, LanguageModel cut, Device device, CancellationToken cancellation)
    {
        using var scope = NewDisposeScope();
        using var free = no_grad();
        int tokens = Math.Min(MostTokens, cut.Config.MaxPositions);
        Tensor ids = (arange(Sequences * tokens, ScalarType.Int64, device) * 7919).remainder(cut.Config.VocabSize).reshape(Sequences, tokens);
        var seconds = new Dictionary<LanguageModel, List<double>> { [dense] = [], [cut] = [] };
        var whole = Stopwatch.StartNew();
        for (int pass = -1; pass < FewestPasses || (pass < MostPasses && whole.Elapsed < Enough); pass++)
        {
            foreach (LanguageModel model in (LanguageModel[])[dense, cut])
            {
                cancellation.ThrowIfCancellationRequested();
                var clock = Stopwatch.StartNew();
                using Tensor logits = model.Logits(ids);
                using Tensor last = logits[0, 0, 0];
                last.item<float>(); // waits for a device that answers later
                if (pass >= 0)
                {
                    seconds[model].Add(clock.Elapsed.TotalSeconds);
                }
            }
        }

        return new SpeedComparison(Speed(dense), Speed(cut), Sequences, tokens, seconds[cut].Count, get_num_threads());

        double Speed(LanguageModel model) => Sequences * tokens / seconds[model].Order().ElementAt(seconds[model].Count / 2);
    }

    /// <summary>As in "1,234 → 2,345 tokens/s (1.9 times)".</summary>
    public override string ToString() => string.Create(System.Globalization.CultureInfo.InvariantCulture,
        $"{Text.Count((long)DenseTokensPerSecond)} → {Text.Count((long)CutTokensPerSecond)} tokens/s ({Gain:0.00} times as fast; forward pass of {Batch} × {Tokens} tokens, median of {Repeats}, {Threads} {(Threads == 1 ? "thread" : "threads")})");
}
