using System.Buffers.Binary;
using System.IO.Compression;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>An array of bytes in the idx format of MNIST, plain or gzipped.</summary>
public sealed class IdxFile
{
    private const byte UnsignedByte = 0x08;
    private const double MostUnpacked = 2e9;

    private IdxFile(string path, IReadOnlyList<int> shape, byte[] values)
    {
        Path = path;
        Shape = shape;
        Values = values;
    }

    /// <summary>The file.</summary>
    public string Path { get; }

    /// <summary>The sizes: [count] for labels, [count, height, width] for images.</summary>
    public IReadOnlyList<int> Shape { get; }

    /// <summary>All values, the last dimension fastest.</summary>
    public ReadOnlyMemory<byte> Values { get; }

    /// <summary>Reads a file whole.</summary>
    /// <exception cref="EspalierException">When it is missing, damaged, or holds other values than bytes.</exception>
    public static IdxFile Read(string path)
    {
        EspalierException.Require(File.Exists(path), $"There is no file \"{path}\".");
        byte[] content = Content(path);
        EspalierException.Require(content.Length >= 4 && content[0] == 0 && content[1] == 0, $"\"{path}\" is no idx file: it does not begin with two zero bytes.");
        EspalierException.Require(content[2] == UnsignedByte, $"\"{path}\" holds values of type 0x{content[2]:X2}; only unsigned bytes (0x08) are supported.");
        int dimensions = content[3], head = 4 + (4 * dimensions);
        EspalierException.Require(dimensions > 0 && content.Length >= head, $"\"{path}\" ends within its head: fetch it again.");
        int[] shape = [.. Enumerable.Range(0, dimensions).Select(i => BinaryPrimitives.ReadInt32BigEndian(content.AsSpan(4 + (4 * i))))];
        // In doubles, as damaged sizes may multiply past any integer.
        bool fits = shape.All(s => s >= 0) && shape.Aggregate(1.0, (product, size) => product * size) == content.Length - head;
        EspalierException.Require(fits, $"\"{path}\" says that its sizes are {string.Join(" x ", shape)}, but has {content.Length - head} values: it is damaged; fetch it again.");
        return new IdxFile(path, shape, content[head..]);
    }

    private static byte[] Content(string path)
    {
        byte[] content = File.ReadAllBytes(path);
        if (content is not [0x1F, 0x8B, ..])
        {
            return content;
        }

        try
        {
            // Some kilobytes can unpack to gigabytes: no more is taken than the sizes at the front need, and one byte that shows that there was more.
            using var zip = new GZipStream(new MemoryStream(content), CompressionMode.Decompress);
            byte[] start = Take(zip, 4);
            byte[] head = [.. start, .. Take(zip, start.Length < 4 ? 0 : 4 * start[3])];
            double values = 1;
            for (int at = 4; at + 4 <= head.Length; at += 4)
            {
                values *= Math.Max(0, BinaryPrimitives.ReadInt32BigEndian(head.AsSpan(at)));
            }

            EspalierException.Require(values <= MostUnpacked && values <= content.Length * 1100.0, $"\"{path}\" claims {values:g3} values, more than its {content.Length} packed bytes can hold: it is damaged; fetch it again.");
            return [.. head, .. Take(zip, (int)values + 1)];
        }
        catch (InvalidDataException fault)
        {
            throw new EspalierException($"\"{path}\" is a damaged gzip file: fetch it again.", fault);
        }
    }

    private static byte[] Take(Stream stream, int count)
    {
        byte[] bytes = new byte[count];
        return bytes[..stream.ReadAtLeast(bytes, count, throwOnEndOfStream: false)];
    }
}
