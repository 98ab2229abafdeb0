using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What happens to a tensor when two channels become one.</summary>
internal enum FeatureRule
{
    /// <summary>The two are added.</summary>
    Sum,

    /// <summary>Of variances: the roots are added, so that a channel that doubles has twice the deviation.</summary>
    Deviation,

    /// <summary>The mean, weighted by how many channels each has become of.</summary>
    Mean,
}

/// <summary>Where the channels of a group lie in one tensor.</summary>
/// <param name="Tensor">Its name.</param>
/// <param name="Axis">0 where it makes the channels, 1 where it reads them.</param>
/// <param name="Length">Entries of the axis per channel; more than one where a map was flattened.</param>
/// <param name="Rule">What merging does to it.</param>
internal sealed record FeatureSlice(string Tensor, int Axis, long Length, FeatureRule Rule);

/// <summary>Channels that live in several tensors, and which of the original ones each has become of. Works on a table of tensors that it may replace.</summary>
internal sealed class FeatureGroup(string owner, int count, IReadOnlyList<FeatureSlice> slices)
{
    private double[] _counts = [.. Enumerable.Repeat(1.0, count)];

    /// <summary>What the channels are called by.</summary>
    public string Owner => owner;

    /// <summary>n₀.</summary>
    public int Original => count;

    /// <summary>The original channels of each channel there is now.</summary>
    public List<int[]> Members { get; private set; } = [.. Enumerable.Range(0, count).Select(i => new[] { i })];

    /// <summary>c, how many original channels each stands for.</summary>
    public IReadOnlyList<double> Counts
    {
        get => _counts;
        init => _counts = [.. value];
    }

    /// <summary>The channel of each original one, as the channels are ordered now.</summary>
    public long[] GroupOf => [.. Enumerable.Range(0, count).Select(i => (long)Members.FindIndex(m => m.Contains(i)))];

    /// <summary>S [n, n], float64: S_ij = −Σ ‖W[i] − W[j]‖² over the tensors of two or more dimensions, 0 on the diagonal.</summary>
    public static Tensor NegativeDistance(IEnumerable<Tensor> channelsFirst)
    {
        using var scope = NewDisposeScope();
        Tensor rows = cat([.. channelsFirst.Select(t => t.detach().to(ScalarType.Float64).flatten(1))], 1);
        Tensor gram = rows.mm(rows.t()), diagonal = gram.diagonal();
        Tensor distance = gram + gram.t() - diagonal.unsqueeze(1) - diagonal.unsqueeze(0);
        return distance.masked_fill_(eye(rows.shape[0], dtype: ScalarType.Bool, device: rows.device), 0).MoveToOuterDisposeScope();
    }

    /// <summary>The closest two channels and their squared distance over that of the farthest; null where there is one channel.</summary>
    public (int First, int Second, double Closest, double Farthest)? Closest(IReadOnlyDictionary<string, Tensor> values)
    {
        if (Members.Count < 2)
        {
            return null;
        }

        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor distance = NegativeDistance(slices.Where(s => values[s.Tensor].dim() >= 2).Select(s => Channels(s, values[s.Tensor])));
        double farthest = -distance.min().item<double>();
        Tensor others = distance.masked_fill(eye(distance.shape[0], dtype: ScalarType.Bool, device: distance.device), double.NegativeInfinity);
        long place = others.argmax().item<long>(), n = distance.shape[0];
        return ((int)(place / n), (int)(place % n), -others.flatten()[place].item<double>(), farthest);
    }

    /// <summary>Makes one channel of two; it stands last, the others keep their order.</summary>
    public void Merge(Dictionary<string, Tensor> values, int i, int j, double epsilon)
    {
        int[] rest = [.. Enumerable.Range(0, Members.Count).Where(k => k != i && k != j)];
        foreach (FeatureSlice slice in slices)
        {
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            Tensor old = values[slice.Tensor], channels = Channels(slice, old), a = channels[i], b = channels[j];
            Tensor merged = slice.Rule switch
            {
                FeatureRule.Deviation => ((a + epsilon).sqrt() + (b + epsilon).sqrt()).square() - epsilon,
                FeatureRule.Mean => ((_counts[i] * a) + (_counts[j] * b)) / (_counts[i] + _counts[j]),
                _ => a + b,
            };
            Tensor all = cat([channels.index_select(0, tensor(rest.Select(r => (long)r).ToArray(), ScalarType.Int64, device: old.device)), merged.unsqueeze(0)]);
            values[slice.Tensor] = Stored(slice, all).DetachFromDisposeScope();
            old.Dispose();
        }

        Members = [.. rest.Select(r => Members[r]), [.. Members[i], .. Members[j]]];
        _counts = [.. rest.Select(r => _counts[r]), _counts[i] + _counts[j]];
    }

    /// <summary>Puts the channels in the order of the first original one in each.</summary>
    public void Sort(Dictionary<string, Tensor> values)
    {
        long[] order = [.. Members.Index().OrderBy(m => m.Item.Min()).Select(m => (long)m.Index)];
        foreach (FeatureSlice slice in slices)
        {
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            Tensor old = values[slice.Tensor];
            values[slice.Tensor] = Stored(slice, Channels(slice, old).index_select(0, tensor(order, device: old.device))).DetachFromDisposeScope();
            old.Dispose();
        }

        (Members, _counts) = ([.. order.Select(o => Members[(int)o])], [.. order.Select(o => _counts[o])]);
    }

    // [channels, ...], whatever the axis.
    private static Tensor Channels(FeatureSlice slice, Tensor value) =>
        slice.Axis == 0 ? value : slice.Length == 1 ? value.transpose(0, 1) : value.view(value.shape[0], -1, slice.Length).transpose(0, 1);

    private static Tensor Stored(FeatureSlice slice, Tensor channels) =>
        slice.Axis == 0 ? channels.contiguous() : (slice.Length == 1 ? channels.transpose(0, 1) : channels.transpose(0, 1).flatten(1)).contiguous();
}
