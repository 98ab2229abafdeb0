using System.Security.Cryptography;
using static TorchSharp.torch;

namespace Espalier.Runtime;

/// <summary>Tells tensors from others by their bytes.</summary>
internal static class TensorDigest
{
    /// <summary>The first 16 hexadecimal digits of the SHA-256 hash over the values, one tensor after the other; shapes do not count.</summary>
    /// <param name="values">Any tensors, of any type and on any device.</param>
    public static string Of(IEnumerable<Tensor> values)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (Tensor value in values)
        {
            using var scope = NewDisposeScope();
            hash.AppendData(value.detach().cpu().contiguous().bytes);
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset())[..16];
    }
}
