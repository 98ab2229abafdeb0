using System.Text;
using Espalier.Runtime;

namespace Espalier.Checkpoints.Gguf;

/// <summary>
/// The keys and values at the head of a GGUF file, in order. Values are uint, int, ulong, long, float, double, byte, sbyte, ushort,
/// short, bool, string, and arrays of these.
/// </summary>
public sealed class GgufMetadata
{
    private static readonly Type[] Kinds =
    [
        typeof(byte), typeof(sbyte), typeof(ushort), typeof(short), typeof(uint), typeof(int), typeof(float), typeof(bool), typeof(string), typeof(Array), typeof(ulong), typeof(long), typeof(double),
    ];

    // In the file; a text has at least its length.
    private static readonly ulong[] SmallestBytes = [1, 1, 2, 2, 4, 4, 4, 1, 8, 1, 8, 8, 8];

    private const uint StringKind = 8, ArrayKind = 9;
    private readonly List<(string Key, object Value)> entries = [];

    /// <summary>All entries in order.</summary>
    public IReadOnlyList<(string Key, object Value)> Entries => entries;

    /// <summary>Adds an entry.</summary>
    public void Add(string key, object value) => entries.Add((key, value));

    /// <summary>The value of a key, or null.</summary>
    public object? Find(string key) => entries.FirstOrDefault(e => e.Key == key).Value;

    internal void Write(BinaryWriter writer)
    {
        foreach ((string key, object value) in entries)
        {
            WriteText(writer, key);
            if (value is Array array)
            {
                writer.Write(ArrayKind);
                writer.Write(KindOf(array.GetType().GetElementType()!));
                writer.Write((ulong)array.Length);
                foreach (object item in array)
                {
                    WriteValue(writer, item);
                }
            }
            else
            {
                writer.Write(KindOf(value.GetType()));
                WriteValue(writer, value);
            }
        }
    }

    internal static void WriteText(BinaryWriter writer, string text)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        writer.Write((ulong)bytes.Length);
        writer.Write(bytes);
    }

    internal static GgufMetadata Read(GgufCursor cursor, ulong count)
    {
        var metadata = new GgufMetadata();
        var seen = new HashSet<string>(StringComparer.Ordinal);
        for (ulong i = 0; i < count; i++)
        {
            string key = cursor.Text();
            cursor.Require(seen.Add(key), $"its metadata names '{key}' twice");
            uint kind = cursor.Number32();
            metadata.Add(key, kind == ArrayKind ? ReadArray(cursor, key) : ReadValue(cursor, kind, key));
        }

        return metadata;
    }

    private static Array ReadArray(GgufCursor cursor, string key)
    {
        uint kind = cursor.Number32();
        cursor.Require(kind < Kinds.Length && kind != ArrayKind, $"its metadata '{key}' is a list of an unknown kind ({kind})");
        ulong length = cursor.Number64();
        // Every item takes some bytes, so a length beyond the file's end is a lie and no reason to take memory.
        cursor.Require(length <= (ulong)cursor.Left / SmallestBytes[kind], $"its metadata '{key}' claims {length} items, more than the file has bytes");
        var array = Array.CreateInstance(Kinds[kind], (int)length);
        for (int i = 0; i < array.Length; i++)
        {
            array.SetValue(ReadValue(cursor, kind, key), i);
        }

        return array;
    }

    private static object ReadValue(GgufCursor cursor, uint kind, string key)
    {
        cursor.Require(kind < Kinds.Length && kind != ArrayKind, $"its metadata '{key}' is of an unknown kind ({kind})");
        return kind switch
        {
            0 => cursor.Bytes(1)[0],
            1 => (sbyte)cursor.Bytes(1)[0],
            2 => BitConverter.ToUInt16(cursor.Bytes(2)),
            3 => BitConverter.ToInt16(cursor.Bytes(2)),
            4 => cursor.Number32(),
            5 => (int)cursor.Number32(),
            6 => BitConverter.ToSingle(cursor.Bytes(4)),
            7 => cursor.Bytes(1)[0] != 0,
            StringKind => cursor.Text(),
            10 => cursor.Number64(),
            11 => (long)cursor.Number64(),
            _ => BitConverter.ToDouble(cursor.Bytes(8)),
        };
    }

    private static uint KindOf(Type type)
    {
        int kind = Array.IndexOf(Kinds, type);
        EspalierException.Require(kind >= 0 && kind != ArrayKind, $"GGUF metadata cannot hold values of type {type.Name}.");
        return (uint)kind;
    }

    private static void WriteValue(BinaryWriter writer, object value)
    {
        switch (value)
        {
            case string text: WriteText(writer, text); break;
            case byte number: writer.Write(number); break;
            case sbyte number: writer.Write(number); break;
            case ushort number: writer.Write(number); break;
            case short number: writer.Write(number); break;
            case uint number: writer.Write(number); break;
            case int number: writer.Write(number); break;
            case ulong number: writer.Write(number); break;
            case long number: writer.Write(number); break;
            case float number: writer.Write(number); break;
            case double number: writer.Write(number); break;
            default: writer.Write((bool)value); break;
        }
    }
}

/// <summary>Reads the head of a GGUF file front to back and believes nothing.</summary>
internal sealed class GgufCursor(string path, Stream stream)
{
    private const ulong LongestText = 1 << 26;

    /// <summary>The bytes that follow.</summary>
    public long Left => stream.Length - stream.Position;

    public long Position => stream.Position;

    public uint Number32() => BitConverter.ToUInt32(Bytes(4));

    public ulong Number64() => BitConverter.ToUInt64(Bytes(8));

    public string Text()
    {
        ulong length = Number64();
        Require(length <= LongestText && length <= (ulong)Left, $"a text in its head claims {length} bytes");
        return Encoding.UTF8.GetString(Bytes((int)length));
    }

    public byte[] Bytes(int count)
    {
        Require(Left >= count, "it ends within its head: the file was cut short");
        byte[] bytes = new byte[count];
        stream.ReadExactly(bytes);
        return bytes;
    }

    public void Require(bool holds, string what) =>
        EspalierException.Require(holds, $"{path} is not a sound GGUF file: {what}; download it again or export it anew.");
}
