using Espalier.Models;
using Espalier.Models.Vision;
using Espalier.Runtime;
using Espalier.Training;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Espalier.Methods.Pruning;

/// <summary>What a group of weights is.</summary>
public enum WeightGroup
{
    /// <summary>All that makes one channel or neuron: the rows of every map that writes it, with biases and the scale and shift of norms. Such a unit can be cut out of the net.</summary>
    Filter,

    /// <summary>All that reads one channel or neuron: columns. Such a unit can be cut out of the net.</summary>
    Channel,

    /// <summary>One place of all filters of a layer: a column of its matrix [out, in·k·k].</summary>
    Shape,

    /// <summary>A whole layer.</summary>
    Layer,

    /// <summary>A single weight.</summary>
    Weight,
}

/// <summary>Disjoint groups over the entries of one or several parameters: any structure that weights can be kept or dropped by.</summary>
public sealed class ParameterGrouping : IDisposable
{
    private readonly List<(Parameter Value, Tensor Ids)> _members = [];

    /// <summary>Groups parameters by ids.</summary>
    /// <param name="name">What is grouped, for messages.</param>
    /// <param name="count">How many groups there are.</param>
    /// <param name="members">Each parameter with the group of every entry in memory order; −1 where an entry is in none.</param>
    /// <exception cref="EspalierException">When an id is out of range, ids do not match a parameter, or a group has no entry.</exception>
    public ParameterGrouping(string name, int count, IReadOnlyList<(Parameter Value, long[] Ids)> members)
    {
        (Name, Count) = (name, count);
        var sizes = new long[count];
        foreach ((Parameter value, long[] ids) in members)
        {
            EspalierException.Require(ids.Length == value.numel(), $"{name} has ids for {ids.Length} of the {value.numel()} entries of a parameter; give one for each.");
            foreach (long id in ids)
            {
                EspalierException.Require(id >= -1 && id < count, $"{name} has no group {id}; ids go from 0 to {count - 1}, and -1 stands for none.");
                if (id >= 0)
                {
                    sizes[id]++;
                }
            }

            using var scope = NewDisposeScope();
            Tensor stored = tensor([.. ids.Select(i => i < 0 ? count : i)], ScalarType.Int64).to(value.device);
            _members.Add((value, stored.DetachFromDisposeScope()));
        }

        EspalierException.Require(count > 0 && sizes.All(s => s > 0), $"A group of {name} has no entry; every id from 0 to {count - 1} must occur.");
        Sizes = sizes;
    }

    /// <summary>What is grouped.</summary>
    public string Name { get; }

    /// <summary>How many groups there are.</summary>
    public int Count { get; }

    /// <summary>The entries of each group.</summary>
    public IReadOnlyList<long> Sizes { get; }

    /// <summary>The groups of a vision net.</summary>
    /// <inheritdoc cref="Of(IReadOnlyList{NetWeight}, VisionModel?, WeightGroup)"/>
    public static IReadOnlyList<ParameterGrouping> Of(VisionModel model, WeightGroup kind) => Of(NetWeight.Of(model), model, kind);

    /// <summary>The groups of a net.</summary>
    /// <param name="weights">Its weights.</param>
    /// <param name="net">The vision net, whose coupled channels are the filters and channels; without it they are the rows and columns of each weight alone.</param>
    /// <param name="kind">What a group is.</param>
    /// <returns>One grouping for each layer or set of coupled channels; a single one of all layers for <see cref="WeightGroup.Layer"/>. The caller disposes them.</returns>
    public static IReadOnlyList<ParameterGrouping> Of(IReadOnlyList<NetWeight> weights, VisionModel? net, WeightGroup kind) => kind switch
    {
        WeightGroup.Filter when net is not null => Coupled(net, axis: 0),
        WeightGroup.Channel when net is not null => Coupled(net, axis: 1),
        WeightGroup.Filter => [.. weights.Select(w => Along(w, w.InputsFirst ? 1 : 0))],
        WeightGroup.Channel => [.. weights.Select(w => Along(w, w.InputsFirst ? 0 : 1))],
        WeightGroup.Shape => [.. weights.Select(w => w.InputsFirst ? Along(w, 0) : Each(w.Name, w.Value, w.Value.numel() / w.Value.shape[0], (i, n) => i % n))],
        WeightGroup.Layer => [new ParameterGrouping("all layers", weights.Count, [.. weights.Select((w, l) => (w.Value, Ids(w.Value, _ => l)))])],
        _ => [.. weights.Select(w => Each(w.Name, w.Value, w.Value.numel(), (i, _) => i))],
    };

    /// <summary>Several groupings as one, the groups numbered on.</summary>
    /// <param name="name">What the whole is called.</param>
    /// <param name="parts">The groupings; they are disposed.</param>
    public static ParameterGrouping Joined(string name, IReadOnlyList<ParameterGrouping> parts)
    {
        var members = new List<(Parameter, long[])>();
        int before = 0;
        foreach (ParameterGrouping part in parts)
        {
            foreach ((Parameter value, Tensor ids) in part._members)
            {
                using Tensor plain = ids.cpu();
                members.Add((value, [.. plain.data<long>().Select(i => i == part.Count ? -1 : i + before)]));
            }

            before += part.Count;
            part.Dispose();
        }

        return new ParameterGrouping(name, before, members);
    }

    /// <summary>The L2 norm of each group.</summary>
    public double[] Norms()
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor sums = zeros([Count + 1], ScalarType.Float64, _members[0].Value.device);
        foreach ((Parameter value, Tensor ids) in _members)
        {
            sums.index_add_(0, ids, value.flatten().to(ScalarType.Float64).square(), 1);
        }

        return sums.narrow(0, 0, Count).sqrt().cpu().data<double>().ToArray();
    }

    /// <summary>Multiplies each group's entries by its factor, in place.</summary>
    /// <param name="factors">One for each group.</param>
    public void Multiply(IReadOnlyList<double> factors)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor all = tensor([.. factors.Select(f => (float)f), 1f]).to(_members[0].Value.device);
        foreach ((Parameter value, Tensor ids) in _members)
        {
            value.mul_(all.index_select(0, ids).view(value.shape));
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((_, Tensor ids) in _members)
        {
            ids.Dispose();
        }

        _members.Clear();
    }

    // The slices of coupled groups along one axis; running statistics are no parameters and are left out.
    private static IReadOnlyList<ParameterGrouping> Coupled(VisionModel net, int axis)
    {
        Dictionary<string, Parameter> parameters = net.Parameters.ToDictionary(p => p.Name, p => p.Value);
        return [.. net.Groups.Select(g => Coupled(g, axis, parameters))];
    }

    private static ParameterGrouping Coupled(CoupledGroup group, int axis, Dictionary<string, Parameter> parameters)
    {
        var members = new List<(Parameter, long[])>();
        foreach (IGrouping<string, SlicePattern> tensor in group.Patterns.Where(p => p.Axis == axis && parameters.ContainsKey(p.Tensor)).GroupBy(p => p.Tensor))
        {
            Parameter value = parameters[tensor.Key];
            var along = Enumerable.Repeat(-1L, (int)value.shape[axis]).ToArray();
            foreach (SlicePattern pattern in tensor)
            {
                for (int unit = 0; unit < group.Count; unit++)
                {
                    TensorSlice slice = pattern.At(unit);
                    along.AsSpan((int)slice.Start, (int)slice.Length).Fill(unit);
                }
            }

            members.Add((value, Along(value, axis, i => along[i])));
        }

        return new ParameterGrouping(group.Owner, group.Count, members);
    }

    private static ParameterGrouping Along(NetWeight weight, int axis) =>
        new(weight.Name, (int)weight.Value.shape[axis], [(weight.Value, Along(weight.Value, axis, i => i))]);

    private static long[] Along(Parameter value, int axis, Func<long, long> id)
    {
        long inner = value.shape.Skip(axis + 1).Aggregate(1L, (a, b) => a * b), length = value.shape[axis];
        return Ids(value, i => id(i / inner % length));
    }

    private static ParameterGrouping Each(string name, Parameter value, long count, Func<long, long, long> id) => new(name, (int)count, [(value, Ids(value, i => id(i, count)))]);

    private static long[] Ids(Parameter value, Func<long, long> id) => [.. Enumerable.Range(0, (int)value.numel()).Select(i => id(i))];
}
