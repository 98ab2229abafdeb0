using System.Globalization;
using Espalier.Runtime;

namespace Espalier.Methods.Pruning;

/// <summary>The architectures that may be chosen: every combination of the listed sizes.</summary>
public sealed record MinitronSpace
{
    /// <summary>L: numbers of layers.</summary>
    public required IReadOnlyList<long> Layers { get; init; }

    /// <summary>H: numbers of query heads.</summary>
    public required IReadOnlyList<long> Heads { get; init; }

    /// <summary>F: widths of the feed-forward part.</summary>
    public required IReadOnlyList<long> FeedForward { get; init; }

    /// <summary>E: widths of the model.</summary>
    public required IReadOnlyList<long> Embedding { get; init; }

    /// <summary>V: the vocabulary.</summary>
    public required long Vocabulary { get; init; }

    /// <summary>d: the width of a head, which no cut changes.</summary>
    public required long HeadDim { get; init; }

    /// <summary>KV: key-value heads; 0 where every head has its own.</summary>
    public long KeyValueHeads { get; init; }

    /// <summary>Whether the feed-forward part has three matrices (gated) or two.</summary>
    public bool Gated { get; init; } = true;

    /// <summary>Whether input and output embedding are one matrix.</summary>
    public bool Tied { get; init; }

    /// <summary>The parameters of one architecture: L(2·E·H·d + 2·E·KV·d + (3|2)·E·F + 2E) + E + V·E·(1|2); norms without biases.</summary>
    public long Parameters(long layers, long heads, long feedForward, long embedding)
    {
        checked
        {
            long attention = 2 * embedding * heads * HeadDim + 2 * embedding * (KeyValueHeads == 0 ? heads : KeyValueHeads) * HeadDim;
            long mlp = (Gated ? 3 : 2) * embedding * feedForward;
            return layers * (attention + mlp + 2 * embedding) + embedding + Vocabulary * embedding * (Tied ? 1 : 2);
        }
    }
}

/// <summary>One architecture.</summary>
/// <param name="Layers">L.</param>
/// <param name="Heads">H, query heads.</param>
/// <param name="FeedForward">F.</param>
/// <param name="Embedding">E.</param>
/// <param name="Parameters">Its parameters.</param>
public readonly record struct MinitronCandidate(long Layers, long Heads, long FeedForward, long Embedding, long Parameters)
{
    /// <summary>As in "6 layers × 8 heads × 512 neurons × 192 channels (2,000,000 parameters)".</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"{Layers} layers × {Heads} heads × {FeedForward} neurons × {Embedding} channels ({Parameters:N0} parameters)");
}

public sealed partial class Minitron
{
    /// <summary>Step 6: every architecture whose parameters are within a tolerance of the target, by layers, heads, feed-forward and embedding in the order listed, the first outermost.</summary>
    /// <param name="space">What may be chosen.</param>
    /// <param name="target">Parameters wanted.</param>
    /// <param name="tolerance">|parameters − target| &lt;= tolerance·target; the paper's 0.05.</param>
    /// <returns>The candidates; empty where none is near enough.</returns>
    /// <exception cref="EspalierException">For sizes that are not positive.</exception>
    public static IReadOnlyList<MinitronCandidate> Enumerate(MinitronSpace space, long target, double tolerance = 0.05)
    {
        EspalierException.Require(target > 0 && tolerance >= 0, string.Create(CultureInfo.InvariantCulture,
            $"A target of {target} parameters with a tolerance of {tolerance} is not possible; the first must be above 0, the second not negative."));
        return [.. All(space).Where(c => IsNear(c, target, tolerance))];
    }

    /// <summary>As <see cref="Enumerate"/>, for a user: none at all is an error that names the nearest sizes.</summary>
    /// <exception cref="EspalierException">When no architecture is near enough.</exception>
    public static IReadOnlyList<MinitronCandidate> Candidates(MinitronSpace space, long target, double tolerance) => Candidates(All(space), target, tolerance);

    /// <summary>Those of listed architectures that are near enough; none at all is an error that names the nearest sizes.</summary>
    internal static IReadOnlyList<MinitronCandidate> Candidates(IEnumerable<MinitronCandidate> all, long target, double tolerance)
    {
        MinitronCandidate[] listed = [.. all];
        MinitronCandidate[] found = [.. listed.Where(c => IsNear(c, target, tolerance))];
        if (found.Length == 0)
        {
            string nearest = string.Join("; ", listed.OrderBy(c => Math.Abs(c.Parameters - target)).Take(3));
            throw new EspalierException(string.Create(CultureInfo.InvariantCulture,
                $"No architecture of the search has {target:N0} parameters within {tolerance * 100:0.##} %; the nearest are: {nearest}. Change the target, the tolerance or the sizes."));
        }

        return found;
    }

    private static bool IsNear(MinitronCandidate candidate, long target, double tolerance) => Math.Abs(candidate.Parameters - target) <= tolerance * target;

    private static IEnumerable<MinitronCandidate> All(MinitronSpace space)
    {
        IReadOnlyList<long>[] sizes = [space.Layers, space.Heads, space.FeedForward, space.Embedding];
        EspalierException.Require(sizes.All(s => s.Count > 0 && s.All(n => n > 0)) && space is { Vocabulary: > 0, HeadDim: > 0, KeyValueHeads: >= 0 },
            "Layers, heads, feed-forward and embedding widths, vocabulary and head width of a search must each be listed and above 0.");
        return from layers in space.Layers
               from heads in space.Heads
               from feedForward in space.FeedForward
               from embedding in space.Embedding
               select new MinitronCandidate(layers, heads, feedForward, embedding, space.Parameters(layers, heads, feedForward, embedding));
    }
}
