using System.Globalization;
using Espalier.Reporting;
using Espalier.Runtime;

namespace Espalier.Pruning;

/// <summary>Activation sparsity as a report shows it.</summary>
public static class ActivationReport
{
    /// <summary>The means over the blocks and the dead neurons in one sentence.</summary>
    /// <param name="blocks">At least one block.</param>
    public static string Sentence(IReadOnlyList<ActivationSparsity> blocks) =>
        $"{Percent(blocks.Average(b => b.Shifted))} of the feed-forward activations are zero ({Percent(blocks.Average(b => b.Before))} before, {Percent(blocks.Average(b => b.Trained))} after training, then the threshold); "
        + $"{Text.Count(blocks.Sum(b => b.Dead))} of {Text.Count(blocks.Sum(b => b.Neurons))} neurons answered to no token.";

    /// <summary>A column chart: before, after training, with the threshold.</summary>
    internal static ColumnChart Chart(IReadOnlyList<ActivationSparsity> blocks) => new()
    {
        Title = "Activation sparsity per block",
        XLabel = "block",
        YLabel = "share of zeros",
        Places = [.. blocks.Select(b => b.Block.ToString(CultureInfo.InvariantCulture))],
        Columns =
        [
            new ColumnSeries("before", [.. blocks.Select(b => (double?)b.Before)], Tone.Slate),
            new ColumnSeries("after training", [.. blocks.Select(b => (double?)b.Trained)], Tone.Ochre),
            new ColumnSeries("with the threshold", [.. blocks.Select(b => (double?)b.Shifted)], Tone.Leaf),
        ],
    };

    private static string Percent(double share) => (100 * share).ToString("0.#", CultureInfo.InvariantCulture) + " %";
}
