using System.Buffers.Binary;
using System.IO.Compression;
using Espalier.Runtime;

namespace Espalier.Data;

/// <summary>A volume of a NIfTI-1 file (.nii, .nii.gz): scans of the body.</summary>
/// <param name="Width">Voxels along x, which lie next to each other.</param>
/// <param name="Height">Voxels along y.</param>
/// <param name="Depth">Voxels along z: the slices.</param>
/// <param name="Values">x fastest, then y, then z; scaled as the header says.</param>
public sealed record NiftiVolume(int Width, int Height, int Depth, IReadOnlyList<float> Values)
{
    private const int HeaderBytes = 348;
    private const long MostVoxels = 1L << 28;

    /// <summary>Reads a file.</summary>
    /// <exception cref="EspalierException">When it is missing, damaged, or of a kind of voxel that is not read (whole numbers of 8 or 16 bits, float32).</exception>
    public static NiftiVolume Open(string path)
    {
        EspalierException.Require(File.Exists(path), $"There is no file {path}.");
        byte[] bytes;
        try
        {
            using FileStream file = File.OpenRead(path);
            using Stream plain = path.EndsWith(".gz", StringComparison.OrdinalIgnoreCase) ? new GZipStream(file, CompressionMode.Decompress) : file;
            using var memory = new MemoryStream();
            plain.CopyTo(memory);
            bytes = memory.ToArray();
        }
        catch (InvalidDataException fault)
        {
            throw new EspalierException($"{path} is no gzip file, or a damaged one; get it again.", fault);
        }

        EspalierException.Require(bytes.Length >= HeaderBytes && BinaryPrimitives.ReadInt32LittleEndian(bytes) == HeaderBytes, $"{path} is no NIfTI-1 file in little-endian order.");
        ReadOnlySpan<byte> header = bytes.AsSpan(0, HeaderBytes);
        int width = Short(header, 42), height = Short(header, 44), depth = Math.Max((int)Short(header, 46), 1), type = Short(header, 70), start = (int)BinaryPrimitives.ReadSingleLittleEndian(header[108..]);
        float slope = BinaryPrimitives.ReadSingleLittleEndian(header[112..]), shift = BinaryPrimitives.ReadSingleLittleEndian(header[116..]);
        int size = type switch { 2 => 1, 4 or 512 => 2, 16 => 4, _ => throw new EspalierException($"{path} holds voxels of kind {type}; 8- and 16-bit whole numbers and float32 are read.") };
        long count = (long)width * height * depth;
        EspalierException.Require(width > 0 && height > 0 && count <= MostVoxels && start >= HeaderBytes && bytes.Length - (long)start >= count * size,
            $"{path} is damaged: it says {width} × {height} × {depth} voxels, and {Math.Max(0, bytes.Length - (long)start)} bytes follow.");
        var values = new float[count];
        for (int i = 0; i < values.Length; i++)
        {
            ReadOnlySpan<byte> voxel = bytes.AsSpan(start + (i * size));
            float raw = type switch
            {
                2 => voxel[0],
                4 => BinaryPrimitives.ReadInt16LittleEndian(voxel),
                512 => BinaryPrimitives.ReadUInt16LittleEndian(voxel),
                _ => BinaryPrimitives.ReadSingleLittleEndian(voxel),
            };
            values[i] = slope == 0 || !float.IsFinite(slope) ? raw : (raw * slope) + shift;
        }

        return new NiftiVolume(width, height, depth, values);
    }

    /// <summary>One axial slice, row by row (y, then x).</summary>
    /// <param name="z">Which, from 0.</param>
    public IReadOnlyList<float> Slice(int z) => [.. Values.Skip(z * Width * Height).Take(Width * Height)];

    private static short Short(ReadOnlySpan<byte> header, int at) => BinaryPrimitives.ReadInt16LittleEndian(header[at..]);
}
