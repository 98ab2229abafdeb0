using System.Buffers.Binary;
using Espalier.Runtime;
using static TorchSharp.torch;

namespace Espalier.Checkpoints.Gguf;

/// <summary>The element types of GGUF that are written and read here; the numbers are those of the format.</summary>
public enum GgufType
{
    /// <summary>32-bit floats.</summary>
    F32 = 0,

    /// <summary>16-bit floats.</summary>
    F16 = 1,

    /// <summary>4 bits a weight: blocks of 32 with a 16-bit scale, −8 to 7.</summary>
    Q4_0 = 2,

    /// <summary>8 bits a weight: blocks of 32 with a 16-bit scale, −127 to 127.</summary>
    Q8_0 = 8,

    /// <summary>The upper half of 32-bit floats.</summary>
    BF16 = 30,
}

/// <summary>How the values of each type lie in a file.</summary>
internal static class GgufTypes
{
    /// <summary>Weights in a block of a quantised type.</summary>
    public const int BlockLength = 32;

    public static bool IsQuantized(GgufType type) => type is GgufType.Q4_0 or GgufType.Q8_0;

    /// <summary>Bytes of a tensor, or null where its rows do not fall into whole blocks.</summary>
    public static long? ByteCount(GgufType type, IReadOnlyList<long> shape)
    {
        long count = shape.Aggregate(1L, (a, b) => checked(a * b));
        return type switch
        {
            GgufType.F32 => checked(count * 4),
            GgufType.F16 or GgufType.BF16 => checked(count * 2),
            _ when shape.Count == 0 || shape[^1] % BlockLength != 0 => null,
            _ => checked(count / BlockLength * BlockBytes(type)),
        };
    }

    public static int BlockBytes(GgufType type) => type == GgufType.Q4_0 ? 18 : 34;

    /// <summary>Some values as they lie in the file.</summary>
    public static byte[] Encode(GgufType type, ReadOnlySpan<float> values) => type switch
    {
        GgufType.Q4_0 or GgufType.Q8_0 => Quantize(type, values),
        _ => throw new ArgumentOutOfRangeException(nameof(type)),
    };

    /// <summary>The values of whole blocks.</summary>
    public static void Decode(GgufType type, ReadOnlySpan<byte> bytes, Span<float> values)
    {
        int size = BlockBytes(type);
        for (int block = 0; block < values.Length / BlockLength; block++)
        {
            ReadOnlySpan<byte> from = bytes.Slice(block * size, size);
            Span<float> to = values.Slice(block * BlockLength, BlockLength);
            float scale = (float)BinaryPrimitives.ReadHalfLittleEndian(from);
            for (int i = 0; i < BlockLength; i++)
            {
                int q = type == GgufType.Q8_0 ? (sbyte)from[2 + i] : i < 16 ? (from[2 + i] & 15) - 8 : (from[2 + i - 16] >> 4) - 8;
                to[i] = q * scale;
            }
        }
    }

    /// <summary>The torch type of a type that is no quantised one.</summary>
    public static ScalarType ScalarTypeOf(GgufType type) => type switch
    {
        GgufType.F16 => ScalarType.Float16,
        GgufType.BF16 => ScalarType.BFloat16,
        _ => ScalarType.Float32,
    };

    /// <summary>The name in files' listings.</summary>
    public static string NameOf(GgufType type) => type.ToString();

    /// <summary>The type of a number in a file.</summary>
    public static GgufType? Known(uint number) => Enum.IsDefined((GgufType)number) ? (GgufType)number : null;

    // As ggml's reference quantisers: the scale is taken in float32, the quotients use its float32 inverse, only the
    // stored scale is rounded to 16 bits. Q8_0 rounds halves away from zero. Q4_0 makes the value of greatest size −8
    // (the first among equals), adds 8.5 and cuts.
    private static byte[] Quantize(GgufType type, ReadOnlySpan<float> values)
    {
        int size = BlockBytes(type);
        byte[] bytes = new byte[values.Length / BlockLength * size];
        for (int block = 0; block < values.Length / BlockLength; block++)
        {
            ReadOnlySpan<float> from = values.Slice(block * BlockLength, BlockLength);
            Span<byte> to = bytes.AsSpan(block * size, size);
            float largest = 0;
            foreach (float value in from)
            {
                largest = MathF.Abs(value) > MathF.Abs(largest) ? value : largest;
            }

            float scale = type == GgufType.Q8_0 ? MathF.Abs(largest) / 127 : largest / -8;
            float inverse = scale == 0 ? 0 : 1 / scale;
            BinaryPrimitives.WriteHalfLittleEndian(to, (Half)scale);
            for (int i = 0; i < BlockLength; i++)
            {
                float quotient = from[i] * inverse;
                if (type == GgufType.Q8_0)
                {
                    to[2 + i] = (byte)(sbyte)MathF.Round(quotient, MidpointRounding.AwayFromZero);
                }
                else
                {
                    int q = Math.Min(15, (int)(quotient + 8.5f));
                    to[2 + (i % 16)] |= (byte)(i < 16 ? q : q << 4);
                }
            }
        }

        return bytes;
    }
}

/// <summary>A tensor in a GGUF file. The shape is the usual one, rows first; the file itself stores it reversed.</summary>
/// <param name="Name">Its name there.</param>
/// <param name="Type">How its values are stored.</param>
/// <param name="Shape">Its dimensions.</param>
public sealed record GgufTensor(string Name, GgufType Type, IReadOnlyList<long> Shape)
{
    /// <summary>The bytes that it takes.</summary>
    public long ByteCount => GgufTypes.ByteCount(Type, Shape)
        ?? throw new EspalierException($"Tensor '{Name}' has rows of {Shape[^1]} values, which {Type} cannot store: its blocks hold 32; choose f16.");
}
