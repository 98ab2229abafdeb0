using System.Security.Cryptography;
using System.Text;
using Espalier.Checkpoints;
using Espalier.Models;
using static TorchSharp.torch;

namespace Espalier.Pruning;

/// <summary>What has to be the same for unfinished work to be continued: the plan, the texts and the checkpoint, part by part.</summary>
internal static class Fingerprint
{
    private const long SampledBytes = 4096;

    public static IReadOnlyList<(string Part, string Value)> Of(PruningJob job, Checkpoint checkpoint) =>
    [
        .. job.Plan.Describe(),
        ("calibration text", Windows(job.Calibration)),
        ("checkpoint", Of(job.Folder, checkpoint)),
    ];

    /// <summary>A hash over the content of token windows.</summary>
    public static string Windows(long[][] windows)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (long[] window in windows)
        {
            hash.AppendData(System.Runtime.InteropServices.MemoryMarshal.AsBytes<long>(window));
        }

        return $"{windows.Length} windows, {Convert.ToHexStringLower(hash.GetHashAndReset())[..16]}";
    }

    /// <summary>A hash over the configuration, the names, types and shapes of all tensors, and the content of the small ones (every norm and bias).</summary>
    /// <remarks>Reading every byte of a large checkpoint would take longer than pruning a block.</remarks>
    public static string Of(string folder, Checkpoint checkpoint)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(File.ReadAllBytes(Path.Combine(folder, ModelConfig.FileName)));
        foreach (string name in checkpoint.Names)
        {
            TensorInfo info = checkpoint.Info(name);
            hash.AppendData(Encoding.UTF8.GetBytes($"{name} {info.ElementType} [{string.Join(',', info.Shape)}]\n"));
            if (info.ByteCount is > 0 and <= SampledBytes)
            {
                using Tensor small = checkpoint.Read(name);
                hash.AppendData(small.bytes);
            }
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset())[..16];
    }
}
