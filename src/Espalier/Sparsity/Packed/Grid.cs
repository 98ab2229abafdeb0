using static TorchSharp.torch;

namespace Espalier.Sparsity.Packed;

/// <summary>Rounding of dense weights to numbers that a packed type holds exactly (docs/packed-format.md), so that packing gives them back bit by bit.</summary>
internal static unsafe class Grid
{
    /// <summary>Rounds every weight to the nearest number of the grid that packing would choose; zeros stay zeros.</summary>
    /// <param name="weight">[out, in], float32; stays as it is.</param>
    /// <param name="type">int8 or int4.</param>
    /// <param name="before">The same weights as they lay on a grid before they changed, [out, in]: their scales are weighed too, so that what hardly moved stays; null for none.</param>
    /// <returns>[out, in], float32.</returns>
    public static Tensor Round(Tensor weight, PackedType type, Tensor? before = null)
    {
        using var scope = NewDisposeScope();
        Tensor rounded = weight.detach().to(CPU).to(ScalarType.Float32).clone().contiguous();
        Tensor? old = before?.detach().to(CPU).to(ScalarType.Float32).contiguous();
        int columns = (int)rounded.shape[1], group = GroupOf(type, columns);
        float* to = TensorMemory.Pointer<float>(rounded), from = old is null ? null : TensorMemory.Pointer<float>(old);
        for (long at = 0; at < rounded.numel(); at += columns)
        {
            for (int start = 0; start < columns; start += group)
            {
                int width = Math.Min(group, columns - start);
                var values = new Span<float>(to + at + start, width);
                Round(values, type, from is null ? [] : new ReadOnlySpan<float>(from + at + start, width));
            }
        }

        GC.KeepAlive(old);
        return rounded.to(weight.device).MoveToOuterDisposeScope();
    }

    /// <summary>How many columns share a scale.</summary>
    public static int GroupOf(PackedType type, int columns) => type is PackedType.Int8 ? Math.Max(1, columns) : RowCodec.Block;

    /// <summary>The scale for the weights of a group.</summary>
    public static float Scale(PackedType type, ReadOnlySpan<float> weights) =>
        type is PackedType.Int8 ? Quantiser.FromBFloat16(Quantiser.Int8StoredScale(weights)) : Quantiser.FromBFloat16(Quantiser.Int4Scale(weights));

    /// <summary>The number of the grid that is nearest to a weight.</summary>
    public static float Nearest(PackedType type, float weight, float scale)
    {
        (int below, int above) = Codes(type);
        return (Quantiser.Code(weight, scale, below, above) * scale) + 0f; // 0 and never -0
    }

    private static void Round(Span<float> values, PackedType type, ReadOnlySpan<float> before)
    {
        (int below, int above) = Codes(type);
        float scale = Scale(type, values);
        if (before.Length > 0)
        {
            float old = Scale(type, before);
            scale = Quantiser.Error(values, old, below, above) < Quantiser.Error(values, scale, below, above) ? old : scale;
        }

        foreach (ref float value in values)
        {
            value = Nearest(type, value, scale);
        }
    }

    private static (int Below, int Above) Codes(PackedType type) => type is PackedType.Int8 ? (127, 127) : (8, 7);
}
