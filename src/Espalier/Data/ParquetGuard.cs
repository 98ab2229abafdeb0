using System.Buffers.Binary;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>
/// Looks over a parquet file before a reader believes it: no list longer than the bytes that hold it, no schema deep enough to end the stack,
/// no page outside the file, none that claims to unpack to far more than it holds, no column of more values than the file's size justifies,
/// no field of another kind than the format says.
/// </summary>
/// <remarks>
/// The structures are Thrift's compact protocol; the numbers of fields are those of Apache Parquet's parquet.thrift. Kinds matter because Parquet.Net 6.1.0
/// reads a field by its number alone and passes over unknown structures, maps and lists of booleans wrongly: it then reads beyond the end, where a number never ends.
/// </remarks>
internal sealed class ParquetGuard
{
    private const int LongestFooter = 256 << 20, Deepest = 64;
    private const long FreeValues = 1 << 20, ValuesPerByte = 256, FreePage = 8 << 20, PagePerByte = 256;

    // By number from 1: n a whole number, y a byte, d a double, t text or bytes, b a boolean, a name a structure, [ a list of what follows, - no such field.
    private static readonly Dictionary<string, string[]> Layouts = new Dictionary<string, string>
    {
        ["Footer"] = "n [Schema n [RowGroup [Pair t [Order Encryption t",
        ["Schema"] = "n n n t n n n n n Logical",
        ["Logical"] = "Empty Empty Empty Empty Decimal Empty Time Time - Integer Empty Empty Empty Empty Empty Variant Geometry Geography",
        ["Decimal"] = "n n",
        ["Time"] = "b Unit",
        ["Unit"] = "Empty Empty Empty",
        ["Integer"] = "y b",
        ["Variant"] = "y",
        ["Geometry"] = "t",
        ["Geography"] = "t n",
        ["RowGroup"] = "[Chunk n n [Sorting n n n",
        ["Chunk"] = "t n Column n n n n Crypto t",
        ["Column"] = "n [n [t n n n n [Pair n n n Statistics [Encoding n n Sizes Places",
        ["Pair"] = "t t",
        ["Sorting"] = "n b b",
        ["Encoding"] = "n n n",
        ["Statistics"] = "t t n n t t b b",
        ["Sizes"] = "n [n [n",
        ["Places"] = "Box [n",
        ["Box"] = "d d d d d d d d",
        ["Crypto"] = "Empty Key",
        ["Key"] = "[t t",
        ["Order"] = "Empty",
        ["Encryption"] = "Aes Aes",
        ["Aes"] = "t t b",
        ["Page"] = "n n n n Data Empty Dictionary Data2",
        ["Data"] = "n n n n Statistics",
        ["Dictionary"] = "n n b",
        ["Data2"] = "n n n n n n b Statistics",
        ["Empty"] = "",
    }.ToDictionary(l => l.Key, l => l.Value.Split(' ', StringSplitOptions.RemoveEmptyEntries), StringComparer.Ordinal);

    private readonly string path;
    private readonly Stream stream;
    private readonly List<Column> columns = [];
    private readonly Stack<long> open = new();
    private Column column = new();
    private long children;

    private ParquetGuard(string path, Stream stream)
    {
        this.path = path;
        this.stream = stream;
    }

    /// <summary>Checks a file.</summary>
    /// <exception cref="EspalierException">When it is damaged or lies about its sizes.</exception>
    public static void Check(string path)
    {
        using FileStream stream = new(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, 1 << 12);
        new ParquetGuard(path, stream).Check();
    }

    private void Check()
    {
        byte[] tail = stream.Length >= 12 ? At(stream.Length - 8, 8) : [];
        Require(tail.Length == 8 && tail.AsSpan(4).SequenceEqual("PAR1"u8), "it does not end with PAR1");
        uint length = BinaryPrimitives.ReadUInt32LittleEndian(tail);
        Require(length <= LongestFooter && length <= stream.Length - 12, $"its footer claims {length} bytes");
        new ThriftWalk(this, At(stream.Length - 8 - length, (int)length)) { Number = FooterNumber, End = FooterEnd }.Struct("", 0, "Footer");
        foreach (Column found in columns)
        {
            CheckPages(found);
        }
    }

    private void FooterNumber(string field, long value)
    {
        switch (field)
        {
            case "/2/5": children = value; break;
            case "/4/1/3/5": column.Values = value; break;
            case "/4/1/3/9": column.Data = value; break;
            case "/4/1/3/11": column.Dictionary = value; break;
        }
    }

    private void FooterEnd(string field)
    {
        if (field == "/4/1/3")
        {
            columns.Add(column);
            column = new Column();
        }
        else if (field == "/2")
        {
            // The schema is a tree, written node by node with the number of each one's children.
            while (open.TryPeek(out long left) && left == 0)
            {
                open.Pop();
            }

            if (open.TryPop(out long rest))
            {
                open.Push(rest - 1);
            }

            if (children > 0)
            {
                open.Push(children);
                Require(open.Count <= Deepest, $"its schema is deeper than {Deepest} levels");
            }

            children = 0;
        }
    }

    private void CheckPages(Column of)
    {
        Require(of.Values >= 0 && of.Values <= FreeValues + (ValuesPerByte * stream.Length), $"a column claims {of.Values} values in a file of {stream.Length} bytes");
        long at = of.Dictionary is > 0 ? Math.Min(of.Dictionary.Value, of.Data) : of.Data, seen = 0;
        while (seen < of.Values)
        {
            Require(at >= 4 && at < stream.Length - 8, "a page lies outside the file");
            var page = new Page();
            var walk = new ThriftWalk(this, At(at, (int)Math.Min(stream.Length - 8 - at, 1 << 16)));
            walk.Number = (field, value) =>
            {
                switch (field)
                {
                    case "/1": page.Kind = value; break;
                    case "/2": page.Unpacked = value; break;
                    case "/3": page.Packed = value; break;
                    case "/5/1" or "/8/1": page.Values = value; break;
                    case "/7/1": page.Entries = value; break;
                }
            };
            walk.Struct("", 0, "Page");
            at += walk.Position;
            Require(page.Packed >= 0 && page.Packed <= stream.Length - 8 - at, "a page ends outside the file");
            Require(page.Unpacked >= 0 && page.Unpacked <= FreePage + (PagePerByte * page.Packed), $"a page of {page.Packed} bytes claims to unpack to {page.Unpacked}");
            Require(page.Values >= 0 && page.Values <= of.Values - seen && page.Entries >= 0 && page.Entries <= 8 * (page.Unpacked + 1), "a page claims more values than it can hold");
            Require(page.Kind != 0 && page.Kind != 3 || page.Values > 0, "a page holds nothing");
            at += page.Packed;
            seen += page.Values;
        }
    }

    private byte[] At(long position, int count)
    {
        byte[] bytes = new byte[count];
        stream.Position = position;
        stream.ReadExactly(bytes);
        return bytes;
    }

    private void Require(bool holds, string what) =>
        EspalierException.Require(holds, $"\"{path}\" is no whole parquet file ({what}): it is damaged or was not downloaded to the end; fetch it again.");

    private sealed class Column
    {
        public long Values, Data;
        public long? Dictionary;
    }

    private sealed class Page
    {
        public long Kind, Unpacked, Packed, Values, Entries;
    }

    /// <summary>Passes over a structure and names the numbers in it by the path of their fields; items of lists share their list's path.</summary>
    private sealed class ThriftWalk(ParquetGuard guard, byte[] bytes)
    {
        private int at;

        public Action<string, long> Number { get; set; } = (_, _) => { };

        public Action<string> End { get; init; } = _ => { };

        public int Position => at;

        public void Struct(string path, int depth, string layout)
        {
            guard.Require(depth <= Deepest, "its head is too deep");
            string[] fields = Layouts[layout];
            long field = 0;
            while (Byte() is var head && head != 0)
            {
                field = head >> 4 == 0 ? Signed() : field + (head >> 4);
                guard.Require(field is >= short.MinValue and <= short.MaxValue, "its head numbers a field beyond all fields");
                string? expected = field >= 1 && field <= fields.Length && fields[field - 1] != "-" ? fields[field - 1] : null;
                Value(head & 15, $"{path}/{field}", depth, expected, inList: false);
            }

            End(path);
        }

        /// <param name="kind">What the file says that it is.</param>
        /// <param name="path">Where it is.</param>
        /// <param name="depth">Structures and lists around it.</param>
        /// <param name="expected">What the format says; null where it has no such field.</param>
        /// <param name="inList">Whether it is an item.</param>
        private void Value(int kind, string path, int depth, string? expected, bool inList)
        {
            bool fits = kind switch
            {
                1 or 2 => expected is null or "b" && !inList,
                3 => expected is null or "y",
                4 or 5 or 6 => expected is null or "n",
                7 => expected is null or "d",
                8 => expected is null or "t",
                9 => expected is null || expected[0] == '[',
                12 => expected is null || Layouts.ContainsKey(expected),
                _ => false,
            };
            guard.Require(fits, "its head holds a value of another kind than the format says");
            switch (kind)
            {
                case 1 or 2: return; // a boolean lies in its head
                case 3: Byte(); return;
                case 4 or 5 or 6: Number(path, Signed()); return;
                case 7: Skip(8); return;
                case 8: Skip(Unsigned()); return;
                case 9: List(path, depth, expected?[1..]); return;
                default:
                    if (expected is null)
                    {
                        guard.Require(Byte() == 0, "its head holds a structure that the format does not know");
                    }
                    else
                    {
                        Struct(path, depth + 1, expected);
                    }

                    return;
            }
        }

        private void List(string path, int depth, string? expected)
        {
            guard.Require(depth <= Deepest, "its head is too deep");
            int head = Byte();
            ulong count = head >> 4 == 15 ? Unsigned() : (ulong)(head >> 4);
            Fits(count);
            for (ulong i = 0; i < count; i++)
            {
                Value(head & 15, path, depth + 1, expected, inList: true);
            }
        }

        private int Byte()
        {
            guard.Require(at < bytes.Length, "its head ends too early");
            return bytes[at++];
        }

        private long Signed()
        {
            ulong value = Unsigned();
            return (long)(value >> 1) ^ -(long)(value & 1);
        }

        private ulong Unsigned()
        {
            ulong value = 0;
            for (int shift = 0; shift < 64; shift += 7)
            {
                int b = Byte();
                value |= (ulong)(b & 127) << shift;
                if (b < 128)
                {
                    return value;
                }
            }

            guard.Require(false, "a number in its head is too long");
            return 0;
        }

        private void Skip(ulong count)
        {
            Fits(count);
            at += (int)count;
        }

        // Every item takes at least a byte.
        private void Fits(ulong count) => guard.Require(count <= (ulong)(bytes.Length - at), "a list or text in its head is longer than the head");
    }
}
