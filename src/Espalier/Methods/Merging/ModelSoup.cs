using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Merging;

/// <summary>Weight averages of nets of one shape ("soups"), for any nets that share their masks.</summary>
public static class ModelSoup
{
    /// <summary>The share of each member.</summary>
    /// <param name="members">How many members there are.</param>
    /// <param name="given">The wanted shares; null gives each the same.</param>
    /// <param name="progress">Told when the shares do not add up to 1.</param>
    /// <exception cref="EspalierException">For fewer than two members, or another number of shares.</exception>
    public static IReadOnlyList<double> Shares(int members, IReadOnlyList<double>? given = null, IProgressSink? progress = null)
    {
        EspalierException.Require(members >= 2, $"A soup of {members} member is none; average at least 2 models.");
        EspalierException.Require(given is null || given.Count == members, $"{given?.Count} soup weights were given for {members} models; give one for each.");
        if (given is not null && Math.Abs(given.Sum() - 1) > 1e-6)
        {
            progress?.Warn(FormattableString.Invariant($"The soup weights add up to {given.Sum():G4} and not to 1: the merged weights are scaled by that."));
        }

        return given ?? [.. Enumerable.Repeat(1.0 / members, members)];
    }

    /// <summary>Σ share · member, each member masked first, in the order of the members.</summary>
    /// <param name="members">Tensors of one shape.</param>
    /// <param name="shares">One for each.</param>
    /// <param name="keep">Which entries stay (bool or 0 and 1); null where nothing is masked.</param>
    /// <returns>Shaped like the members, in the caller's scope.</returns>
    public static Tensor Average(IReadOnlyList<Tensor> members, IReadOnlyList<double> shares, Tensor? keep = null)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor? pruned = keep?.to(ScalarType.Bool).logical_not();
        Tensor sum = zeros_like(members[0], requires_grad: false);
        foreach ((Tensor member, double share) in members.Zip(shares))
        {
            sum.add_(pruned is null ? member : member.masked_fill(pruned, 0), share);
        }

        return sum.MoveToOuterDisposeScope();
    }

    /// <summary>The average of nets: weights, biases, norms and running statistics. Batch norms must be recalibrated afterwards.</summary>
    /// <param name="members">Nets of one shape.</param>
    /// <param name="masks">The keep masks of each member, by weight name; they must be the same.</param>
    /// <param name="shares">The share of each; null gives each the same.</param>
    /// <param name="progress">Told when the shares do not add up to 1.</param>
    /// <returns>A new net; the caller disposes it.</returns>
    /// <exception cref="EspalierException">For fewer than two members, or masks that differ, naming the layer.</exception>
    public static VisionModel Average(
        IReadOnlyList<VisionModel> members, IReadOnlyList<IReadOnlyDictionary<string, Tensor>> masks, IReadOnlyList<double>? shares = null, IProgressSink? progress = null)
    {
        IReadOnlyList<double> each = Shares(members.Count, shares, progress);
        RequireOneMask(masks);
        VisionModel soup = members[0].Clone();
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor[][] tensors = [.. members.Select(m => m.Tensors.Select(t => t.Value).ToArray())];
        foreach ((int i, (string name, Tensor value)) in soup.Tensors.Index())
        {
            using Tensor average = Average([.. tensors.Select(t => t[i])], each, masks[0].GetValueOrDefault(name));
            value.copy_(average);
        }

        return soup;
    }

    /// <summary>Stops when masks differ.</summary>
    /// <param name="masks">The keep masks of each member, by weight name.</param>
    /// <exception cref="EspalierException">Naming the first layer that differs.</exception>
    public static void RequireOneMask(IReadOnlyList<IReadOnlyDictionary<string, Tensor>> masks)
    {
        using var scope = NewDisposeScope();
        foreach (IReadOnlyDictionary<string, Tensor> other in masks.Skip(1).Where(m => !ReferenceEquals(m, masks[0])))
        {
            string? layer = masks[0].Keys.Union(other.Keys).FirstOrDefault(n =>
                !masks[0].TryGetValue(n, out Tensor? a) || !other.TryGetValue(n, out Tensor? b) || !a.shape.AsSpan().SequenceEqual(b.shape) || a.ne(b).any().item<bool>());
            EspalierException.Require(layer is null, $"The masks of the models differ in {layer}: their average would be less sparse. Average models that were retrained from one pruned model.");
        }
    }

    /// <summary>
    /// A greedy soup: members from the best to the worst (equal ones in their order), each kept where the uniform average of the
    /// chosen and it is at least as good as before.
    /// </summary>
    /// <param name="scores">The score of each member; more is better.</param>
    /// <param name="scoreOf">The score of the uniform average of some members.</param>
    /// <returns>The chosen in their order, and the score of their average.</returns>
    public static (IReadOnlyList<int> Chosen, double Score) Greedy(IReadOnlyList<double> scores, Func<IReadOnlyList<int>, double> scoreOf)
    {
        EspalierException.Require(scores.Count >= 2, $"A soup of {scores.Count} member is none; average at least 2 models.");
        int[] order = [.. Enumerable.Range(0, scores.Count).OrderByDescending(i => scores[i])];
        (int[] chosen, double best) = ([order[0]], scores[order[0]]);
        foreach (int next in order.Skip(1))
        {
            double score = scoreOf([.. chosen, next]);
            if (score >= best)
            {
                (chosen, best) = ([.. chosen, next], score);
            }
        }

        return (chosen, best);
    }

    /// <summary>How far members lie apart, over all pairs.</summary>
    /// <param name="members">Each model as one vector.</param>
    /// <exception cref="EspalierException">For fewer than two.</exception>
    public static SoupDistances Distances(IReadOnlyList<Tensor> members)
    {
        EspalierException.Require(members.Count >= 2, $"Distances need at least 2 models, not {members.Count}.");
        using var scope = NewDisposeScope();
        Tensor[] vectors = [.. members.Select(m => m.detach().to(ScalarType.Float64).flatten())];
        double[] norms = [.. vectors.Select(Norm)];
        var (apart, angles) = (new List<double>(), new List<double>());
        for (int i = 0; i < vectors.Length; i++)
        {
            for (int k = i + 1; k < vectors.Length; k++)
            {
                using Tensor difference = vectors[i] - vectors[k];
                apart.Add(Norm(difference));
                double cosine = vectors[i].dot(vectors[k]).item<double>() / Math.Max(norms[i] * norms[k], 1e-8);
                angles.Add(Math.Acos(Math.Clamp(cosine, -1, 1)) * 180 / Math.PI);
            }
        }

        Tensor centre = stack(vectors).mean([0L]);
        double[] fromCentre = [.. vectors.Select(v => Norm(v - centre))];
        return new SoupDistances(apart.Max(), apart.Min(), apart.Average(), angles.Max(), angles.Min(), angles.Average(), fromCentre.Max(), fromCentre.Min());
    }

    private static double Norm(Tensor vector)
    {
        using Tensor norm = linalg.vector_norm(vector);
        return norm.item<double>();
    }
}

/// <summary>How far the members of a soup lie apart.</summary>
/// <param name="MaxL2">The largest distance of a pair.</param>
/// <param name="MinL2">The smallest.</param>
/// <param name="MeanL2">The mean.</param>
/// <param name="MaxAngle">The largest angle of a pair, in degrees.</param>
/// <param name="MinAngle">The smallest.</param>
/// <param name="MeanAngle">The mean.</param>
/// <param name="MaxToBarycentre">The largest distance of a member from their mean.</param>
/// <param name="MinToBarycentre">The smallest.</param>
public sealed record SoupDistances(double MaxL2, double MinL2, double MeanL2, double MaxAngle, double MinAngle, double MeanAngle, double MaxToBarycentre, double MinToBarycentre);
