using Espalier.Catalogue;
using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What merging does to batch norms.</summary>
public enum BatchNormMerge
{
    /// <summary>Deviations are added: exact duplicates merge without any change (our correction).</summary>
    StdSum,

    /// <summary>Norms are folded into their convolutions first: exact too.</summary>
    Fold,

    /// <summary>Variances are added, as in the official code; not exact even for duplicates.</summary>
    Sum,
}

/// <summary>
/// Iterative feature merging: without data, the two closest channels of a layer become one, again and again until no two are close. What is left is the
/// layer's feature complexity, and the net is narrower.
/// </summary>
/// <remarks>β bounds the squared distance of a pair as a share of the layer's largest; n₀ is the first number of channels, n the present one.</remarks>
[Method("ifm", "Going Beyond Neural Network Feature Similarity: The Network Feature Complexity and Its Interpretation Using Category Theory", Family = "Pruning", Source = "Chen, Zhou, Yan, ICLR 2024, arXiv 2310.06756",
    Summary = "Merges channels with nearly equal weights, without data or training; says how redundant each layer is, and writes the narrower net. For vision nets with ReLU.",
    Fits = "espalier complexity; vision nets; any training afterwards")]
public sealed partial record Ifm
{
    /// <summary>β. Default 0.1; 0.001 to 0.3 in the paper's runs. Small nets need more before anything merges.</summary>
    /// <exception cref="EspalierException">Outside (0, 1): at 1 everything merges.</exception>
    public double Beta
    {
        get;
        init => field = Checked(value, value is > 0 and < 1, "beta", "above 0 and below 1, for example 0.1");
    } = 0.1;

    /// <summary>The most merges of a layer, as a share of its channels. Default 1.</summary>
    /// <exception cref="EspalierException">Outside [0, 1].</exception>
    public double MaxRatio
    {
        get;
        init => field = Checked(value, value is >= 0 and <= 1, "max_ratio", "from 0 to 1");
    } = 1;

    /// <summary>What happens to batch norms. Default <see cref="BatchNormMerge.StdSum"/>.</summary>
    public BatchNormMerge BatchNorm { get; init; } = BatchNormMerge.StdSum;

    /// <summary>Parts of the names of the layers that are merged. Null (default) takes all that can be; the paper leaves the first stages of residual nets as they are.</summary>
    public IReadOnlyList<string>? Layers { get; init; }

    /// <summary>Merges a net's channels. The net stays as it is.</summary>
    /// <param name="net">A net with ReLU.</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>The narrower net and what was found; whoever asked disposes it.</returns>
    /// <exception cref="EspalierException">When the net has nothing that can be merged.</exception>
    public IfmResult Merge(VisionModel net, CancellationToken cancellation = default) =>
        Change(net, (groups, values) => Iterate(groups, values, BatchNormLayer.Epsilon, cancellation));

    /// <summary>Merges given channels, near or far: for a choice made elsewhere and for baselines. The net stays as it is.</summary>
    /// <param name="net">A net with ReLU.</param>
    /// <param name="together">By layer, sets of channels of which each becomes one; channels that are not named stay.</param>
    /// <returns>As <see cref="Merge"/>.</returns>
    /// <exception cref="EspalierException">When a layer or channel does not exist, or a channel is named twice.</exception>
    public IfmResult MergeSets(VisionModel net, IReadOnlyDictionary<string, IReadOnlyList<int[]>> together) => Change(net, (groups, values) =>
    {
        string? unknown = together.Keys.FirstOrDefault(k => groups.All(g => g.Owner != k));
        EspalierException.Require(unknown is null, $"There is no layer {unknown} whose channels can be merged; there are {string.Join(", ", groups.Take(6).Select(g => g.Owner))}.");
        foreach (FeatureGroup group in groups.Where(g => together.ContainsKey(g.Owner)))
        {
            int[] named = [.. together[group.Owner].SelectMany(s => s)];
            EspalierException.Require(named.Distinct().Count() == named.Length && named.All(i => i >= 0 && i < group.Original), $"The sets of {group.Owner} name a channel twice or one that does not exist; there are {group.Original}, from 0.");
            foreach (int[] set in together[group.Owner])
            {
                foreach (int next in set.Skip(1))
                {
                    group.Merge(values, group.Members.FindIndex(m => m.Contains(set[0])), group.Members.FindIndex(m => m.Contains(next)), BatchNormLayer.Epsilon);
                }
            }
        }
    });

    /// <summary>Merges until a share of the parameters is left, by bisection of β.</summary>
    /// <param name="net">A net with ReLU.</param>
    /// <param name="share">The largest share of the parameters that may be left, in (0, 1].</param>
    /// <param name="cancellation">Ends the work early.</param>
    /// <returns>The result of the smallest β found that leaves at most that share.</returns>
    /// <exception cref="EspalierException">When no β below 1 leaves so few.</exception>
    public IfmResult MergeTo(VisionModel net, double share, CancellationToken cancellation = default)
    {
        EspalierException.Require(share is > 0 and <= 1, FormattableString.Invariant($"A share of {share} of the parameters cannot be left; it lies above 0 and is at most 1."));
        double low = 0, high = 0.999;
        IfmResult? best = At(high);
        EspalierException.Require(best is not null, FormattableString.Invariant($"Merging cannot bring this net down to {share:P0} of its parameters; ask for more, or allow more merges (max_ratio)."));
        for (int i = 0; i < 10; i++)
        {
            double middle = (low + high) / 2;
            if (At(middle) is { } found)
            {
                best.Net.Dispose();
                (best, high) = (found, middle);
            }
            else
            {
                low = middle;
            }
        }

        return best;

        IfmResult? At(double beta)
        {
            IfmResult found = (this with { Beta = beta }).Merge(net, cancellation);
            if (found.Net.ParameterCount <= share * net.ParameterCount)
            {
                return found;
            }

            found.Net.Dispose();
            return null;
        }
    }

    /// <summary>The channels of a net that can be merged, in its order: not heads of attention, and not those that a shortcut without weights copies.</summary>
    /// <exception cref="EspalierException">When there are none, or the net's activation is not ReLU.</exception>
    internal IReadOnlyList<CoupledGroup> Mergeable(VisionModel net)
    {
        EspalierException.Require(!net.Layers.OfType<PlainLayer>().Any(l => l.Kind is PlainKind.Gelu), "Merged channels do the same only under ReLU, and this net has GELU; ifm is for convolutional nets and stacks of linear maps with ReLU.");
        var copied = net.Layers.OfType<PadShortcutLayer>().SelectMany(s => new[] { s.Channels.Root.Group?.Owner, s.Inputs[0].Channels.Root.Group?.Owner }).ToHashSet();
        CoupledGroup[] all = [.. net.Groups.Where(g => g.Kind is CoupledKind.Channel or CoupledKind.Neuron && !copied.Contains(g.Owner))];
        CoupledGroup[] chosen = [.. all.Where(g => Layers is null || Layers.Any(word => g.Owner.Contains(word, StringComparison.OrdinalIgnoreCase)))];
        EspalierException.Require(chosen.Length > 0, all.Length == 0
            ? "This net has no channels that can be merged."
            : $"No layer whose channels can be merged has any of '{string.Join(", ", Layers ?? [])}' in its name; there are {string.Join(", ", all.Take(6).Select(g => g.Owner))}.");
        return chosen;
    }

    private IfmResult Change(VisionModel net, Action<IReadOnlyList<FeatureGroup>, Dictionary<string, Tensor>> merge)
    {
        IReadOnlyList<CoupledGroup> coupled = Mergeable(net);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Dictionary<string, Tensor> values = net.Tensors.ToDictionary(t => t.Name, t => t.Value.detach().clone().DetachFromDisposeScope());
        try
        {
            if (BatchNorm is BatchNormMerge.Fold)
            {
                Fold(net, values);
            }

            FeatureGroup[] groups = [.. coupled.Select(g => new FeatureGroup(g.Owner, g.Count, [.. g.Patterns.Select(Slice)]))];
            merge(groups, values);
            LayerComplexity[] layers = [.. groups.Select(g => new LayerComplexity(g.Owner, g.Original, g.Members.Count, g.Members.Max(m => m.Length), g.Closest(values) is { Farthest: > 0 } left ? left.Closest / left.Farthest : null))];
            foreach (FeatureGroup group in groups)
            {
                group.Sort(values);
            }

            VisionModel narrow = net.Cut(groups.ToDictionary(g => g.Owner, g => (IReadOnlyCollection<int>)[.. g.Members.SelectMany(m => m.Where(i => i != m.Min()))]));
            foreach ((string name, Tensor value) in narrow.Tensors)
            {
                value.copy_(values[name]);
            }

            return new IfmResult(narrow, layers, [.. groups.Select(g => g.GroupOf)], Beta);
        }
        finally
        {
            foreach (Tensor value in values.Values)
            {
                value.Dispose();
            }
        }
    }

    // Iterations t = 0, 1, …: one merge of each layer, in order, until nothing merges.
    private void Iterate(IReadOnlyList<FeatureGroup> groups, Dictionary<string, Tensor> values, double epsilon, CancellationToken cancellation)
    {
        bool merged = true;
        for (int t = 0; merged; t++)
        {
            merged = false;
            foreach (FeatureGroup group in groups.Where(g => t < g.Original * MaxRatio))
            {
                cancellation.ThrowIfCancellationRequested();
                if (group.Closest(values) is { } pair && pair.Closest <= Beta * pair.Farthest)
                {
                    group.Merge(values, pair.First, pair.Second, epsilon);
                    merged = true;
                }
            }
        }
    }

    private FeatureSlice Slice(SlicePattern pattern)
    {
        bool variance = pattern.Tensor.EndsWith(".running_var", StringComparison.Ordinal);
        return new FeatureSlice(pattern.Tensor, pattern.Axis, pattern.Length, pattern.Axis == 1 ? FeatureRule.Mean : variance && BatchNorm is not BatchNormMerge.Sum ? FeatureRule.Deviation : FeatureRule.Sum);
    }

    // The convolution does all that the norm did, and the norm changes nothing: γ = 1, μ = 0, v = 1 − ε, β the shift. Its merged deviation is 2, as its γ is.
    private static void Fold(VisionModel net, Dictionary<string, Tensor> values)
    {
        foreach (BatchNormLayer norm in net.Layers.OfType<BatchNormLayer>())
        {
            if (norm.Inputs[0] is not WeightLayer layer)
            {
                continue;
            }

            Tensor shift = values[$"{norm.Name}.bias"], mean = values[$"{norm.Name}.running_mean"], variance = values[$"{norm.Name}.running_var"], gain = values[$"{norm.Name}.weight"];
            Tensor scale = gain / (variance + BatchNormLayer.Epsilon).sqrt();
            Tensor weight = values[layer.WeightName];
            weight.mul_(scale.view([-1, .. Enumerable.Repeat(1L, (int)weight.dim() - 1)]));
            shift.sub_(mean * scale);
            if (layer.Bias is not null)
            {
                shift.add_(values[$"{layer.Name}.bias"] * scale);
                values[$"{layer.Name}.bias"].zero_();
            }

            gain.fill_(1);
            mean.zero_();
            variance.fill_(1 - BatchNormLayer.Epsilon);
        }
    }

    private static T Checked<T>(T value, bool holds, string what, string wanted) => Retraining.OptionCheck.Checked(value, holds, "ifm", what, wanted);
}
