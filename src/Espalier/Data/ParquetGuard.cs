using System.Buffers.Binary;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>
/// Looks over a parquet file before a reader believes it: no list longer than the bytes that hold it, no schema deep enough to end the stack,
/// no page outside the file, none that claims to unpack to far more than it holds, no column of more values than the file's size justifies.
/// </summary>
/// <remarks>The structures are Thrift's compact protocol; the numbers of fields are those of Apache Parquet's parquet.thrift.</remarks>
internal sealed class ParquetGuard
{
    private const int LongestFooter = 256 << 20, Deepest = 64;
    private const long FreeValues = 1 << 20, ValuesPerByte = 256, FreePage = 8 << 20, PagePerByte = 256;

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
        new ThriftWalk(this, At(stream.Length - 8 - length, (int)length)) { Number = FooterNumber, End = FooterEnd }.Struct("", 0);
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
            walk.Struct("", 0);
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

        public void Struct(string path, int depth)
        {
            guard.Require(depth <= Deepest, "its head is too deep");
            long field = 0;
            while (Byte() is var head && head != 0)
            {
                field = head >> 4 == 0 ? Signed() : field + (head >> 4);
                Value(head & 15, $"{path}/{field}", depth, inList: false);
            }

            End(path);
        }

        private void Value(int kind, string path, int depth, bool inList)
        {
            switch (kind)
            {
                case 1 or 2 when !inList: return; // a boolean lies in its head
                case 1 or 2 or 3: Byte(); return;
                case 4 or 5 or 6: Number(path, Signed()); return;
                case 7: Skip(8); return;
                case 8: Skip(Unsigned()); return;
                case 9 or 10: List(path, depth); return;
                case 11: Map(path, depth); return;
                case 12: Struct(path, depth + 1); return;
                default: guard.Require(false, "its head holds values of an unknown kind"); return;
            }
        }

        private void List(string path, int depth)
        {
            guard.Require(depth <= Deepest, "its head is too deep");
            int head = Byte();
            ulong count = head >> 4 == 15 ? Unsigned() : (ulong)(head >> 4);
            Fits(count);
            for (ulong i = 0; i < count; i++)
            {
                Value(head & 15, path, depth + 1, inList: true);
            }
        }

        private void Map(string path, int depth)
        {
            guard.Require(depth <= Deepest, "its head is too deep");
            ulong count = Unsigned();
            Fits(count);
            int kinds = count > 0 ? Byte() : 0;
            for (ulong i = 0; i < count; i++)
            {
                Value(kinds >> 4, path + "k", depth + 1, inList: true);
                Value(kinds & 15, path + "v", depth + 1, inList: true);
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
