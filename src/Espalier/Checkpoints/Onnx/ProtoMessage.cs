using System.Text;
using Espalier.Runtime;
using Google.Protobuf;

namespace Espalier.Checkpoints.Onnx;

/// <summary>A protobuf message being written, field by field.</summary>
internal sealed class ProtoMessage
{
    private readonly MemoryStream bytes = new();
    private readonly CodedOutputStream output;

    public ProtoMessage()
    {
        output = new CodedOutputStream(bytes, leaveOpen: true);
    }

    public ProtoMessage Number(int field, long value)
    {
        output.WriteTag(field, WireFormat.WireType.Varint);
        output.WriteInt64(value);
        return this;
    }

    public ProtoMessage Real(int field, float value)
    {
        output.WriteTag(field, WireFormat.WireType.Fixed32);
        output.WriteFloat(value);
        return this;
    }

    public ProtoMessage Text(int field, string value)
    {
        output.WriteTag(field, WireFormat.WireType.LengthDelimited);
        output.WriteString(value);
        return this;
    }

    public ProtoMessage Message(int field, ProtoMessage inner)
    {
        output.WriteTag(field, WireFormat.WireType.LengthDelimited);
        output.WriteBytes(ByteString.CopyFrom(inner.ToArray()));
        return this;
    }

    /// <summary>Only the beginning of a field: its number and the length of what the caller writes behind it.</summary>
    public ProtoMessage Begin(int field, long length)
    {
        output.WriteTag(field, WireFormat.WireType.LengthDelimited);
        output.WriteUInt64((ulong)length);
        return this;
    }

    public byte[] ToArray()
    {
        output.Flush();
        return bytes.ToArray();
    }
}

/// <summary>A protobuf message being read from a file, without taking long fields into memory.</summary>
internal sealed class ProtoCursor(string path, Stream stream, long end)
{
    /// <summary>The number and wire type of the next field; false at the message's end.</summary>
    public bool Next(out int field, out int wire)
    {
        (field, wire) = (0, 0);
        if (stream.Position >= end)
        {
            return false;
        }

        ulong tag = (ulong)Number();
        (field, wire) = ((int)(tag >> 3), (int)(tag & 7));
        Require(field > 0, "a field has no number");
        return true;
    }

    public long Number()
    {
        ulong value = 0;
        for (int shift = 0; shift < 64; shift += 7)
        {
            int b = stream.Position < end ? stream.ReadByte() : -1;
            Require(b >= 0, "it ends in the middle of a number");
            value |= (ulong)(b & 0x7f) << shift;
            if (b < 0x80)
            {
                return (long)value;
            }
        }

        throw Fault("a number is longer than ten bytes");
    }

    public float Real() => BitConverter.ToSingle(Take(4));

    public string Text() => Encoding.UTF8.GetString(Take(Length()));

    /// <summary>The message that begins here; it has to be read to its end.</summary>
    public ProtoCursor Message()
    {
        long length = Length();
        return new ProtoCursor(path, stream, stream.Position + length);
    }

    /// <summary>Passes over a field of bytes and says where they lie.</summary>
    public (long Offset, long Length) Pass()
    {
        long length = Length(), offset = stream.Position;
        stream.Position = offset + length;
        return (offset, length);
    }

    /// <summary>Passes over a field that nobody asked for.</summary>
    public void Skip(int wire)
    {
        switch (wire)
        {
            case 0:
                Number();
                break;
            case 1:
                Take(8);
                break;
            case 2:
                Pass();
                break;
            case 5:
                Take(4);
                break;
            default:
                throw Fault($"a field is of the unknown kind {wire}");
        }
    }

    public void Require(bool holds, string what)
    {
        if (!holds)
        {
            throw Fault(what);
        }
    }

    private long Length()
    {
        long length = Number();
        Require(length >= 0 && length <= end - stream.Position, "a field is longer than the message that it stands in");
        return length;
    }

    private byte[] Take(long count)
    {
        Require(count <= end - stream.Position, "it ends too early");
        byte[] taken = new byte[count];
        stream.ReadExactly(taken);
        return taken;
    }

    private EspalierException Fault(string what) => new($"{path} is no sound ONNX file: {what}. Export or download it again.");
}
