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

    /// <summary>The scale with which the largest of some values becomes ±127; 1 where all are zero.</summary>
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

    /// <summary>
    /// The scale of some weights in 8 bits, of a row or a block: a bfloat16. Weights that lie on a grid already get a scale that gives them
    /// back exactly. For any others the largest becomes ±127, with the scale rounded up: then each code times the scale is exact in
    /// float32, and what was rounded once is found to lie on its grid again.
    /// </summary>
    public static ushort Int8StoredScale(ReadOnlySpan<float> weights)
    {
        float largest = 0;
        foreach (float w in weights)
        {
            largest = Math.Max(largest, Math.Abs(w));
        }

        if (largest == 0)
        {
            return ToBFloat16(1);
        }

        for (int k = 127; k >= 1; k--)
        {
            ushort exact = ToBFloat16(largest / k);
            if (FromBFloat16(exact) * k == largest && IsOnGrid(weights, FromBFloat16(exact), 127, 127))
            {
                return exact;
            }
        }

        ushort stored = ToBFloat16(largest / 127);
        return (ushort)Math.Max(1, FromBFloat16(stored) * 127 < largest ? stored + 1 : stored);
    }

    /// <summary>
    /// The bfloat16 scale of some weights in 4 bits. Weights that lie on a grid already get a scale that gives them back exactly, any
    /// others of two the one with the smaller squared error: with the first the weight of the largest size becomes -8 (the scale
    /// takes its sign), with the second ±7.
    /// </summary>
    public static ushort Int4Scale(ReadOnlySpan<float> weights)
    {
        float extreme = 0;
        foreach (float w in weights)
        {
            extreme = Math.Abs(w) > Math.Abs(extreme) ? w : extreme;
        }

        for (int k = -8; k <= 7; k++)
        {
            ushort exact = k == 0 ? (ushort)0 : ToBFloat16(extreme / k);
            if (k != 0 && FromBFloat16(exact) * k == extreme && IsOnGrid(weights, FromBFloat16(exact), 8, 7))
            {
                return exact;
            }
        }

        ushort first = ToBFloat16(extreme / -8), second = ToBFloat16(extreme / 7);
        return Int4Error(weights, first) <= Int4Error(weights, second) ? first : second;
    }

    /// <summary>The nearest code; 0 where the scale is 0.</summary>
    public static int Code(float weight, float scale, int below, int above) =>
        scale == 0 ? 0 : (int)Math.Clamp(MathF.Round(weight / scale), -below, above);

    /// <summary>The squared error of rounding some weights.</summary>
    public static double Error(ReadOnlySpan<float> weights, float scale, int below, int above)
    {
        double sum = 0;
        foreach (float w in weights)
        {
            double difference = w - (double)Code(w, scale, below, above) * scale;
            sum += difference * difference;
        }

        return sum;
    }

    private static double Int4Error(ReadOnlySpan<float> weights, ushort stored) => Error(weights, FromBFloat16(stored), 8, 7);

    private static bool IsOnGrid(ReadOnlySpan<float> row, float scale, int below, int above)
    {
        foreach (float w in row)
        {
            if (Code(w, scale, below, above) * scale != w)
            {
                return false;
            }
        }

        return true;
    }
}
