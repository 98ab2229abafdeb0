using System.Globalization;
using TorchSharp;
using static TorchSharp.torch;

namespace Espalier.Models;

/// <summary>What a coupled unit is.</summary>
public enum CoupledKind
{
    /// <summary>One attention head with its own keys and values.</summary>
    AttentionHead,

    /// <summary>One key-value head with all query heads that it serves.</summary>
    KeyValueGroup,

    /// <summary>One neuron of the feed-forward part.</summary>
    Neuron,

    /// <summary>One channel of the residual stream, through the whole model.</summary>
    HiddenChannel,

    /// <summary>One channel of a feature map, in every convolution that writes or reads it.</summary>
    Channel,
}

/// <summary>A run of rows, columns or entries of one tensor.</summary>
/// <param name="Tensor">The tensor's checkpoint name.</param>
/// <param name="Axis">The axis in the stored layout: 0 rows, 1 columns.</param>
/// <param name="Start">The first index.</param>
/// <param name="Length">How many.</param>
public sealed record TensorSlice(string Tensor, int Axis, long Start, long Length)
{
    /// <summary>As in "up_proj.weight rows 17".</summary>
    public override string ToString()
    {
        string[] parts = Tensor.Split('.');
        string shortName = string.Join('.', parts[^Math.Min(2, parts.Length)..]);
        string axis = Tensor.EndsWith(".bias", StringComparison.Ordinal) ? "entries" : Axis == 0 ? "rows" : "columns";
        string range = Length == 1 ? $"{Start}" : $"{Start}-{Start + Length - 1}";
        return string.Create(CultureInfo.InvariantCulture, $"{shortName} {axis} {range}");
    }
}

/// <summary>Where the units of a group lie in one tensor: unit i is [Offset + i·Stride, Offset + i·Stride + Length).</summary>
/// <param name="Tensor">The tensor's checkpoint name.</param>
/// <param name="Axis">The axis in the stored layout: 0 rows, 1 columns.</param>
/// <param name="Offset">Where unit 0 begins.</param>
/// <param name="Length">How much of the axis one unit takes.</param>
/// <param name="Stride">From one unit to the next.</param>
public sealed record SlicePattern(string Tensor, int Axis, long Offset = 0, long Length = 1, long Stride = 1)
{
    /// <summary>The slice of one unit.</summary>
    public TensorSlice At(long unit) => new(Tensor, Axis, Offset + (unit * Stride), Length);

    /// <summary>Units that a linear map puts out: rows of W [out, in], and entries of its bias.</summary>
    internal static IEnumerable<SlicePattern> Outputs(string name, Linear linear, long length, long offset = 0)
    {
        yield return new SlicePattern($"{name}.weight", linear.Layout is WeightLayout.OutIn ? 0 : 1, offset, length, length);
        if (linear.bias is not null)
        {
            yield return new SlicePattern($"{name}.bias", 0, offset, length, length);
        }
    }

    /// <summary>Units that a linear map reads: columns of W [out, in].</summary>
    internal static SlicePattern Inputs(string name, Linear linear, long length) =>
        new($"{name}.weight", linear.Layout is WeightLayout.OutIn ? 1 : 0, 0, length, length);

    /// <summary>Single entries of every vector of a layer: the channels of a norm.</summary>
    internal static IEnumerable<SlicePattern> Whole(string name, nn.Module module) =>
        module.named_parameters().Select(p => new SlicePattern($"{name}.{p.name}", Axis: 0));
}

/// <summary>
/// Units that exist in several tensors at once and can only be cut out of all of them together. Cutting the slices of
/// a head or a neuron gives the same function as forcing its output to zero.
/// </summary>
/// <param name="Kind">What a unit is.</param>
/// <param name="Owner">What the units belong to ("model.layers.0.mlp").</param>
/// <param name="Count">How many units there are.</param>
/// <param name="Patterns">Where they lie; the map that reads the units stands last.</param>
public sealed record CoupledGroup(CoupledKind Kind, string Owner, int Count, IReadOnlyList<SlicePattern> Patterns)
{
    /// <summary>Where the units lie in the map that reads them: its inputs. What a unit puts out flows there and nowhere else.</summary>
    public SlicePattern Reader => Patterns[^1];

    /// <summary>The slices of one unit.</summary>
    /// <exception cref="ArgumentOutOfRangeException">When there is no such unit.</exception>
    public IReadOnlyList<TensorSlice> Slices(int unit)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(unit);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(unit, Count);
        return [.. Patterns.Select(p => p.At(unit))];
    }

    /// <summary>A tensor without some units; one that the group does not touch comes back as a copy.</summary>
    /// <param name="name">The tensor's checkpoint name.</param>
    /// <param name="tensor">Its values, in the stored layout.</param>
    /// <param name="units">The units to leave out.</param>
    /// <returns>A new tensor, shorter along the group's axis.</returns>
    /// <exception cref="ArgumentOutOfRangeException">When there is no such unit.</exception>
    public Tensor Cut(string name, Tensor tensor, IReadOnlyCollection<int> units)
    {
        using var scope = NewDisposeScope();
        Tensor result = tensor.clone();
        // All slices of one axis at once: cutting one would move those behind it (GPT-2's queries, keys and values).
        foreach (IGrouping<int, TensorSlice> axis in units.SelectMany(Slices).Where(s => s.Tensor == name).GroupBy(s => s.Axis))
        {
            HashSet<long> gone = [.. axis.SelectMany(s => Enumerable.Range(0, (int)s.Length).Select(i => s.Start + i))];
            long[] kept = [.. Enumerable.Range(0, (int)result.shape[axis.Key]).Select(i => (long)i).Where(i => !gone.Contains(i))];
            result = result.index_select(axis.Key, torch.tensor(kept, device: result.device));
        }

        return result.MoveToOuterDisposeScope();
    }

    /// <summary>As in "neuron 17: gate_proj.weight rows 17, up_proj.weight rows 17, down_proj.weight columns 17".</summary>
    public string Describe(int unit) => $"{Noun} {unit}: {string.Join(", ", Slices(unit))}";

    /// <summary>As in "56 × neuron of model.layers.0.mlp".</summary>
    public override string ToString() => $"{Count} × {Noun} of {Owner}";

    private string Noun => Kind switch
    {
        CoupledKind.AttentionHead => "attention head",
        CoupledKind.KeyValueGroup => "key-value group",
        CoupledKind.Neuron => "neuron",
        CoupledKind.Channel => "channel",
        _ => "hidden channel",
    };
}
