using Espalier.Catalogue;
using Espalier.Runtime;

namespace Espalier.Sparsity;

/// <summary>ERK, Erdős–Rényi (kernel): a layer's density is proportional to the sum of its dimensions over its size, so that small and narrow layers stay denser.</summary>
[Method("erk", "Erdős–Rényi kernel sparsity", Family = "Pruning", Source = "Evci, Gale, Menick, Castro, Elsen, ICML 2020, arXiv 1911.11134, section 3",
    Summary = "Layers give in proportion to their size over the sum of their dimensions; what would be denser than dense stays dense.", Fits = "allocator; any criterion, unstructured, any repair and retraining")]
public sealed record Erk : IAllocator
{
    /// <inheritdoc/>
    public IReadOnlyList<double> Allocate(IReadOnlyList<AllocatedLayer> layers, double sparsity)
    {
        MaskSelection.PruneCount(0, sparsity);
        IReadOnlyList<long> kept = Survivors([.. layers.Select(l => l.Count)], [.. layers.Select(l => l.Rows + l.Columns)], sparsity);
        // A plan never removes a whole layer.
        return [.. layers.Select((l, i) => Math.Min(1 - (double)kept[i] / l.Count, 1 - 1.0 / l.Count))];
    }

    /// <summary>How many weights each layer keeps.</summary>
    /// <param name="counts">The weights of each layer that are not zero yet.</param>
    /// <param name="dimensions">The sum of each weight's dimensions (linear: out + in; convolution: out + in + kernel).</param>
    /// <param name="amount">The share of all of them to remove, in [0, 1].</param>
    /// <returns>Rounded half to even; a layer that is to stay dense keeps all of its.</returns>
    public static IReadOnlyList<long> Survivors(IReadOnlyList<long> counts, IReadOnlyList<long> dimensions, double amount)
    {
        EspalierException.Require(counts.Count > 0 && counts.Count == dimensions.Count, $"{counts.Count} layers with {dimensions.Count} sums of dimensions cannot share a sparsity; every layer needs one.");
        double budget = (1 - amount) * counts.Sum();
        var dense = new bool[counts.Count];
        while (true)
        {
            double left = budget - counts.Where((_, l) => dense[l]).Sum();
            long others = dimensions.Where((_, l) => !dense[l]).Sum();
            double Kept(int l) => Math.Round(left * dimensions[l] / others, MidpointRounding.ToEven);
            int fullest = -1;
            double largest = 1;
            for (int l = 0; l < dense.Length; l++)
            {
                // A layer without weights has nothing to keep.
                double ratio = dense[l] ? 0 : counts[l] == 0 ? double.PositiveInfinity : Kept(l) / counts[l];
                if (ratio > largest)
                {
                    (fullest, largest) = (l, ratio);
                }
            }

            if (fullest < 0)
            {
                return [.. counts.Select((n, l) => dense[l] ? n : (long)Kept(l))];
            }

            dense[fullest] = true;
        }
    }
}
