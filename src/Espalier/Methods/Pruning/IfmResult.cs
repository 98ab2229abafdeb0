using Espalier.Models.Vision;

namespace Espalier.Methods.Pruning;

/// <summary>How redundant one layer is.</summary>
/// <param name="Layer">The layer that makes the channels.</param>
/// <param name="Original">n₀, its channels.</param>
/// <param name="Left">n, those left.</param>
/// <param name="LargestGroup">The most channels that became one.</param>
/// <param name="SmallestRatio">The squared distance of the closest two that are left over that of the farthest; null where all are alike.</param>
public sealed record LayerComplexity(string Layer, int Original, int Left, int LargestGroup, double? SmallestRatio)
{
    /// <summary>The feature complexity, n/n₀.</summary>
    public double Complexity => (double)Left / Original;
}

/// <summary>What merging gave.</summary>
/// <param name="Net">The narrower net.</param>
/// <param name="Layers">The layers whose channels could be merged, in order.</param>
/// <param name="GroupOf">For each of these layers, the new channel of every original one.</param>
/// <param name="Beta">β.</param>
public sealed record IfmResult(VisionModel Net, IReadOnlyList<LayerComplexity> Layers, IReadOnlyList<long[]> GroupOf, double Beta) : IDisposable
{
    /// <inheritdoc/>
    public void Dispose() => Net.Dispose();
}
