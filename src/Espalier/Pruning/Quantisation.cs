using Espalier.Checkpoints;
using Espalier.Runtime;
using Espalier.Sparsity;
using Espalier.Sparsity.Packed;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>
/// Rounding of the kept weights to numbers that <c>espalier pack</c> stores exactly. The written checkpoint is an ordinary dense one; these weights
/// are float32 in it, because bfloat16 and float16 would not hold a code times its scale.
/// </summary>
public sealed record Quantisation
{
    /// <summary>int8 (a scale per row) or int4 (a bfloat16 scale per 64 columns).</summary>
    /// <exception cref="EspalierException">For a type without a grid.</exception>
    public required PackedType Type
    {
        get;
        init
        {
            EspalierException.Require(PackedTypes.IsInteger(value), $"Weights are quantised to int8 or int4; {PackedTypes.WordOf(value)} holds them without.");
            field = value;
        }
    }

    /// <summary>How weights are rounded; default to the nearest.</summary>
    public IWeightQuantiser Method { get; init; } = new RoundToNearest();
}

/// <summary>What quantisation came to.</summary>
/// <param name="Type">int8 or int4.</param>
/// <param name="PackedBytes">What the quantised weights take once packed.</param>
/// <param name="BitsPerWeight">The same per dense weight, in bits.</param>
/// <param name="RoundedToZero">Weights that the masks keep and that are 0 now: packed they take no room, and packing takes them for pruned.</param>
public sealed record QuantisationReport(string Type, long PackedBytes, double BitsPerWeight, long RoundedToZero)
{
    /// <summary>Packs the weights of a written model in memory and compares.</summary>
    /// <exception cref="EspalierException">When packing would change a weight.</exception>
    internal static QuantisationReport Of(ITensorSource written, IPrunedModel pruned, PackedType type)
    {
        long bytes = 0, weights = 0, zero = 0;
        foreach ((string name, bool transposed) in Packer.Linears(pruned.Config))
        {
            using var scope = NewDisposeScope();
            using PackedMatrix packed = Packer.Read(written, name, transposed, type);
            Tensor dense = written.Read(name, ScalarType.Float32), stored = packed.ToTensor();
            EspalierException.Require((transposed ? dense.t() : dense).eq(stored).all().item<bool>(),
                $"{name} does not lie on the grid of {PackedTypes.WordOf(type)}, so packing would change it; this is a fault of the quantiser, please report it.");
            bytes += packed.StoredBytes;
            weights += dense.numel();
            zero += pruned.Mask(name).Kept - packed.Kept;
        }

        return new QuantisationReport(PackedTypes.WordOf(type), bytes, bytes * 8.0 / Math.Max(1, weights), zero);
    }

    /// <summary>As a sentence.</summary>
    public override string ToString() =>
        FormattableString.Invariant($"Packed as {Type} (espalier pack --type {Type}) these weights take {Text.Bytes(PackedBytes)}, {BitsPerWeight:0.00} bits each, and come back bit by bit; {Text.Count(RoundedToZero)} kept weights were rounded to 0.");
}

/// <summary>A checkpoint whose weights of some names are written as float32.</summary>
internal sealed class WidenedSource(ITensorSource inner, IReadOnlyCollection<string> names) : ITensorSource
{
    private readonly HashSet<string> _names = [.. names];

    public IReadOnlyList<string> Names => inner.Names;

    public bool Contains(string name) => inner.Contains(name);

    public TensorInfo Info(string name) => inner.Info(name) is var info && _names.Contains(name) ? ElementTypes.Plan(name, "F32", info.Shape) : inner.Info(name);

    public Tensor Read(string name, ScalarType? type = null) => inner.Read(name, type ?? (_names.Contains(name) ? ScalarType.Float32 : null));
}
