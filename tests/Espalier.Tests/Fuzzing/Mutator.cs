using System.Buffers.Binary;
using System.Text;

namespace Espalier.Tests.Fuzzing;

/// <summary>Changes files: bits, numbers at and beyond the borders, pieces that are lost, doubled, moved or come from another file.</summary>
internal sealed class Mutator(Random random)
{
    private static readonly long[] Numbers =
    [
        0, 1, -1, 2, 7, 8, 16, 31, 32, 63, 64, 127, 128, 255, 256, 4095, 65535, 65536, 1 << 20, (1 << 24) + 1, 100_000_001, int.MaxValue - 63, int.MaxValue, int.MinValue,
        uint.MaxValue, 1L << 32, 1L << 40, 1L << 60, 1L << 61, 1L << 62, long.MaxValue - 8, long.MaxValue, long.MinValue,
    ];

    private static readonly string[] Words =
    [
        "0", "-1", "1.5", "1e400", "NaN", "null", "true", "{}", "[]", "\"\"", "\"x\"", "[[[[[[[[", "{\"a\":", "\"\\ud800\"", "\\u0000", "\"dtype\":\"F64\"", "F8_E4M3", "BF16", "I64", "BOOL", "U8",
        "..", "../", "/", "\\", "\0", "__metadata__", "format", "transposed", "dense", "2:4", "int4", "int8", "x", " ", "\n", ",", ":", "(", "(?:", "(a+)+$", "[^", "*", "\u00e9", "\U0001F600", "99999999999999999999", "4294967296x4294967296",
        "&a [*a,*a]", "!!", "- ", "? ", "|", ">", "<<: *a",
    ];

    /// <summary>A changed copy.</summary>
    /// <param name="seed">The file to start from.</param>
    /// <param name="other">Another file, for pieces.</param>
    /// <param name="kind">What it is made of.</param>
    public byte[] Change(byte[] seed, byte[] other, FuzzKind kind)
    {
        int rounds = 1 << random.Next(4);
        if (kind is FuzzKind.SafeTensors && seed.Length > 8 && random.Next(8) != 0)
        {
            long length = BinaryPrimitives.ReadInt64LittleEndian(seed);
            if (length > 0 && length <= seed.Length - 8)
            {
                byte[] header = seed[8..(8 + (int)length)], data = seed[(8 + (int)length)..];
                (header, data) = random.Next(3) == 0 ? (header, Rounds(data, other, FuzzKind.Binary, rounds)) : (Rounds(header, other, FuzzKind.Text, rounds), data);
                byte[] prefix = new byte[8];
                BinaryPrimitives.WriteInt64LittleEndian(prefix, header.Length);
                return [.. prefix, .. header, .. data];
            }
        }

        return Rounds(seed, other, kind, rounds);
    }

    private byte[] Rounds(byte[] seed, byte[] other, FuzzKind kind, int rounds)
    {
        byte[] value = seed;
        for (int i = 0; i < rounds; i++)
        {
            value = kind is FuzzKind.Binary || random.Next(3) == 0 ? Bytes(value, other) : Text(value);
        }

        return value.Length > 1 << 16 ? value[..(1 << 16)] : value;
    }

    private byte[] Bytes(byte[] value, byte[] other)
    {
        if (value.Length == 0)
        {
            return [(byte)random.Next(256)];
        }

        value = [.. value];
        int at = random.Next(value.Length), length = Math.Min(value.Length - at, 1 << random.Next(8));
        switch (random.Next(9))
        {
            case 0:
                value[at] ^= (byte)(1 << random.Next(8));
                return value;
            case 1:
                value[at] = (byte)random.Next(256);
                return value;
            case 2:
                byte[] number = new byte[8];
                BinaryPrimitives.WriteInt64LittleEndian(number, Numbers[random.Next(Numbers.Length)]);
                int width = 1 << random.Next(4);
                number.AsSpan(0, Math.Min(width, value.Length - at)).CopyTo(value.AsSpan(at));
                return value;
            case 3:
                return value[..at];
            case 4:
                return [.. value[..at], .. value[(at + length)..]];
            case 5:
                return [.. value[..(at + length)], .. value[at..]];
            case 6:
                int to = random.Next(value.Length);
                value.AsSpan(at, Math.Min(length, value.Length - to)).ToArray().CopyTo(value, to);
                return value;
            case 7 when other.Length > 0:
                int from = random.Next(other.Length);
                return [.. value[..at], .. other[from..Math.Min(other.Length, from + length)], .. value[at..]];
            default:
                value[at] += (byte)(random.Next(2) == 0 ? 1 : 255);
                return value;
        }
    }

    private byte[] Text(byte[] value)
    {
        // A number of the text becomes another, or a word takes the place of a piece.
        int at = value.Length == 0 ? 0 : random.Next(value.Length);
        int digit = at;
        while (digit < value.Length && value[digit] is < (byte)'0' or > (byte)'9')
        {
            digit++;
        }

        if (digit < value.Length && random.Next(2) == 0)
        {
            int end = digit;
            while (end < value.Length && value[end] is >= (byte)'0' and <= (byte)'9')
            {
                end++;
            }

            long number = random.Next(3) == 0 && end - digit < 18 ? long.Parse(Encoding.ASCII.GetString(value, digit, end - digit), System.Globalization.CultureInfo.InvariantCulture) + random.Next(-2, 3) : Numbers[random.Next(Numbers.Length)];
            return [.. value[..digit], .. Encoding.ASCII.GetBytes(number.ToString(System.Globalization.CultureInfo.InvariantCulture)), .. value[end..]];
        }

        int length = Math.Min(value.Length - at, random.Next(2) == 0 ? 0 : 1 << random.Next(5));
        return [.. value[..at], .. Encoding.UTF8.GetBytes(Words[random.Next(Words.Length)]), .. value[(at + length)..]];
    }
}
