namespace Espalier.Sparsity.Packed;

/// <summary>Rounding to the packed types.</summary>
internal static class Quantiser
{
    /// <summary>The upper half of a float32, rounded to the nearest even.</summary>
    public static ushort ToBFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return (ushort)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }

    public static float FromBFloat16(ushort value) => BitConverter.UInt32BitsToSingle((uint)value << 16);

    /// <summary>The scale with which the largest weight of a row becomes ±127; 1 for a row of zeros.</summary>
    public static float Int8Scale(ReadOnlySpan<float> row)
    {
        float largest = 0;
        foreach (float w in row)
        {
            largest = Math.Max(largest, Math.Abs(w));
        }

        float scale = largest / 127;
        return scale > 0 ? scale : 1;
    }

    /// <summary>The bfloat16 scale of some weights in 8 bits, rounded up so that the largest is not cut.</summary>
    public static ushort Int8BlockScale(ReadOnlySpan<float> weights)
    {
        float exact = Int8Scale(weights);
        ushort stored = ToBFloat16(exact);
        return (ushort)(FromBFloat16(stored) < exact ? stored + 1 : stored);
    }

    /// <summary>
    /// The bfloat16 scale of some weights in 4 bits: of two the one with the smaller squared error. With the first the weight of the
    /// largest size becomes -8 (the scale takes its sign), with the second ±7.
    /// </summary>
    public static ushort Int4Scale(ReadOnlySpan<float> weights)
    {
        float extreme = 0;
        foreach (float w in weights)
        {
            extreme = Math.Abs(w) > Math.Abs(extreme) ? w : extreme;
        }

        ushort first = ToBFloat16(extreme / -8), second = ToBFloat16(extreme / 7);
        return Error(weights, first) <= Error(weights, second) ? first : second;
    }

    /// <summary>The nearest code; 0 where the scale is 0.</summary>
    public static int Code(float weight, float scale, int below, int above) =>
        scale == 0 ? 0 : (int)Math.Clamp(MathF.Round(weight / scale), -below, above);

    private static double Error(ReadOnlySpan<float> weights, ushort stored)
    {
        float scale = FromBFloat16(stored);
        double sum = 0;
        foreach (float w in weights)
        {
            double difference = w - (double)Code(w, scale, 8, 7) * scale;
            sum += difference * difference;
        }

        return sum;
    }
}
