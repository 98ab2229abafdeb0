using System.Buffers.Binary;
using System.Text;

namespace Espalier.Tests.Checkpoints;

/// <summary>Safetensors files put together by hand, sound or not.</summary>
internal static class RawSafeTensors
{
    /// <summary>A file of a header as it stands and data.</summary>
    public static byte[] Build(string header, int dataBytes) => Build(Encoding.UTF8.GetBytes(header), dataBytes);

    /// <summary>A file of header bytes as they stand and data.</summary>
    public static byte[] Build(byte[] header, int dataBytes, long? claimedLength = null)
    {
        byte[] file = new byte[8 + header.Length + dataBytes];
        BinaryPrimitives.WriteInt64LittleEndian(file, claimedLength ?? header.Length);
        header.CopyTo(file, 8);
        for (int i = 0; i < dataBytes; i++)
        {
            file[8 + header.Length + i] = (byte)(i + 1);
        }

        return file;
    }
}
