using System.Buffers.Binary;
using Espalier.Runtime;

namespace Espalier.Sparsity.NormalFloats;

/// <summary>Codes of a few bits one after the other: code i lies at bit i·b, the lowest bit of a byte first. A few zero bytes follow, so that a reader may read eight at once.</summary>
public static class BitStream
{
    /// <summary>The zero bytes after the codes.</summary>
    public const int Padding = 8;

    /// <summary>The bytes of a stream with its padding.</summary>
    /// <param name="count">How many codes.</param>
    /// <param name="bits">Bits of each, 1 to 8.</param>
    public static long Bytes(long count, int bits) => (((count * bits) + 7) / 8) + Padding;

    /// <summary>Packs codes.</summary>
    /// <param name="codes">Each below 2^bits.</param>
    /// <param name="bits">Bits of each, 1 to 8.</param>
    public static byte[] Pack(ReadOnlySpan<byte> codes, int bits)
    {
        EspalierException.Require(bits is >= 1 and <= 8, $"Codes of {bits} bits cannot be packed; use 1 to 8.");
        var stream = new byte[checked((int)Bytes(codes.Length, bits))];
        for (int i = 0; i < codes.Length; i++)
        {
            long bit = (long)i * bits;
            int at = (int)(bit >> 3), shifted = codes[i] << (int)(bit & 7);
            stream[at] |= (byte)shifted;
            stream[at + 1] |= (byte)(shifted >> 8);
        }

        return stream;
    }

    /// <summary>Reads neighbouring codes.</summary>
    /// <param name="stream">As <see cref="Pack"/> made it, padding included.</param>
    /// <param name="bits">Bits of each.</param>
    /// <param name="first">The first code.</param>
    /// <param name="codes">Receives them.</param>
    public static void Unpack(ReadOnlySpan<byte> stream, int bits, long first, Span<byte> codes)
    {
        uint mask = (1u << bits) - 1;
        for (int i = 0; i < codes.Length; i++)
        {
            codes[i] = (byte)(At(stream, (first + i) * bits) & mask);
        }
    }

    /// <summary>The 16 bits of which the first is given; codes are their lowest.</summary>
    internal static uint At(ReadOnlySpan<byte> stream, long bit) => (uint)BinaryPrimitives.ReadUInt16LittleEndian(stream[(int)(bit >> 3)..]) >> (int)(bit & 7);
}
