namespace Espalier.Models.Vision;

/// <summary>
/// The channels of one or several maps that live and die together. Spaces are joined while the graph is built: an addition
/// makes one space of all that it adds.
/// </summary>
/// <param name="kind">What a channel is.</param>
/// <param name="count">How many there are.</param>
/// <param name="order">The place of the layer that makes them.</param>
internal sealed class ChannelSpace(CoupledKind kind, long count, int order)
{
    private readonly List<SlicePattern> _writers = [], _norms = [], _readers = [];
    private readonly int _order = order;
    private ChannelSpace? _joined;

    /// <summary>The space that this one has become part of, or itself.</summary>
    public ChannelSpace Root => _joined?.Root ?? this;

    /// <summary>How many channels there are.</summary>
    public long Count => count;

    /// <summary>Whether the channels cannot be cut: images, classes, or what has no order of channels.</summary>
    public bool IsFixed { get; private set; }

    /// <summary>The channels as a group that can be cut; null where they cannot or where nothing reads them.</summary>
    public CoupledGroup? Group => IsFixed || _writers.Count == 0 || _readers.Count == 0
        ? null
        : new CoupledGroup(kind, Owner(_writers[0].Tensor), (int)count, [.. _writers, .. _norms, .. _readers]);

    public void Fix() => Root.IsFixed = true;

    /// <summary>Notes a layer that puts the channels out.</summary>
    public void Write(WeightLayer layer, long length = 1, params IReadOnlyList<long> offsets)
    {
        foreach (long offset in offsets.Count == 0 ? [0L] : offsets)
        {
            Root._writers.Add(new SlicePattern(layer.WeightName, 0, offset, length, length));
            if (layer.Bias is not null)
            {
                Root._norms.Add(new SlicePattern($"{layer.Name}.bias", 0, offset, length, length));
            }
        }
    }

    /// <summary>Notes a norm over the channels.</summary>
    public void Normalize(VisionLayer layer) =>
        Root._norms.AddRange([.. layer.Parameters.Select(p => p.Name).Concat(layer.Buffers.Select(b => b.Name)).Select(name => new SlicePattern(name, 0))]);

    /// <summary>Notes a layer that reads the channels, of which each is <paramref name="length"/> inputs.</summary>
    public void Read(WeightLayer layer, long length) => Root._readers.Add(new SlicePattern(layer.WeightName, 1, 0, length, length));

    /// <summary>Joins two spaces of equal size.</summary>
    public void Join(ChannelSpace other)
    {
        ChannelSpace here = Root, there = other.Root;
        if (ReferenceEquals(here, there))
        {
            return;
        }

        // The group is called by the layer that comes first.
        (here, there) = here._order <= there._order ? (here, there) : (there, here);

        here._writers.AddRange(there._writers);
        here._norms.AddRange(there._norms);
        here._readers.AddRange(there._readers);
        here.IsFixed |= there.IsFixed;
        there._joined = here;
    }

    private static string Owner(string weight) => weight[..^".weight".Length];
}
